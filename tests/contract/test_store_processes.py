"""Several programs on one store at once, and programs and servers that are killed while they write."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fireline_controller.model import Entry, StoreError
from fireline_controller.store import Store
from tests.contract import store_writer
from tests.contract.conftest import KEY, Opener
from tests.fakes.postgres import PostgresServer

Starter = Callable[[str, int], "subprocess.Popen[str]"]


@pytest.fixture
def start(store_url: str, anchor_path: Path, tmp_path: Path) -> Iterator[Starter]:
    """Starts a writer on the test's store; none outlives the test."""
    key_file = tmp_path / "journal.key"
    key_file.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    started: list[subprocess.Popen[str]] = []

    def starter(what: str, often: int) -> "subprocess.Popen[str]":
        arguments = [store_url, str(key_file), str(anchor_path), what, str(often)]
        command = [sys.executable, "-m", "tests.contract.store_writer", *arguments]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield starter
    for process in started:
        with process:
            process.kill()


def _ended(process: "subprocess.Popen[str]") -> list[str]:
    said, _ = process.communicate(timeout=50)
    assert process.returncode == 0
    return said.splitlines()


def test_programs_that_append_at_once_keep_one_chain(start: Starter, open_store: Opener) -> None:
    """Every acknowledged line is there under its own number, whoever wrote it, from the first migration on."""
    writers = [start("append", 60) for _ in range(3)]

    acknowledged = [line for writer in writers for line in _ended(writer)]

    store = open_store()
    kept = store.read_now(lambda tx: {f"{line.seq} {line.hash}" for line in tx.lines()})
    assert len(acknowledged) == len(kept) == 3 * 120
    assert set(acknowledged) == kept
    assert store.verify_now().problems == ()


def test_incidents_and_fence_tokens_are_given_out_once(start: Starter) -> None:
    """Programs that open incidents in the same second each get a second of their own."""
    writers = [start("incidents", 25) for _ in range(3)]

    given = [line.split() for writer in writers for line in _ended(writer)]

    assert {incident for incident, _ in given} == {f"INC-20260501-00{n // 60:02}{n % 60:02}" for n in range(75)}
    assert sorted(int(token) for _, token in given) == list(range(1, 76))


@pytest.mark.parametrize("rounds", [3, pytest.param(15, marks=pytest.mark.slow)])
@pytest.mark.timeout(180)
def test_i7_a_kill_at_any_moment_breaks_no_chain_and_loses_no_line(
    start: Starter, open_store: Opener, rounds: int
) -> None:
    """I7: kill -9 between any two instructions of a writer: what was acknowledged is there, and everything verifies."""
    moments = random.Random(rounds)
    acknowledged: set[str] = set()
    for _ in range(rounds):
        writer = start("append", 0)
        assert writer.stdout is not None
        acknowledged.add(writer.stdout.readline().strip())
        time.sleep(moments.uniform(0, 0.15))
        writer.kill()
        # A last line that was cut in the middle by the kill was not acknowledged whole.
        acknowledged.update(line for line in writer.communicate()[0].splitlines() if len(line.partition(" ")[2]) == 64)
        store = open_store()
        assert store.verify_now().problems == ()
        assert acknowledged <= store.read_now(lambda tx: {f"{line.seq} {line.hash}" for line in tx.lines()})
        store.run_now(lambda tx: tx.append(Entry("incident.note", "bob", store_writer.NOW, "goes on")))


@pytest.mark.timeout(120)
def test_a_kill_while_the_tables_are_made_leaves_a_store_that_opens(start: Starter, open_store: Opener) -> None:
    """The first migration is all or nothing."""
    for delay_ms in range(350, 1050, 100):
        opening = start("append", 1)
        time.sleep(delay_ms / 1000)
        opening.kill()
        opening.communicate()

    assert open_store().verify_now().problems == ()


@pytest.mark.postgres
def test_a_database_server_that_crashes_loses_no_line(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """While it is gone the error says so; once it is back the same store goes on, everything acknowledged is there."""
    store = Store.open(postgres_server.empty(), journal_key=KEY, anchor_path=tmp_path / "anchor")
    note = Entry("incident.note", "alice", store_writer.NOW, "before")
    kept = [store.run_now(lambda tx: tx.append(note))[0] for _ in range(5)]
    postgres_server.stop()
    try:
        with pytest.raises(StoreError, match=r"store postgresql.*connection"):
            store.run_now(lambda tx: tx.append(note))
    finally:
        postgres_server.start()

    last = store.run_now(lambda tx: tx.append(note))[0]

    assert store.read_now(lambda tx: tx.lines()) == (*kept, last)
    assert store.verify_now().problems == ()
    store.close()
