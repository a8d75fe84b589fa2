"""Keeps files that are chosen by age and name below named folders, before a clean-up removes them.

It chooses by the same rules as the actions disk.clean_logs (`kind: logs`) and disk.clean_temp (`kind: temp`), so
that the same parameters mean the same files. Leaves to others: removing them.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, Final

from fireline_agent.capture.collector import ArtifactWriter, Context, OutputLimit, Sink, text
from fireline_agent.capture.packing import Archive, Counts, Wanted, packed
from fireline_agent.capture.params import flag, number, refuse_unknown
from fireline_agent.hands import holders, quiet, selection, tree
from fireline_agent.hands.chosen import Look, Picked, Rules, Selected
from fireline_agent.hands.tree import Folder

VERSION: Final = "1"

_KNOWN: Final = ("kind", "roots", "patterns", "older_than", "time", "content", "whole_bytes")
_PATTERNS: Final = {"logs": ["*.log", "*.log.*", "*.log-*"], "temp": ["*"]}
_DAYS: Final = {"logs": 7, "temp": 10}
_DAY_S: Final = 86400
_MAX_AGE_S: Final = 1e9
_WHOLE_BYTES: Final = 64 << 20
_END_BYTES: Final = 1 << 20  # of each end of a file that is too large to be kept whole


@dataclass(frozen=True)
class _Wish:
    roots: tuple[str, ...]
    rules: Rules
    has_content: bool
    whole_bytes: int


def collect(context: Context, sink: Sink) -> None:
    """Write `files/selected.jsonl`, and what the files hold as `files/selected.tar` (pax).

    Parameters: `roots`: the folders; `kind`: `logs` or `temp`; `patterns`, `older_than` (seconds) and `time` as
    the action has them; `content`: false for names and hashes alone; `whole_bytes`: of a larger file the first and last
    MiB are kept, beside the hash of all of it. What the capture may write is shared fairly among the files: the list
    has the hash of all of each, the archive as much of it as fits, its first and its last part.

    Raises:
        ValueError: a parameter is unknown or out of range.
    """
    wish = _wished(context)
    look = Look(holders.held(context.roots.proc), tree.mount_points(context.roots.proc))
    wanted = Wanted(wish.whole_bytes, _END_BYTES)
    with sink.artifact("files/selected.jsonl", source=", ".join(wish.roots), method="filesystem") as out:
        listing = _Listing(out)
        for root in wish.roots:
            _list(listing, root, wish, look, wanted)
    if wish.has_content:
        _pack(sink, wish, look, wanted, context.output_bytes - listing.size)


@dataclass
class _Listing:
    """The list while it is written: what it takes is not there for the archive."""

    out: ArtifactWriter
    size: int = 0

    def record(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        self.size += len(line)
        self.out.write(line)


def _wished(context: Context) -> _Wish:
    params = context.params
    refuse_unknown(params, *_KNOWN)
    kind = params.get("kind", "logs")
    if kind not in _PATTERNS:
        raise ValueError(f"collector parameter 'kind': wanted logs or temp, found {kind!r}")
    which = params.get("time", "newest" if kind == "temp" else "mtime")
    if which not in ("newest", "mtime"):
        raise ValueError(f"collector parameter 'time': wanted newest or mtime, found {which!r}")
    roots, patterns = _texts(params, "roots", []), _texts(params, "patterns", _PATTERNS[kind])
    if not roots or not all(root.startswith("/") for root in roots):
        raise ValueError(f"collector parameter 'roots': wanted absolute paths, at least one, found {roots!r}")
    age = 0.0
    if params.get("older_than") != 0:  # every age
        age = number(params, "older_than", default=_DAYS[kind] * _DAY_S, highest=_MAX_AGE_S)
    rules = Rules(tuple(patterns), selection.before_ns(int(age), time.time()), which == "newest", kind == "temp")
    whole = number(params, "whole_bytes", default=_WHOLE_BYTES, highest=1 << 40)
    return _Wish(tuple(roots), rules, flag(params, "content", default=True), int(whole))


def _texts(params: Any, name: str, default: list[str]) -> list[str]:
    value = params.get(name, default)
    if (
        not isinstance(value, list | tuple)
        or (name == "patterns" and not value)
        or not all(isinstance(item, str) and item for item in value)
    ):
        raise ValueError(f"collector parameter {name!r}: wanted a list of texts, found {value!r}")
    return list(value)


def _list(out: _Listing, root: str, wish: _Wish, look: Look, wanted: Wanted) -> None:
    try:
        with tree.opened(root) as top:
            selected = selection.select(top, wish.rules, look)
            for one in _each(top, selected, wish.rules, look):
                record = _record(top, one)
                out.record(record)
                wanted.add(_path(one), record.get("size_bytes", 0))
            for path, why in selected.spared.items():
                out.record({**text("path", os.fsencode(path)), "left_alone": why})
    except tree.NoFolder as error:
        out.record({**text("path", os.fsencode(str(error.filename))), "lacks": str(error.strerror)})


def _each(top: Folder, selected: Selected, rules: Rules, look: Look) -> Iterator[Picked]:
    """The chosen files one by one; of a million, one batch at a time is in memory."""
    for batch in selected.batches:
        with suppress(tree.NoFolder), tree.opened_below(top, batch.path[len(top.path.rstrip("/")) + 1 :]) as folder:
            yield from (one for one in selection.pick(folder, batch, rules, look)[1] if not one.is_folder)


def _path(one: Picked) -> str:
    return f"{one.folder.rstrip('/')}/{one.name}"


def _record(top: Folder, one: Picked) -> dict[str, Any]:
    record = {**text("path", os.fsencode(_path(one))), "held_open": one.is_held}
    try:
        with _opened(top, one) as file:
            found = os.fstat(file.fileno())
            return record | _about(found) | {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        return record | {"lacks": error.strerror or str(error)}


def _about(found: os.stat_result) -> dict[str, Any]:
    return {
        "size_bytes": found.st_size,
        "mode": f"{found.st_mode:o}",
        "uid": found.st_uid,
        "gid": found.st_gid,
        "links": found.st_nlink,
        "inode": found.st_ino,
        "atime_ns": found.st_atime_ns,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
    }


def _opened(top: Folder, one: Picked) -> BufferedReader:
    """The file that was chosen.

    Raises:
        OSError: it is not that file any more, is no plain file, or refuses.
    """
    with tree.opened_below(top, one.folder[len(top.path.rstrip("/")) + 1 :]) as folder:
        return BufferedReader(quiet.opened(folder.fd, one.name, one.identity))


def _pack(sink: Sink, wish: _Wish, look: Look, wanted: Wanted, room: int) -> None:
    source = ", ".join(wish.roots)
    with sink.artifact("files/selected.tar", source=source, method="filesystem") as out:
        counts = Counts()
        try:
            with packed(out, wanted, room, counts) as archive:
                for root in wish.roots:
                    _pack_root(archive, root, wish, look)
        except OutputLimit as error:  # the list is whole, and so is all that fitted
            _say_part(sink, source, f"content kept only as far as there was space: {error}")
        out.facts |= vars(counts)
    if counts.in_part or counts.left_out:
        _say_part(
            sink,
            source,
            f"content of {counts.in_part} files kept in part, of {counts.left_out} not at all, of {counts.whole} whole;"
            " the hash of every file is in files/selected.jsonl",
        )


def _say_part(sink: Sink, source: str, summary: str) -> None:
    sink.finding("notice", "content-kept-in-part", source, summary)


def _pack_root(archive: Archive, root: str, wish: _Wish, look: Look) -> None:
    with suppress(tree.NoFolder), tree.opened(root) as top:
        for one in _each(top, selection.select(top, wish.rules, look), wish.rules, look):
            try:
                file = _opened(top, one)
            except OSError:  # it went meanwhile: the list has its hash
                continue
            with file:
                archive.add(_path(one), file)
