"""Somebody with a database shell, or at the anchor file: what verify finds, and what the journal records by itself."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import create_engine, make_url, text

from fireline_controller import journal
from fireline_controller.model import Entry, Line
from fireline_controller.store import Store, Transaction
from tests.contract.conftest import KEY
from tests.contract.test_store import NOW

Shell = Callable[[str], None]


@pytest.fixture
def shell(store_url: str) -> Shell:
    """Runs SQL on the test's database, past the store."""

    def run(statement: str) -> None:
        url = make_url(store_url)
        driver = "postgresql+psycopg" if url.get_backend_name() == "postgresql" else "sqlite"
        engine = create_engine(url.set(drivername=driver))
        with engine.begin() as connection:
            connection.execute(text(statement))
        engine.dispose()

    return run


def _append(store: Store, *summaries: str) -> tuple[Line, ...]:
    entries = [Entry("incident.note", "alice", NOW, s, incident_id="INC-1") for s in summaries]
    return store.run_now(lambda tx: tx.append(*entries))


def _ten(store: Store) -> tuple[Line, ...]:
    return tuple(_append(store, f"line {i}")[0] for i in range(1, 11))


@pytest.mark.parametrize(
    ("statement", "problems"),
    [
        ("DELETE FROM journal WHERE seq > 7", ["lines 8 to 10 are missing at the end: a signed anchor shows line 10"]),
        ("DELETE FROM journal", ["lines 1 to 10 are missing at the end: a signed anchor shows line 10"]),
        ("DELETE FROM journal WHERE seq = 4", ["line 4 is missing"]),
        (
            "UPDATE journal SET canonical = (SELECT canonical FROM journal WHERE seq = 3) WHERE seq = 4",
            ["line 4 was changed: ", "line 4 holds what was written as line 3: lines were reordered"],
        ),
        (
            "UPDATE journal SET seq = CASE seq WHEN 3 THEN 103 ELSE 103 END WHERE seq = 3;",
            ["line 3 is missing", "lines 11 to 102 are missing", "line 103 holds what was written as line 3"],
        ),
        ("UPDATE journal SET incident_id = '' WHERE seq = 4", ["line 4 is of incident 'INC-1', but filed under ''"]),
        ("UPDATE journal SET hash = 'x' WHERE seq = 10", ["line 10 was changed: ", "line 10 is not the line that its"]),
    ],
)
def test_i7_lines_that_were_tampered_with_are_named(
    store: Store, shell: Shell, statement: str, problems: list[str]
) -> None:
    """I7: changed, missing, reordered, refiled and cut off lines."""
    _ten(store)
    shell(statement)

    found = store.verify_now().problems

    assert len(found) == len(problems)
    for problem, wanted in zip(found, problems, strict=True):
        assert problem.startswith(wanted)


def test_i7_a_cut_off_end_is_on_record_when_the_journal_goes_on(store: Store, shell: Shell) -> None:
    """I7: work is not stopped, but new lines do not cover up the ones that are gone: the first of them tells."""
    last = _ten(store)[-1]
    shell("DELETE FROM journal WHERE seq > 7")

    written = _append(store, "goes on")
    _append(store, "and on", "and on", "and on")

    assert [line.seq for line in written] == [9]
    damage = store.read_now(lambda tx: tx.lines(8, limit=1))[0].entry
    assert damage.summary == "lines 8 to 10 were cut off the journal: its anchor was signed over line 10"
    proof = journal.open_checkpoint(damage.data["anchor"].encode(), KEY.public_key())
    assert (proof.seq, proof.hash) == (10, last.hash)
    assert store.verify_now().problems == (f"line 8 records a damage: {damage.summary}",)


def test_i7_an_entry_that_is_refused_does_not_hide_a_cut_off_end(store: Store, shell: Shell) -> None:
    """I7: work that catches the refusal and journals something else still tells of the lines that are gone."""
    _ten(store)
    shell("DELETE FROM journal WHERE seq > 7")

    def work(tx: Transaction) -> None:
        with pytest.raises(ValueError, match="JSON has no such number"):
            tx.append(Entry("incident.note", "alice", NOW, "bad", data={"load": float("nan")}))
        tx.append(Entry("incident.note", "alice", NOW, "good"))

    store.run_now(work)

    (problem,) = store.verify_now().problems
    assert problem.startswith("line 8 records a damage: lines 8 to 10 were cut off the journal")


def test_i7_replaced_last_lines_are_on_record_when_the_journal_goes_on(
    store_url: str, store: Store, shell: Shell
) -> None:
    """I7: lines written anew in place of others do not fit the anchor."""
    _ten(store)
    shell("DELETE FROM journal WHERE seq > 9")
    other = Store.open(store_url, journal_key=KEY, anchor_path=None)
    _append(other, "forged", "forged")
    other.close()

    _append(store, "goes on")

    assert store.verify_now().problems == (
        "line 12 records a damage: line 10 is not the line that the journal's anchor was signed over:"
        " lines were replaced",
    )


def test_i7_an_anchor_that_was_taken_away_is_on_record(store: Store, anchor_path: Path) -> None:
    """I7: verify says it at once, and the journal says it from its next line on."""
    _ten(store)
    anchor_path.unlink()
    missing = f"anchor {anchor_path} is missing: whether lines were cut off the journal's end can't be told"
    assert store.verify_now().problems == (missing,)

    _append(store, "goes on")

    assert store.verify_now().problems == (f"line 11 records a damage: {missing}",)


@pytest.mark.parametrize("forged", [b"", b"{}", b"other key"])
def test_i7_an_anchor_that_was_forged_is_on_record(store: Store, anchor_path: Path, forged: bytes) -> None:
    """I7: only what the journal's key signed is believed."""
    last = _ten(store)[-1]
    if forged == b"other key":
        other = ec.generate_private_key(ec.SECP256R1())
        forged = journal.checkpoint(last.seq, last.hash, at=NOW, key=other).envelope
    anchor_path.write_bytes(forged)
    wanted = f"anchor {anchor_path} is not to be trusted: no checkpoint that the journal's key signed: "
    (problem,) = store.verify_now().problems
    assert problem.startswith(wanted)

    _append(store, "goes on")

    (problem,) = store.verify_now().problems
    assert problem.startswith(f"line 11 records a damage: {wanted}")


def test_an_anchor_that_is_behind_is_no_damage(store: Store, anchor_path: Path) -> None:
    """A kill between a commit and its anchor leaves the anchor of the commit before."""
    _append(store, "first")
    behind = anchor_path.read_bytes()
    _append(store, "second")
    anchor_path.write_bytes(behind)
    assert store.verify_now().problems == ()

    _append(store, "third")

    assert store.verify_now() == journal.JournalReport((), 3, 0, store.read_now(lambda tx: tx.head()))
    assert anchor_path.read_bytes() != behind


def test_an_anchor_that_can_not_be_written_stops_nothing_and_is_told(
    store: Store, anchor_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The line is committed, so its writer is not told that it failed; the log says what is no longer protected."""
    _append(store, "first")
    blocker = anchor_path.with_name(f"{anchor_path.name}.new")
    blocker.mkdir()

    with caplog.at_level(logging.ERROR):
        _append(store, "second")

    assert "journal anchor can't be written: until it can, lines cut off" in caplog.text
    blocker.rmdir()
    _append(store, "third")
    assert store.verify_now().problems == ()


def test_a_controller_that_is_new_to_a_shared_database_begins_its_own_anchor(
    store_url: str, store: Store, tmp_path: Path
) -> None:
    """On PostgreSQL that is a second controller; beside a file of its own, a missing anchor was taken away."""
    _ten(store)
    second_anchor = tmp_path / "second.anchor"

    second = Store.open(store_url, journal_key=KEY, anchor_path=second_anchor)

    problems = second.verify_now().problems
    second.close()
    if store_url.startswith("postgresql"):
        assert problems == ()
    else:
        assert problems == (
            f"anchor {second_anchor} is missing: whether lines were cut off the journal's end can't be told",
        )
