"""Where the records of all applications lie on this host: made, found, expired. Small, for an agent at rest.

What a record holds is read by `record`, which is imported only once there is something to read.
"""

import errno
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from fireline_agent.remediation.order import Order, key
from fireline_wire import durable

log = logging.getLogger(__name__)

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_SET_ASIDE_BYTES: Final = 256 << 10  # for the records of some dozen applications on a full disk
_SPARE: Final = "spare"
_BLOCK_BYTES: Final = 1 << 16
# The words with which the last line of a record begins whose application has ended; it may be taken back after that.
_LAST: Final = (b'{"event":"ended"', b'{"event":"undone"')


class Records:
    """All records of this host, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._set_aside()

    def create(self, order: Order) -> Path:
        """Make the folder of an order, durably; what is set aside is used where the disk is full.

        Raises:
            OSError: it can't be made.
        """
        try:
            return self._create(order)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
        (self.folder / _SPARE).unlink(missing_ok=True)
        return self._create(order)

    def find(self, request_id: str) -> Path | None:
        """The folder of a request id."""
        folder = self.folder / key(request_id)
        return folder if (folder / "order.json").exists() else None

    def unfinished(self) -> Iterator[Path]:
        """Folders without an end; one that a crash left without an order is removed, since nothing was done."""
        for folder in sorted(path for path in self.folder.iterdir() if path.is_dir()):
            if not (folder / "order.json").exists():
                shutil.rmtree(folder, ignore_errors=True)
            elif not _last_line(folder / "record").startswith(_LAST):
                yield folder

    def expire(self, *, older_than_s: float) -> int:
        """Delete ended records that are older; what was put aside for their undo stays."""
        limit, count = time.time() - older_than_s, 0
        for folder in self.folder.iterdir():
            with suppress(OSError):
                if folder.is_dir() and max(p.stat().st_mtime for p in (folder, folder / "record")) < limit:
                    shutil.rmtree(folder)
                    count += 1
        self._set_aside()
        return count

    def _create(self, order: Order) -> Path:
        folder = self.folder / key(order.request_id)
        folder.mkdir(mode=0o700, exist_ok=True)
        durable.replace(folder / "order.json", order.to_json())
        durable.sync_folder(self.folder)
        return folder

    def _set_aside(self) -> None:
        spare = self.folder / _SPARE
        if spare.exists():
            return
        try:
            spare.write_bytes(os.urandom(_SET_ASIDE_BYTES))  # random: no disk stores it as a hole
        except OSError as error:
            spare.unlink(missing_ok=True)
            log.warning("no bytes are set aside for records", extra={"path": str(spare), "why": str(error)})


def order_of(folder: Path) -> Order:
    """What was ordered.

    Raises:
        OSError, ValueError: the folder holds no order.
    """
    return Order.from_json((folder / "order.json").read_bytes())


def closed(folder: Path, status: str, detail: str, refusal: str = "") -> Mapping[str, Any]:
    """The end that stands on record; where there is none, this one is put there by what was done.

    A record that can't be read or written any more takes nothing else down with it: the end says so.
    """
    from fireline_agent.remediation.record import close_cut_short  # noqa: PLC0415 -- late: see the module

    try:
        return close_cut_short(folder, status, detail, refusal)
    except (OSError, ValueError, KeyError, TypeError):
        log.exception("the record of an action can't be read or written", extra={"folder": str(folder)})
        unknown = f"{detail}; its record {folder} can't be read or written, so what was done is not known"
        return {"status": status, "detail": unknown, "in_doubt": ["everything that was planned"], "refusal": refusal}


def _last_line(path: Path) -> bytes:
    """The last whole line of a file, read from its end."""
    tail = b""
    with suppress(FileNotFoundError), path.open("rb") as file:
        place = file.seek(0, os.SEEK_END)
        while place > 0 and tail[: tail.rfind(b"\n")].count(b"\n") < 1:
            start = max(0, place - _BLOCK_BYTES)
            file.seek(start)
            tail, place = file.read(place - start) + tail, start
    whole = tail[: tail.rfind(b"\n")]
    return whole[whole.rfind(b"\n") + 1 :]
