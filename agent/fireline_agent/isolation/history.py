"""What was done with the isolations of this host, and what of it goes into evidence: files beside their records.

None of it decides anything: where the disk is full a line is lost, and logged, and the deed is done. Leaves to others:
the records themselves (records), sealing it (the collector `isolation`).
"""

import json
import logging
import os
import secrets
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from fireline_agent.isolation.model import Cut
from fireline_wire import durable

log = logging.getLogger(__name__)

_MAX_HISTORY_BYTES: Final = 1 << 20
_KEPT_LINES: Final = 1000
_KEPT_FILES: Final = 60  # of isolations that ended: rulesets and cut connections


class History:
    """The files of one folder. Changed with the records' lock held."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def note(self, order_id: str, what: str, *, at: str, **more: Any) -> None:
        """Add a line to the history. A full disk loses the line, not the deed."""
        entry = {"id": secrets.token_hex(4), "at": at, "order_id": order_id, "what": what, **more}
        line = json.dumps(entry).encode() + b"\n"
        path = self._folder / "history.jsonl"
        try:
            if path.exists() and path.stat().st_size > _MAX_HISTORY_BYTES:
                durable.replace(path, b"".join(path.read_bytes().splitlines(keepends=True)[-_KEPT_LINES:]))
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            log.warning("history of isolations could not be written", extra={"path": str(path), "why": str(error)})

    def entries(self) -> list[Mapping[str, Any]]:
        """What was noted, the oldest first; a torn line is left out."""
        found = []
        with suppress(OSError):
            for line in (self._folder / "history.jsonl").read_bytes().splitlines():
                with suppress(ValueError):
                    found.append(json.loads(line))
        return [entry for entry in found if isinstance(entry, dict)]

    def unreported(self, wanted: Collection[str]) -> list[Mapping[str, Any]]:
        """What was noted of these kinds since this was asked last, by whichever process."""
        entries, path = self.entries(), self._folder / "reported"
        last = path.read_text() if path.exists() else ""
        known = next((n for n, entry in enumerate(entries) if entry.get("id") == last), -1)
        fresh = [entry for entry in entries[known + 1 :] if entry.get("what") in wanted]
        if fresh:
            with suppress(OSError):  # told twice is better than never
                durable.replace(path, str(fresh[-1].get("id")).encode())
        return fresh

    def keep_ruleset(self, name: str, when: str, text: str) -> None:
        """Keep a ruleset as evidence; `when` is `before` or `during`. A full disk loses it."""
        try:
            durable.replace((self._folder / f"{name}.{when}"), text.encode())
        except OSError as error:
            log.warning("ruleset could not be kept", extra={"table": name, "why": str(error)})

    def ruleset(self, name: str, when: str) -> str | None:
        """A kept ruleset, or None."""
        try:
            return (self._folder / f"{name}.{when}").read_text()
        except OSError:
            return None

    def keep_cut(self, name: str, cut: Sequence[Cut]) -> None:
        """Keep who was cut off, for evidence; what an earlier Arm of the order cut stays. A full disk loses it."""
        try:
            with (self._folder / f"{name}.cut").open("ab") as file:
                file.writelines(json.dumps(asdict(one)).encode() + b"\n" for one in cut)
        except OSError as error:
            log.warning("cut connections could not be kept", extra={"table": name, "why": str(error)})

    def prune(self, living: Collection[str]) -> None:
        """Remove what is left of isolations that ended long ago; these names live."""
        old = [p for p in self._folder.glob("fireline_*.*") if p.suffix != ".json" and p.stem not in living]
        for path in sorted(old, key=lambda p: p.stat().st_mtime)[:-_KEPT_FILES]:
            path.unlink(missing_ok=True)
