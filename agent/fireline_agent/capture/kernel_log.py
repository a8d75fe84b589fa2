"""The kernel's log: every record that is still in the ring, and the few kinds of line that explain an outage.

Leaves to others: log files on disk.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from fireline_agent.capture.collector import Absent, Context, Sink, text
from fireline_agent.capture.params import refuse_unknown
from fireline_agent.hands import kmsg
from fireline_agent.hands.printable import printable

VERSION: Final = "1"

MAX_BYTES: Final = 64 << 20  # a kernel that logs faster than we read must not keep us for ever
_KERNEL: Final = 0  # the facility; anybody may write into /dev/kmsg, but never as this one
_ESCAPED: Final = re.compile(rb"\\x([0-9a-f]{2})")
_SYSLOG_LINE: Final = re.compile(rb"<(\d+)>(?:\[ *(\d+)\.(\d{6})\] )?(.*)", re.DOTALL)

# What stands out: severity, code, the line, and what it means.
_SIGNS: Final = (
    ("critical", "kernel-oom-kill", r"Killed process \d+ \(.*?\)", "the kernel killed processes for want of memory"),
    ("critical", "kernel-bug", r"kernel BUG at|\bOops: |Kernel panic|BUG: ", "the kernel itself failed"),
    (
        "critical",
        "kernel-io-error",
        r"I/O error|critical medium error|EXT4-fs error|XFS .*[Cc]orruption|[Rr]emounting filesystem read-only",
        "a disk or file system failed",
    ),
    ("warning", "kernel-hung-task", r"blocked for more than \d+ seconds", "processes hang in the kernel"),
    ("warning", "kernel-lockup", r"soft lockup|hard LOCKUP|detected stalls", "a processor was stuck"),
    ("warning", "kernel-module-unsigned", r"module verification failed", "a module without a valid signature came in"),
    ("warning", "bpf-writes-memory", r"bpf_probe_write_user", "an eBPF program can write other processes' memory"),
    ("notice", "kernel-segfault", r"segfault at|traps: .* trap", "programs crashed"),
    ("notice", "kernel-table-full", r"table full, dropping packet|neighbour: .* overflow", "packets are dropped"),
)


@dataclass
class _Signs:
    """How often each sign was seen, and its last line."""

    seen: dict[str, int] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)

    def look(self, line: str) -> None:
        for _, code, pattern, _ in _SIGNS:
            if re.search(pattern, line, re.DOTALL):  # a process name may hold a line break
                self.seen[code] = self.seen.get(code, 0) + 1
                self.last[code] = line

    def report(self, sink: Sink) -> None:
        for severity, code, _, meaning in _SIGNS:
            if code in self.seen:
                lines = f"{self.seen[code]} line{'s' * (self.seen[code] != 1)}"
                summary = f"{meaning} ({lines}); the last: {printable(self.last[code])}"
                sink.finding(severity, code, "kernel log", summary)


def collect(context: Context, sink: Sink) -> None:
    """Write `kernel/log.jsonl`.

    Raises:
        Absent: there is neither /dev/kmsg nor syslog(2).
        OSError: both are refused.
        ValueError: the order has params; there are none.
    """
    refuse_unknown(context.params)
    path = context.roots.root / "dev/kmsg"
    try:
        first = next(source := kmsg.records(path), None)
    except OSError as error:
        _write(_syslog_records(_ring(error)), sink, source="syslog(2)", method="syslog")
    else:
        _write(_kmsg_records(chain([] if first is None else [first], source)), sink, source=str(path), method="kmsg")


def _ring(refusal: OSError) -> bytes:
    try:
        return kmsg.whole_log(MAX_BYTES)
    except OSError as error:
        if isinstance(refusal, FileNotFoundError):
            raise Absent(f"{refusal.filename} is not there, and {error.filename} says: {error.strerror}") from None
        raise


def _write(records: Iterable[Mapping[str, Any]], sink: Sink, *, source: str, method: str) -> None:
    signs = _Signs()
    with sink.artifact("kernel/log.jsonl", source=source, method=method) as artifact:
        try:
            for record in records:
                artifact.record(record)
                if record.get("facility") == _KERNEL:
                    signs.look(str(record["message"]))
        finally:
            signs.report(sink)


def _kmsg_records(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Records of Documentation/ABI/testing/dev-kmsg: `level,seq,µs,flags;text`, then indented ` KEY=value` lines."""
    pending: dict[str, Any] | None = None
    for line in _lines(chunks):
        if line.startswith(b" ") and pending is not None:
            key, _, value = line[1:].partition(b"=")
            pending.setdefault("fields", {})[key.decode(errors="backslashreplace")] = value.decode(
                errors="backslashreplace"
            )
            continue
        if pending is not None:
            yield pending
        pending = _kmsg_record(line)
    if pending is not None:
        yield pending


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    left, total = b"", 0
    for chunk in chunks:
        *lines, left = (left + (chunk or b"lost;\n")).split(b"\n")
        yield from lines
        total += len(chunk)
        if total > MAX_BYTES:
            return
    if left:
        yield left


def _kmsg_record(line: bytes) -> dict[str, Any]:
    head, _, message = line.partition(b";")
    numbers = head.split(b",")
    if head == b"lost":
        return {"lost": "older records were overwritten while they were read"}
    if len(numbers) < 3 or not all(number.isdigit() for number in numbers[:3]):
        return text("unparsed", line)
    priority = int(numbers[0])
    place = {"seq": int(numbers[1]), "monotonic_us": int(numbers[2])}
    return place | {"facility": priority >> 3, "level": priority & 7} | text("message", _unescape(message))


def _unescape(message: bytes) -> bytes:
    return _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), message)


def _syslog_records(ring: bytes) -> Iterator[dict[str, Any]]:
    """Lines of syslog(2): `<level>[seconds.µs] text`; the time stands there only where printk is told to write it."""
    for line in ring.split(b"\n"):
        match = _SYSLOG_LINE.match(line)
        if match is None:
            if line:
                yield text("unparsed", line)
            continue
        priority, seconds, micros, message = match.groups()
        time = {} if seconds is None else {"monotonic_us": int(seconds) * 1_000_000 + int(micros)}
        yield time | {"facility": int(priority) >> 3, "level": int(priority) & 7} | text("message", message)
