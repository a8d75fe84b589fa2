"""Work that may hang or die, done in forked children."""

import os
import signal
import time

import psutil
import pytest

from fireline_agent.hands import children


def test_answers_come_back_for_every_item() -> None:
    """Each item gets its own bytes, however many share a child."""
    answers = dict(children.each(range(50), lambda n: b"x" * n * 10_000, timeout_s=5, lane_of=lambda n: n % 3))

    assert {n: len(answer) for n, answer in answers.items() if isinstance(answer, bytes)} == {
        n: n * 10_000 for n in range(50)
    }


def test_one_that_hangs_costs_its_time_once_and_the_others_nothing() -> None:
    """The items behind a hanging one are done in a new child; several hanging lanes wait at the same time."""

    def work(item: int) -> bytes:
        if item in (3, 14):
            time.sleep(60)
        return b"done"

    start = time.monotonic()
    answers = dict(children.each(range(20), work, timeout_s=0.3, lane_of=lambda item: item // 10))
    took_s = time.monotonic() - start

    assert took_s < 1.5
    assert {item for item, answer in answers.items() if answer == b"done"} == set(range(20)) - {3, 14}
    for item in (3, 14):
        answer = answers[item]
        assert isinstance(answer, children.Hung)
        assert str(answer) == "no answer within 0.3 s"
        assert answer.pid == 0


def test_a_child_that_dies_takes_only_its_item_with_it() -> None:
    """A crash inside a C library is told for that item; the rest is done."""

    def work(item: int) -> bytes:
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return b"done"

    answers = dict(children.each(range(3), work, timeout_s=5))

    assert (answers[0], answers[2]) == (b"done", b"done")
    assert str(answers[1]) == "its process died"


def test_what_the_work_raises_is_told() -> None:
    """An exception crosses as its text."""

    def work() -> bytes:
        raise OSError("no such thing")

    with pytest.raises(children.ChildFailed, match=r"\Ano such thing\Z"):
        children.output_of(work, timeout_s=5)


def _own_children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}  # zombies too


def test_no_child_is_left_behind() -> None:
    """Whoever stops listening half-way leaves neither child nor zombie."""
    before = _own_children()
    answers = children.each(range(4), lambda _: b"x", timeout_s=5, lane_of=lambda item: item)
    next(answers)
    answers.close()

    assert _own_children() == before
