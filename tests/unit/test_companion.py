"""A companion answers line by line, stays for a while, and is started again when it is gone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fireline_agent.hands.companion import Companion
from tests.lab import eventually


@contextmanager
def companion(*, idle_s: float = 30) -> Iterator[Companion]:
    """One that echoes."""
    made = Companion("tests.fakes.echo_child", idle_s=idle_s)
    try:
        yield made
    finally:
        made.close()


def ask(asked: Companion, text: str, *, timeout_s: float = 20) -> tuple[int, str]:
    """Its pid and what it echoes."""
    pid, _, said = asked.ask(text.encode(), timeout_s=timeout_s).decode().partition(" ")
    return int(pid), said


def is_gone(pid: int) -> bool:
    """Whether the process is no more, not even as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_second_question_goes_to_the_same_process() -> None:
    """What it has loaded is there still; closed, it is gone."""
    with companion() as asked:
        first, second = ask(asked, "one"), ask(asked, "two")

    assert (first[1], second[1]) == ("one", "two")
    assert first[0] == second[0]
    assert is_gone(first[0])


def test_it_leaves_when_nobody_asks() -> None:
    """And comes back for the next question."""
    with companion(idle_s=0.2) as asked:
        pid, _ = ask(asked, "one")
        eventually(lambda: is_gone(pid), within_s=10, what="the companion to leave")

        assert ask(asked, "two")[0] != pid


def test_one_that_dies_over_a_question_is_told_and_started_again() -> None:
    """The question may be what killed it, so it is not asked twice."""
    with companion() as asked:
        pid, _ = ask(asked, "one")
        with pytest.raises(OSError, match="it ended over the question"):
            ask(asked, "die")

        assert ask(asked, "two")[0] != pid


def test_one_that_hangs_is_ended() -> None:
    """Every wait has an end."""
    with companion() as asked:
        pid, _ = ask(asked, "one")
        with pytest.raises(TimeoutError, match="no answer in time"):
            ask(asked, "hang", timeout_s=0.2)

        assert is_gone(pid)
