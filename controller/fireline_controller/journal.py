"""The journal's rules: what a line's bytes are, how lines are chained, signed and verified. Values in, values out.

A line is canonical JSON (RFC 8785) of {v, seq, at, kind, actor, incident, operation, host, summary, data, prev},
`prev` being the SHA-256 of the line before, so that its own SHA-256 is over everything written before it.
A checkpoint is a DSSE envelope that signs a line's number and hash. Leaves to others: where lines are kept, and the
anchor outside the database that shows a cut-off end (store).

Text in a line is untrusted: it is kept as it came, control characters too. Whoever shows it, cleans it.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

from fireline_controller.model import Checkpoint, Entry, JournalError, Line
from fireline_wire import envelope

VERSION: Final = 1
GENESIS: Final = "0" * 64  # what stands in place of a hash before the first line
CHECKPOINT_TYPE: Final = "application/vnd.fireline.checkpoint+json"
DAMAGED: Final = "journal.damaged"  # the kind of line in which the store records that it found the journal cut
MAX_LINE_BYTES: Final = 1 << 20  # a line that a person reads; bulk belongs into evidence
MAX_DEPTH: Final = 20  # of nested data: no recursion limit is reached when it is read back
MAX_PROBLEMS: Final = 100  # a journal that is broken everywhere does not fill the memory with saying so

_MAX_INTEGER = 2**53 - 1  # RFC 8785 section 3.2.2.3 and RFC 7493 section 2.2: beyond, readers disagree


@dataclass(frozen=True)
class StoredLine:
    """A line as it lies in a store or a file, of unknown honesty: under which number, with which hash and filing."""

    seq: int
    canonical: bytes
    hash: str
    incident_id: str


@dataclass(frozen=True)
class JournalReport:
    """What `verify` found. No problems: every line up to `head` is what was written, in its order, none missing."""

    problems: tuple[str, ...]
    lines: int
    checkpoints: int
    head: tuple[int, str]


def line(entry: Entry, *, seq: int, previous_hash: str) -> Line:
    """The line that this entry makes at this place of the chain; its entry holds the values as the line has them.

    NUL and lone surrogates (bytes that were no UTF-8) become their escapes: nothing that a host or a person typed can
    keep an entry out of the journal.

    Raises:
        ValueError: the entry holds what is no JSON value of RFC 8785, is nested too deep or is too long; names where.
    """
    clean = _clean_entry(entry)
    canonical = rfc8785.dumps(
        {
            "v": VERSION,
            "seq": seq,
            "at": _stamp(clean.at),
            "kind": clean.kind,
            "actor": clean.actor,
            "incident": clean.incident_id,
            "operation": clean.operation_id,
            "host": clean.host,
            "summary": clean.summary,
            "data": dict(clean.data),
            "prev": previous_hash,
        }
    )
    if len(canonical) > MAX_LINE_BYTES:
        raise ValueError(
            f"journal entry {clean.kind!r} makes a line of {len(canonical)} bytes, at most {MAX_LINE_BYTES} are"
            " allowed: keep the bulk as evidence and journal its hash"
        )
    return Line(seq=seq, entry=clean, canonical=canonical, hash=hashlib.sha256(canonical).hexdigest())


def parse(canonical: bytes) -> Line:
    """The line with these bytes.

    Raises:
        JournalError: the bytes are no line.
    """
    try:
        document = json.loads(canonical)
        entry = Entry(
            kind=document["kind"],
            actor=document["actor"],
            at=datetime.fromisoformat(document["at"]),
            summary=document["summary"],
            incident_id=document["incident"],
            operation_id=document["operation"],
            host=document["host"],
            data=document["data"],
        )
        seq = int(document["seq"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise JournalError(f"no journal line: {type(error).__name__} in {canonical[:80]!r}") from None
    return Line(seq=seq, entry=entry, canonical=canonical, hash=hashlib.sha256(canonical).hexdigest())


def clean_text(text: str) -> str:
    """The text with its escape in place of whatever JSON or a database can't hold: NUL and lone surrogates."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def checkpoint(seq: int, line_hash: str, *, at: datetime, key: EllipticCurvePrivateKey) -> Checkpoint:
    """A signed statement that line `seq` has this hash, and with it every line before."""
    payload = rfc8785.dumps({"v": VERSION, "seq": seq, "hash": line_hash, "at": _stamp(at)})
    return Checkpoint(seq=seq, hash=line_hash, envelope=envelope.seal(payload, CHECKPOINT_TYPE, key))


def open_checkpoint(signed: bytes, key: EllipticCurvePublicKey) -> Checkpoint:
    """The checkpoint in an envelope, once its signature was verified against the journal's key.

    Raises:
        JournalError: it is not signed by this key, or is no checkpoint.
    """
    try:
        document = json.loads(envelope.unseal(signed, CHECKPOINT_TYPE, key))
        return Checkpoint(seq=int(document["seq"]), hash=str(document["hash"]), envelope=signed)
    except (envelope.EnvelopeError, ValueError, KeyError, TypeError) as error:
        raise JournalError(f"no checkpoint that the journal's key signed: {error}") from None


def verify(
    lines: Iterable[StoredLine],
    checkpoints: Iterable[Checkpoint],
    *,
    public_key: EllipticCurvePublicKey,
    anchors: Sequence[tuple[int, str]] = (),
) -> JournalReport:
    """Check every line, link and signature; read `lines` once, in the order in which they are kept.

    `anchors` are (number, hash) of lines that are known from outside the store to have been written.
    """
    problems = _Problems()
    signed = _Signed(problems, anchors)
    for kept in checkpoints:
        signed.add(kept, public_key)
    chain = _Chain(problems)
    for stored in lines:
        chain.take(stored)
        signed.compare(stored.seq, stored.hash)
    signed.end(chain.last)
    return JournalReport(
        problems=problems.told(), lines=chain.count, checkpoints=signed.count, head=(chain.last, chain.hash or GENESIS)
    )


@dataclass
class _Problems:
    found: list[str] = field(default_factory=list)
    untold: int = 0

    def add(self, problem: str) -> None:
        if len(self.found) < MAX_PROBLEMS:
            self.found.append(problem)
        else:
            self.untold += 1

    def told(self) -> tuple[str, ...]:
        more = (f"and {self.untold} problems more",) if self.untold else ()
        return (*self.found, *more)


class _Chain:
    """Follows the lines one by one. `hash` is None where the line before is already known to be wrong."""

    def __init__(self, problems: _Problems) -> None:
        self._problems = problems
        self.last = 0
        self.hash: str | None = GENESIS
        self.count = 0

    def take(self, stored: StoredLine) -> None:
        self.count += 1
        if stored.seq != self.last + 1:
            self._misplaced(stored.seq)
        digest = hashlib.sha256(stored.canonical).hexdigest()
        if digest != stored.hash:
            self._problems.add(
                f"line {stored.seq} was changed: its bytes hash to {digest[:16]}…, recorded is {stored.hash[:16]}…"
            )
        self.hash = stored.hash if self._reads(stored) else None
        self.last = max(self.last, stored.seq)

    def _misplaced(self, seq: int) -> None:
        self.hash = None
        if seq <= self.last:
            self._problems.add(f"line {seq} stands after line {self.last}: lines were reordered")
        else:
            self._problems.add(f"{_span(self.last + 1, seq - 1)} missing")

    def _reads(self, stored: StoredLine) -> bool:
        """Whether the line is at its own place, so that the next one can be expected to follow it."""
        try:
            document = json.loads(stored.canonical)
            seq, previous, incident, kind = (document[k] for k in ("seq", "prev", "incident", "kind"))
        except (ValueError, KeyError, TypeError, RecursionError):
            self._problems.add(f"line {stored.seq} can't be read: its bytes are no journal line")
            return False
        if seq != stored.seq:
            self._problems.add(f"line {stored.seq} holds what was written as line {seq}: lines were reordered")
            return False
        if self.hash is not None and previous != self.hash:
            self._problems.add(
                f"line {seq} does not follow the line {seq - 1} that is here: line {seq - 1} was replaced,"
                f" or line {seq} was written anew"
            )
        if incident != stored.incident_id:
            self._problems.add(f"line {seq} is of incident {incident!r}, but filed under {stored.incident_id!r}")
        if kind == DAMAGED:
            self._problems.add(f"line {seq} records a damage: {document.get('summary')}")
        return True


class _Signed:
    """What was signed about lines: by checkpoints in the store and by anchors outside it."""

    def __init__(self, problems: _Problems, anchors: Sequence[tuple[int, str]]) -> None:
        self._problems = problems
        self._wanted: dict[int, list[tuple[str, str]]] = {}
        self.count = 0
        for seq, line_hash in anchors:
            self._want(seq, line_hash, "anchor")

    def add(self, kept: Checkpoint, key: EllipticCurvePublicKey) -> None:
        self.count += 1
        try:
            opened = open_checkpoint(kept.envelope, key)
        except JournalError as error:
            self._problems.add(f"checkpoint of line {kept.seq} is not to be trusted: {error}")
            return
        if (opened.seq, opened.hash) != (kept.seq, kept.hash):
            self._problems.add(f"checkpoint of line {kept.seq} was changed: what is signed is line {opened.seq}")
        self._want(opened.seq, opened.hash, "checkpoint")

    def _want(self, seq: int, line_hash: str, by: str) -> None:
        self._wanted.setdefault(seq, []).append((line_hash, by))

    def compare(self, seq: int, line_hash: str) -> None:
        for wanted, by in self._wanted.get(seq, ()):
            if wanted != line_hash:
                self._problems.add(
                    f"line {seq} is not the line that its {by} signed: signed {wanted[:16]}…, found {line_hash[:16]}…"
                )

    def end(self, last: int) -> None:
        beyond = max(self._wanted, default=0)
        if beyond > last:
            by = self._wanted[beyond][0][1]
            self._problems.add(f"{_span(last + 1, beyond)} missing at the end: a signed {by} shows line {beyond}")


def _span(first: int, last: int) -> str:
    return f"line {first} is" if first == last else f"lines {first} to {last} are"


def _stamp(at: datetime) -> str:
    if at.tzinfo is None:
        raise ValueError(f"time {at.isoformat()} has no zone: wanted aware UTC")
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _clean_entry(entry: Entry) -> Entry:
    return replace(
        entry,
        kind=clean_text(entry.kind),
        actor=clean_text(entry.actor),
        summary=clean_text(entry.summary),
        incident_id=clean_text(entry.incident_id),
        operation_id=clean_text(entry.operation_id),
        host=clean_text(entry.host),
        data=_clean_mapping(entry.data, f"journal entry {entry.kind!r}: data", MAX_DEPTH),
    )


def _clean(value: Any, where: str, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int | float):
        return _clean_number(value, where)
    if depth == 0:
        raise ValueError(f"{where} is nested over {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        return _clean_mapping(value, where, depth)
    if isinstance(value, list | tuple):
        return [_clean(v, f"{where}[{i}]", depth - 1) for i, v in enumerate(value)]
    raise ValueError(f"{where} is {type(value).__name__}: wanted text, number, boolean, list, mapping or None")


def _clean_mapping(value: Mapping[Any, Any], where: str, depth: int) -> dict[str, Any]:
    return dict(_clean_items(value, where, depth))


def _clean_items(value: Mapping[Any, Any], where: str, depth: int) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for name, inner in value.items():
        if not isinstance(name, str):
            raise ValueError(f"{where} has the key {name!r}: wanted text")
        key = clean_text(name)
        if key in seen:
            raise ValueError(f"{where} has the key {key!r} twice once it is written as UTF-8")
        seen.add(key)
        yield key, _clean(inner, f"{where}.{key}", depth - 1)


def _clean_number(value: float, where: str) -> int | float:
    """The number in the form in which it is read back, so that a line never depends on how a float was spelt."""
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{where} is {value}: JSON has no such number")
    if int(value) == value:
        if abs(value) > _MAX_INTEGER:
            raise ValueError(f"{where} is {value}: beyond ±(2^53 - 1) readers of JSON disagree, write it as text")
        return int(value)
    return value
