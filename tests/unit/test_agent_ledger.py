"""Request ids are remembered across restarts and crashes (invariant I2)."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireline_agent.errors import RefusedError
from fireline_agent.ledger import Command, Known, Ledger


def _command(request_id: str, *, content: bytes = b"c", fence_token: int = 1) -> Command:
    return Command(request_id, content, fence_token)


@contextmanager
def _ledger(folder: Path, *, limit: int = 100) -> Iterator[Ledger]:
    with closing(Ledger.open(folder / "ledger", limit=limit)) as opened:
        yield opened


def test_a_repeat_gets_the_first_answer_after_a_restart(tmp_path: Path) -> None:
    """I2: the second begin acts no more; it gets what the first one answered."""
    with _ledger(tmp_path) as first:
        assert first.begin(_command("r1")) is None
        first.finish("r1", b"answer \x00\n")
        first.finish("r1", b"another")

    with _ledger(tmp_path) as second:
        assert second.begin(_command("r1")) == Known(b"answer \x00\n")


def test_a_command_that_began_and_crashed_is_known_without_an_answer(tmp_path: Path) -> None:
    """I2: the caller can tell a command that may have acted from a new one."""
    with _ledger(tmp_path) as first:
        first.begin(_command("r1"))

    with _ledger(tmp_path) as second:
        assert second.begin(_command("r1")) == Known(None)
        assert second.unfinished() == ("r1",)


def test_the_same_id_for_another_request_is_refused(tmp_path: Path) -> None:
    """I2: an id that was spent can't carry something else, whether it ended or not."""
    with _ledger(tmp_path) as opened:
        opened.begin(_command("r1"))

        with pytest.raises(RefusedError, match="request id r1 was used before for another request") as error:
            opened.begin(_command("r1", content=b"other"))
    assert error.value.reason == "request_mismatch"


def test_an_older_fence_token_is_refused_after_a_restart_too(tmp_path: Path) -> None:
    """The highest token is durable; a repeat of a known id is answered whatever its token."""
    with _ledger(tmp_path) as first:
        first.settle(_command("old", fence_token=3), b"done")
        first.begin(_command("new", fence_token=9))

    with _ledger(tmp_path) as second:
        with pytest.raises(RefusedError, match="fence token 8 is older than 9, which this host has seen") as error:
            second.begin(_command("stale", fence_token=8))
        assert error.value.reason == "fenced"
        assert second.begin(_command("old", fence_token=3)) == Known(b"done")
        assert second.fence_token == 9


def test_settle_answers_a_repeat_with_the_first_answer(tmp_path: Path) -> None:
    """One durable write; the answer that was first counts."""
    with _ledger(tmp_path) as opened:
        assert opened.settle(_command("r1"), b"first") == b"first"
        assert opened.settle(_command("r1"), b"second") == b"first"


@pytest.mark.parametrize("request_id", ["", "x" * 101, "line\nbreak"])
def test_a_request_id_that_is_no_id_is_refused(request_id: str) -> None:
    """The id goes into a file and into messages: it is short and printable."""
    with pytest.raises(RefusedError, match=r"context\.request_id: wanted 1 to 100 printable characters"):
        _command(request_id)


@given(cut=st.integers(min_value=0, max_value=400))
def test_a_torn_tail_is_dropped_and_the_rest_kept(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """I2: wherever a crash cuts the file, all whole lines count and the next write starts clean."""
    folder = tmp_path_factory.mktemp("torn")
    with _ledger(folder) as first:
        for n in range(4):
            first.settle(_command(f"r{n}"), f"answer {n}".encode())
    path = folder / "ledger"
    whole = path.read_bytes()
    os.truncate(path, min(cut, len(whole)))
    lines = whole[:cut].count(b"\n")

    with _ledger(folder) as second:
        second.settle(_command("later"), b"later")
    with _ledger(folder) as third:
        for n in range(4):
            assert third.find(_command(f"r{n}")) == (Known(f"answer {n}".encode()) if n < lines else None)
        assert third.find(_command("later")) == Known(b"later")


def test_a_damaged_line_costs_no_other(tmp_path: Path) -> None:
    """A flipped byte in the middle is left out and logged; the ids after it are still known."""
    with _ledger(tmp_path) as first:
        for n in range(3):
            first.settle(_command(f"r{n}"), b"answer")
    path = tmp_path / "ledger"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"r1", b"rX") + lines[2])

    with _ledger(tmp_path) as second:
        assert second.find(_command("r1")) is None
        assert second.find(_command("r2")) == Known(b"answer")


def test_the_file_stays_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    """Old ids are forgotten in their order; answers, open commands and the fence token survive the rewriting."""
    with _ledger(tmp_path, limit=10) as opened:
        opened.settle(_command("token", fence_token=50), b"")
        for n in range(100):
            opened.settle(_command(f"r{n}", fence_token=50), b"x" * 50)
        opened.begin(_command("open", fence_token=50))

    assert (tmp_path / "ledger").stat().st_size < 4000
    with _ledger(tmp_path, limit=10) as second:
        assert second.find(_command("r99")) == Known(b"x" * 50)
        assert second.find(_command("r0")) is None
        assert (second.unfinished(), second.fence_token) == (("open",), 50)


def test_a_full_disk_leaves_the_ledger_whole(tmp_path: Path) -> None:
    """A line that does not fit is taken back: the command is not known, and those before it are."""
    import resource
    import signal

    with _ledger(tmp_path) as opened:
        opened.settle(_command("r1"), b"kept")
        size = (tmp_path / "ledger").stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
        try:
            with pytest.raises(OSError, match="No space left on device"):
                opened.settle(_command("r2"), b"lost")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, previous)

        assert opened.find(_command("r2")) is None
        assert opened.settle(_command("r3"), b"fits") == b"fits"
    with _ledger(tmp_path) as second:
        assert second.find(_command("r1")) == Known(b"kept")
        assert second.find(_command("r3")) == Known(b"fits")
