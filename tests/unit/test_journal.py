"""The journal's rules: canonical lines, the chain, checkpoints, and what verify finds and names."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from fireline_controller import journal
from fireline_controller.journal import GENESIS, StoredLine
from fireline_controller.model import Checkpoint, Entry, JournalError, Line

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime(2026, 5, 1, 12, 30, 15, 250_000, UTC)


def _entry(summary: str = "web-1: ok", **fields: Any) -> Entry:
    return Entry(**{"kind": "capture.ended", "actor": "alice", "at": NOW, "summary": summary, **fields})


def _chain(count: int) -> list[Line]:
    lines: list[Line] = []
    for seq in range(1, count + 1):
        previous = lines[-1].hash if lines else GENESIS
        lines.append(journal.line(_entry(f"line {seq}", incident_id="INC-1"), seq=seq, previous_hash=previous))
    return lines


def _stored(line: Line) -> StoredLine:
    return StoredLine(line.seq, line.canonical, line.hash, line.entry.incident_id)


def _signed(line: Line) -> Checkpoint:
    return journal.checkpoint(line.seq, line.hash, at=NOW, key=KEY)


def _problems(
    lines: Sequence[StoredLine], checkpoints: Sequence[Checkpoint] = (), anchors: Sequence[tuple[int, str]] = ()
) -> tuple[str, ...]:
    return journal.verify(lines, checkpoints, public_key=KEY.public_key(), anchors=anchors).problems


def _rewritten(line: Line, summary: str) -> StoredLine:
    """The line with other words and a hash that fits them, as somebody who knows the format would do it."""
    document = json.loads(line.canonical)
    document["summary"] = summary
    canonical = rfc8785.dumps(document)
    return StoredLine(line.seq, canonical, hashlib.sha256(canonical).hexdigest(), line.entry.incident_id)


def test_a_line_is_canonical_json_with_the_hash_of_the_line_before() -> None:
    """The bytes are fixed: another program can recompute every hash from RFC 8785 alone."""
    line = journal.line(_entry(host="web-1", data={"b": 1, "a": [1.0, "é"]}), seq=7, previous_hash="ab" * 32)

    assert line.canonical.decode() == (
        '{"actor":"alice","at":"2026-05-01T12:30:15.250000Z","data":{"a":[1,"é"],"b":1},"host":"web-1","incident":"",'
        '"kind":"capture.ended","operation":"","prev":"' + "ab" * 32 + '","seq":7,"summary":"web-1: ok","v":1}'
    )
    assert line.hash == hashlib.sha256(line.canonical).hexdigest()


def test_times_of_any_zone_are_written_in_utc() -> None:
    """The same moment is the same line, whatever the zone of the clock that was read."""
    abroad = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))

    assert journal.line(_entry(at=abroad), seq=1, previous_hash=GENESIS).hash == _chain_hash(_entry())


def _chain_hash(one: Entry) -> str:
    return journal.line(one, seq=1, previous_hash=GENESIS).hash


def test_bytes_that_were_no_utf8_are_kept_as_their_escapes() -> None:
    """A host name or reason with undecodable bytes is journaled readably, and cannot keep a line out."""
    line = journal.line(
        _entry("caf\udce9", actor="al\udcffice", data={"\udc80": "\ud800", "nul": "\0"}), seq=1, previous_hash=GENESIS
    )

    assert line.entry.summary == "caf\\udce9"
    assert line.entry.actor == "al\\udcffice"
    assert line.entry.data == {"\\udc80": "\\ud800", "nul": "\\x00"}
    assert journal.parse(line.canonical).entry == line.entry


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"load": float("nan")}, "journal entry 'capture.ended': data.load is nan: JSON has no such number"),
        ({"a": [0, float("inf")]}, r"data\.a\[1\] is inf: JSON has no such number"),
        (
            {"n": 2**53},
            r"data\.n is 9007199254740992: beyond ±\(2\^53 - 1\) readers of JSON disagree, write it as text",
        ),
        ({"n": 1e300}, r"data\.n is 1e\+300: beyond"),
        ({"raw": b"x"}, r"data\.raw is bytes: wanted text, number, boolean, list, mapping or None"),
        ({"inner": {1: "x"}}, r"data\.inner has the key 1: wanted text"),
        ({"\udc80": 1, "\\udc80": 2}, r"data has the key '\\\\udc80' twice once it is written as UTF-8"),
    ],
)
def test_data_that_is_no_json_of_rfc_8785_is_refused_by_its_place(data: dict[Any, Any], message: str) -> None:
    """What can't be read back the same everywhere does not get into the chain; the message names the place."""
    with pytest.raises(ValueError, match=message):
        journal.line(_entry(data=data), seq=1, previous_hash=GENESIS)


def test_data_that_is_nested_without_end_is_refused() -> None:
    """A line can always be read back: its depth is bounded when it is written."""
    nested: list[Any] = []
    nested.append(nested)

    with pytest.raises(ValueError, match="is nested over 20 deep"):
        journal.line(_entry(data={"a": nested}), seq=1, previous_hash=GENESIS)


def test_a_line_that_is_too_long_is_refused() -> None:
    """Bulk belongs into evidence."""
    with pytest.raises(
        ValueError, match=r"makes a line of 1048.* bytes, at most 1048576 are allowed: keep the bulk as"
    ):
        journal.line(_entry("x" * (1 << 20)), seq=1, previous_hash=GENESIS)


def test_a_time_without_a_zone_is_refused() -> None:
    """A naive time would be read differently on another machine."""
    with pytest.raises(ValueError, match="time 2026-05-01T12:30:15 has no zone: wanted aware UTC"):
        _chain_hash(_entry(at=datetime(2026, 5, 1, 12, 30, 15)))


_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)  # surrogates and control characters too
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-1e15, 1e15)
    | st.floats(-1e-5, 1e-5)
    | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT.map(lambda t: t.replace("\\", "/")), inner),
    max_leaves=10,
)


@settings(deadline=None)
@given(summary=_TEXT, actor=_TEXT, data=st.dictionaries(st.text("abc", max_size=3), _JSON, max_size=4))
def test_what_is_read_back_is_what_was_written_and_makes_the_same_bytes(
    summary: str, actor: str, data: dict[str, Any]
) -> None:
    """A line's entry survives its bytes, and its bytes are the one canonical form of what they say."""
    line = journal.line(_entry(summary, actor=actor, data=data), seq=1, previous_hash=GENESIS)

    assert journal.parse(line.canonical) == line
    assert rfc8785.dumps(json.loads(line.canonical)) == line.canonical


def test_bytes_that_are_no_line_are_named() -> None:
    """Reading a damaged line says so, in the journal's own error."""
    with pytest.raises(JournalError, match=r"no journal line: KeyError in b'\{\}'"):
        journal.parse(b"{}")


def test_an_untouched_journal_verifies() -> None:
    """No problems, and the counts and head are those of the journal."""
    lines = _chain(5)

    report = journal.verify(
        map(_stored, lines), [_signed(lines[3])], public_key=KEY.public_key(), anchors=[(5, lines[4].hash)]
    )

    assert report == journal.JournalReport(problems=(), lines=5, checkpoints=1, head=(5, lines[4].hash))


def test_an_empty_journal_verifies() -> None:
    """Before the first line there is nothing to be wrong, and an anchor of nothing agrees."""
    report = journal.verify([], [], public_key=KEY.public_key(), anchors=[(0, GENESIS)])

    assert report == journal.JournalReport(problems=(), lines=0, checkpoints=0, head=(0, GENESIS))


def test_a_changed_line_is_named() -> None:
    """Changed bytes under the recorded hash: that line is named, and no other."""
    lines = [_stored(line) for line in _chain(5)]
    lines[2] = replace(lines[2], canonical=lines[2].canonical.replace(b"line 3", b"line X"))

    (problem,) = _problems(lines)

    assert problem.startswith("line 3 was changed: its bytes hash to ")


def test_a_line_that_was_changed_together_with_its_hash_is_named() -> None:
    """Whoever recomputes the hash breaks the link of the line after."""
    lines = _chain(5)
    kept = [_stored(line) for line in lines]
    kept[2] = _rewritten(lines[2], "nothing happened")

    assert _problems(kept) == (
        "line 4 does not follow the line 3 that is here: line 3 was replaced, or line 4 was written anew",
    )


def test_a_last_line_that_was_changed_together_with_its_hash_is_named() -> None:
    """There the anchor tells."""
    lines = _chain(3)
    kept = [_stored(line) for line in lines]
    kept[2] = _rewritten(lines[2], "nothing happened")

    (problem,) = _problems(kept, anchors=[(3, lines[2].hash)])

    assert problem.startswith("line 3 is not the line that its anchor signed: signed ")


def test_a_chain_that_was_rewritten_whole_is_caught_by_its_checkpoint() -> None:
    """Every link of a forged chain holds; the signature is what can't be forged."""
    honest, forged = _chain(4), list[Line]()
    for line in honest:
        previous = forged[-1].hash if forged else GENESIS
        forged.append(journal.line(_entry(f"forged {line.seq}"), seq=line.seq, previous_hash=previous))

    (problem,) = _problems([_stored(line) for line in forged], [_signed(honest[3])])

    assert problem.startswith("line 4 is not the line that its checkpoint signed: signed ")


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (slice(0, 2), "lines 1 to 2 are missing"),
        (slice(2, 3), "line 3 is missing"),
        (slice(1, 4), "lines 2 to 4 are missing"),
    ],
)
def test_missing_lines_are_named(gone: slice, message: str) -> None:
    """A gap is named by its first and last line, once."""
    lines = [_stored(line) for line in _chain(6)]
    del lines[gone]

    assert _problems(lines) == (message,)


def test_missing_lines_are_named_even_when_the_rest_was_renumbered() -> None:
    """Closing the gap by new numbers in the table does not help: the line holds its own."""
    lines = [_stored(line) for line in _chain(4)]
    del lines[1]
    renumbered = [replace(line, seq=seq) for seq, line in enumerate(lines, start=1)]

    assert _problems(renumbered) == (
        "line 2 holds what was written as line 3: lines were reordered",
        "line 3 holds what was written as line 4: lines were reordered",
    )


def test_swapped_lines_are_named() -> None:
    """Both places are named."""
    lines = [_stored(line) for line in _chain(5)]
    lines[1], lines[3] = replace(lines[3], seq=2), replace(lines[1], seq=4)

    assert _problems(lines) == (
        "line 2 holds what was written as line 4: lines were reordered",
        "line 4 holds what was written as line 2: lines were reordered",
    )


def test_lines_out_of_their_order_are_named() -> None:
    """A file whose lines were moved names the one that stands too late."""
    lines = [_stored(line) for line in _chain(4)]
    lines[1], lines[2] = lines[2], lines[1]

    assert "line 2 stands after line 3: lines were reordered" in _problems(lines)


@pytest.mark.parametrize("by", ["anchor", "checkpoint"])
def test_lines_that_were_cut_off_the_end_are_named(by: str) -> None:
    """The chain of what is left holds; what was signed beyond it tells."""
    lines = _chain(6)
    rest = [_stored(line) for line in lines[:3]]
    anchors = [(6, lines[5].hash)] if by == "anchor" else []
    checkpoints = [_signed(lines[5])] if by == "checkpoint" else []

    assert _problems(rest, checkpoints, anchors) == (
        f"lines 4 to 6 are missing at the end: a signed {by} shows line 6",
    )


def test_a_line_filed_under_another_incident_is_named() -> None:
    """Filing is not in the bytes: a line that was hidden from its incident is found."""
    lines = [_stored(line) for line in _chain(3)]
    lines[1] = replace(lines[1], incident_id="INC-2")

    assert _problems(lines) == ("line 2 is of incident 'INC-1', but filed under 'INC-2'",)


def test_a_line_of_garbage_is_named() -> None:
    """Bytes that are no JSON do not stop the check of the rest."""
    lines = [_stored(line) for line in _chain(3)]
    lines[1] = StoredLine(2, b"\xff[", hashlib.sha256(b"\xff[").hexdigest(), "INC-1")

    assert _problems(lines) == ("line 2 can't be read: its bytes are no journal line",)


def test_a_checkpoint_by_another_key_is_not_trusted() -> None:
    """A forger's checkpoint over a forger's line proves nothing."""
    lines = _chain(2)
    other = ec.generate_private_key(ec.SECP256R1())
    forged = journal.checkpoint(2, lines[1].hash, at=NOW, key=other)

    (problem,) = _problems([_stored(line) for line in lines], [forged])

    assert problem.startswith("checkpoint of line 2 is not to be trusted: no checkpoint that the journal's key signed")


def test_a_checkpoint_that_was_moved_to_another_line_is_named() -> None:
    """The number beside the envelope is not signed, the one inside it is."""
    lines = _chain(3)
    moved = replace(_signed(lines[2]), seq=2, hash=lines[1].hash)

    assert _problems([_stored(line) for line in lines], [moved]) == (
        "checkpoint of line 2 was changed: what is signed is line 3",
    )


def test_a_recorded_damage_stays_a_problem() -> None:
    """Lines that were found missing once are not forgotten because the journal went on."""
    damaged = _entry("lines 8 to 9 were cut off", kind=journal.DAMAGED)
    line = journal.line(damaged, seq=1, previous_hash=GENESIS)

    assert _problems([_stored(line)]) == ("line 1 records a damage: lines 8 to 9 were cut off",)


def test_a_journal_that_is_broken_everywhere_is_told_in_bounds() -> None:
    """A hundred problems are told and the rest is counted."""
    lines = [replace(_stored(line), hash="0" * 64) for line in _chain(150)]

    told = _problems(lines)

    assert len(told) == journal.MAX_PROBLEMS + 1
    assert told[-1].startswith("and ")


@settings(deadline=None)
@given(data=st.data(), count=st.integers(1, 12))
def test_i7_any_one_flipped_bit_is_found(data: st.DataObject, count: int) -> None:
    """I7: a bit of a line's bytes, of its hash or of a checkpoint, anywhere."""
    lines = _chain(count)
    kept = [_stored(line) for line in lines]
    checkpoint = _signed(lines[-1])
    at = data.draw(st.integers(0, count))
    if at == count:
        checkpoint = replace(checkpoint, envelope=_flipped(data, checkpoint.envelope))
    elif data.draw(st.booleans()):
        kept[at] = replace(kept[at], canonical=_flipped(data, kept[at].canonical))
    else:
        kept[at] = replace(kept[at], hash=_flipped(data, kept[at].hash.encode()).decode("latin-1"))

    assert _problems(kept, [checkpoint])


@settings(deadline=None)
@given(data=st.data(), count=st.integers(2, 12))
def test_i7_any_lines_taken_away_are_found(data: st.DataObject, count: int) -> None:
    """I7: whatever set of lines goes, from the start, the middle or the end."""
    lines = _chain(count)
    gone = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    rest = [_stored(line) for i, line in enumerate(lines) if i not in gone]

    assert _problems(rest, anchors=[(count, lines[-1].hash)])


@settings(deadline=None)
@given(data=st.data(), count=st.integers(2, 8))
def test_i7_any_other_order_is_found(data: st.DataObject, count: int) -> None:
    """I7: contents that changed places, whatever the permutation."""
    lines = [_stored(line) for line in _chain(count)]
    order = data.draw(st.permutations(range(count)).filter(lambda p: list(p) != list(range(count))))

    assert _problems([replace(lines[i], seq=seq) for seq, i in enumerate(order, start=1)])


def _flipped(data: st.DataObject, raw: bytes) -> bytes:
    # A signature's length differs from run to run, and what is drawn must not depend on that.
    bit = data.draw(st.integers(0, (1 << 20) - 1)) % (len(raw) * 8)
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
