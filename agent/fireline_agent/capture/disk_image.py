"""Collects the raw image of a block device or a file, as it is while the host runs: in segments, without its zeros.

Each segment is an artifact of its own, `disk/OFFSET.img`, and holds the chunks that are not all zeros one after the
other; its facts say where each run of them belongs, and its hash over the range with the zeros in it. So every segment
that was ended is whole whatever happens afterwards: after a crash, a deadline or a full spool the next capture goes on
at the first one that lacks, by `offset_bytes`. `fireline_wire.image` puts the segments together again.

A running host writes to its disk meanwhile: the image is of no single moment, and says so.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from fireline_agent.capture.collector import Context, Sink
from fireline_agent.capture.params import number, refuse_unknown
from fireline_agent.hands import procfs
from fireline_agent.hands.disk import Source
from fireline_wire.image import CHUNK_BYTES, FORMAT, segment_name

VERSION = "1"

_SEGMENT_BYTES: Final = 64 << 20
_MAX_SEGMENTS: Final = 4000  # of one capture, well below the artifacts that a manifest takes
_MAX_SEGMENT_BYTES: Final = 1 << 30  # the facts of a segment have a bound: a run for every second chunk fits
_RATE: Final = float(64 << 20)
_HIGHEST: Final = float(1 << 50)
_ZEROS: Final = bytes(CHUNK_BYTES)
_OVERHEAD_BYTES: Final = 1 << 20  # for the index, beside the segments


@dataclass(frozen=True)
class _Range:
    """What is imaged, in bytes of the source."""

    start: int
    end: int
    segment_bytes: int

    def segments(self) -> Iterator[tuple[int, int]]:
        """Start and end of each segment."""
        for start in range(self.start, self.end, self.segment_bytes):
            yield start, min(start + self.segment_bytes, self.end)


@dataclass
class _Pace:
    """Holds reading down to so many bytes a second."""

    bytes_per_second: float
    started: float = field(default_factory=time.monotonic)
    done: int = 0

    def take(self, length: int) -> None:
        """So much was read: wait until it may have been."""
        self.done += length
        ahead_s = self.done / self.bytes_per_second - (time.monotonic() - self.started)
        if ahead_s > 0:
            time.sleep(ahead_s)


def collect(context: Context, sink: Sink) -> None:
    """Write `disk/source.json`, the segments, and `disk/image.json` at the end; see the module.

    Parameters: `source` (the device or file; needed), `offset_bytes` (0), `length_bytes` (up to the end),
    `bytes_per_second` (64 MiB: reading is held down to it).

    Raises:
        ValueError: a parameter is unknown or wrong, or the image fits neither into what may be written nor into the
            time; the message says what would.
        OSError: the source can't be opened.
    """
    refuse_unknown(context.params, "source", "offset_bytes", "length_bytes", "bytes_per_second")
    rate = number(context.params, "bytes_per_second", default=_RATE, highest=_HIGHEST)
    with Source.open(_wanted_source(context), sys=context.roots.sys) as source:
        wanted = _range(context, source)
        _require_room(context, source, wanted, rate)
        _write_source(context, sink, source, wanted)
        whole, segments = hashlib.sha256(), []
        pace = _Pace(rate)
        for start, end in wanted.segments():
            segments.append(_write_segment(sink, source, start, end, whole=whole, pace=pace))
        _write_index(sink, source, wanted, segments, sha256=whole.hexdigest())


def _wanted_source(context: Context) -> str:
    path = context.params.get("source")
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise ValueError(f"collector parameter 'source': wanted the path of a block device or a file, found {path!r}")
    return str(context.roots.root / path.lstrip("/"))


def _range(context: Context, source: Source) -> _Range:
    start = _whole(context, "offset_bytes", 0)
    length = _whole(context, "length_bytes", max(0, source.size - start))
    if start % CHUNK_BYTES or start > source.size:
        raise ValueError(
            f"collector parameter 'offset_bytes': wanted a multiple of {CHUNK_BYTES} up to {source.size}, found {start}"
        )
    end = min(start + length, source.size)
    # From one capture to the next the cuts are the same, whatever the range.
    size = _SEGMENT_BYTES
    while -(-source.size // size) > _MAX_SEGMENTS and size < _MAX_SEGMENT_BYTES:
        size *= 2
    return _Range(start, end, size)


def _whole(context: Context, name: str, default: int) -> int:
    value = context.params.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _HIGHEST:
        raise ValueError(f"collector parameter {name!r}: wanted a whole number of bytes, found {value!r}")
    return value


def _require_room(context: Context, source: Source, wanted: _Range, rate: float) -> None:
    """Refuse before the first byte what can't end: the spool of a host is smaller than its disks."""
    data = _kept_at_most(source, wanted)
    room = max(0, context.output_bytes - _OVERHEAD_BYTES) // CHUNK_BYTES * CHUNK_BYTES
    in_time = int(rate * context.deadline_s * 0.9) // CHUNK_BYTES * CHUNK_BYTES
    if data > (part := min(room, in_time)):
        raise ValueError(
            f"{source.path}: {data} bytes of data from {wanted.start} to {wanted.end}, but this capture may write "
            f"{room} bytes and read {in_time} in its {context.deadline_s:g} s at {rate:.0f} bytes a second; take "
            f"parts: length_bytes={part} with offset_bytes={wanted.start}, then {wanted.start + part}, …; or raise "
            "collector_output_bytes, collector_deadline_s and spool_limit_bytes in the host's agent.toml"
        )


def _kept_at_most(source: Source, wanted: _Range) -> int:
    """The bytes of all chunks that hold data; those of them that are all zeros will cost nothing."""
    total, at = 0, wanted.start
    for first, last in source.extents(wanted.start, wanted.end):
        first = max(at, first // CHUNK_BYTES * CHUNK_BYTES)
        at = max(at, min(-(-last // CHUNK_BYTES) * CHUNK_BYTES, wanted.end))
        total += max(0, at - first)
    return total


def _write_source(context: Context, sink: Sink, source: Source, wanted: _Range) -> None:
    mounts = procfs.mounts(procfs.read(context.roots.proc / "self/mountinfo") or b"")
    on = [m.point.decode(errors="backslashreplace") for m in mounts if m.device == source.identity["device"]]
    document = {
        "format": FORMAT,
        "source": source.path,
        "is_device": source.is_device,
        "size_bytes": source.size,
        "offset_bytes": wanted.start,
        "end_bytes": wanted.end,
        "segment_bytes": wanted.segment_bytes,
        "chunk_bytes": CHUNK_BYTES,
        "taken_live": True,
        "mounted_on": on[:100] if source.is_device else [],
        "identity": source.identity,
        "started_ns": time.time_ns(),
    }
    with sink.artifact("disk/source.json", source=source.path, method="fstat") as out:
        out.facts["taken_live"] = True
        out.write(json.dumps(document, indent=1).encode())


def _write_segment(sink: Sink, source: Source, start: int, end: int, *, whole: Any, pace: _Pace) -> dict[str, Any]:
    """One segment; returns its line of the index."""
    digest, runs, kept = hashlib.sha256(), list[list[int]](), 0
    name = segment_name(start)
    with sink.artifact(name, source=source.path, method="pread") as out:
        for offset, data in _chunks(source, start, end, pace):
            digest.update(data)
            whole.update(data)
            if data == _ZEROS[: len(data)]:
                continue
            out.write(data)
            kept += len(data)
            if runs and sum(runs[-1]) == offset:
                runs[-1][1] += len(data)
            else:
                runs.append([offset, len(data)])
        facts = {"offset_bytes": start, "end_bytes": end, "runs": runs, "range_sha256": digest.hexdigest()}
        out.facts |= {"format": FORMAT, "source_size_bytes": source.size, "taken_live": True, **facts}
    return {"artifact": name, "data_bytes": kept, **facts}


def _chunks(source: Source, start: int, end: int, pace: _Pace) -> Iterator[tuple[int, bytes]]:
    """Each chunk with its offset; what lies in a hole is not read."""
    extents = source.extents(start, end)
    first, last = next(extents, (end, end))
    for offset in range(start, end, CHUNK_BYTES):
        until = min(offset + CHUNK_BYTES, end)
        while last <= offset and first < end:
            first, last = next(extents, (end, end))
        if until <= first:
            yield offset, _ZEROS[: until - offset]
            continue
        data = source.read(offset, until - offset)
        pace.take(len(data))
        yield offset, data


def _write_index(sink: Sink, source: Source, wanted: _Range, segments: list[dict[str, Any]], *, sha256: str) -> None:
    now = os.fstat(source.descriptor)
    changed = not source.is_device and now.st_mtime_ns != source.identity["modified_ns"]
    document = {
        "format": FORMAT,
        "source": source.path,
        "size_bytes": source.size,
        "offset_bytes": wanted.start,
        "end_bytes": wanted.end,
        "is_whole": wanted.start == 0 and wanted.end == source.size,
        "range_sha256": sha256,
        "data_bytes": sum(s["data_bytes"] for s in segments),
        "unreadable": source.unreadable[:10_000],
        "taken_live": True,
        "changed_meanwhile": changed,
        "ended_ns": time.time_ns(),
        "segments": segments,
    }
    with sink.artifact("disk/image.json", source=source.path, method="pread") as out:
        out.facts |= {key: document[key] for key in ("range_sha256", "is_whole", "taken_live", "changed_meanwhile")}
        out.facts["unreadable_places"] = len(source.unreadable)
        out.write(json.dumps(document).encode())
