"""What holds for every run of every runbook, however its hosts answer and wherever it is interrupted."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from fireline_controller.model import Outcome
from fireline_controller.runbooks.model import (
    ActionCall,
    Approval,
    CaptureCall,
    IsolateCall,
    Manual,
    OnFailure,
    Parallel,
    Retry,
    Runbook,
    Step,
    Targets,
    Until,
)
from fireline_controller.runbooks.record import ENDED, HostEnd, Move, Part, RunState, RunWish
from tests.runs.course_world import Play, fine

_IDS = ("s0", "s1", "s2", "s3", "s4", "s5")
_FINAL_IDS = ("f0", "f1")

_dos = st.one_of(
    st.sampled_from(["read.x", "reversible.x", "disruptive.x", "destructive.x"]).map(ActionCall),
    st.just(CaptureCall("volatile")),
    st.just(IsolateCall()),
    st.just(Manual("look")),
)
_targets = st.builds(
    Targets,
    batch=st.sampled_from(["", "1", "2", "50%"]),
    canary=st.integers(0, 2),
    max_fail=st.sampled_from(["0", "1", "50%", "100%"]),
)


def _steps(ids: tuple[str, ...]) -> st.SearchStrategy[tuple[Step, ...]]:
    return st.integers(1, len(ids)).flatmap(lambda n: st.tuples(*(_step(name, ids) for name in ids[:n])))


def _step(name: str, ids: tuple[str, ...]) -> st.SearchStrategy[Step]:
    return st.builds(
        Step,
        id=st.just(name),
        do=_dos,
        when=st.sampled_from(["", "params.yes", "not params.yes", "steps.s0.nothing"]),
        timeout_s=st.just(60),
        is_required=st.booleans(),
        targets=st.none() | _targets,
        approval=st.none() | st.just(Approval()),
        retry=st.integers(1, 3).map(Retry),
        verify=st.none() | st.just(Until(ActionCall("read.y"), "params.yes", 9)),
        on_failure=st.sampled_from(list(OnFailure)),
        goto=st.sampled_from(ids),
        rollback=st.none() | st.just(ActionCall("reversible.back")),
    )


@st.composite
def _runbooks(draw: st.DrawFn) -> Runbook:
    steps = draw(_steps(_IDS))
    cut = draw(st.integers(0, len(steps)))
    known = {step.id for step in steps}
    steps = tuple(replace(s, goto=s.goto if s.goto in known else s.id) for s in steps)
    inner = tuple(replace(s, on_failure=OnFailure.ABORT) for s in steps[cut:])
    whole = (*steps[:cut], Step("all", Parallel(inner, draw(st.integers(1, 3))))) if inner else steps
    whole = tuple(replace(s, goto=s.goto if s.goto in {t.id for t in whole} else whole[-1].id) for s in whole)
    return Runbook("book", 1, "", "0" * 64, whole, finally_=draw(_steps(_FINAL_IDS)), targets=draw(_targets))


_bad = st.lists(
    st.tuples(st.sampled_from(_IDS + _FINAL_IDS), st.sampled_from(list(Part)), st.sampled_from("ab")), max_size=6
)
_wishes = st.sampled_from(list(RunWish))


@settings(deadline=None, max_examples=150)
@given(_runbooks(), _bad, st.sampled_from(list(Outcome)), _wishes, st.integers(0, 30), st.integers(-1, 40))
def test_every_run_ends_and_keeps_its_promises(
    book: Runbook,
    bad: list[tuple[str, Part, str]],
    outcome: Outcome,
    wish: RunWish,
    wish_after: int,
    interrupt_at: int,
) -> None:
    """It ends, no host acts twice under one key, what is done finally is reached, and the way back is in reverse."""

    def answer(move: Move, host: str) -> HostEnd:
        end = fine(move, host)
        return replace(end, outcome=outcome) if (move.step, move.part, host or "a") in bad else end

    play = Play(book, ("a", "b", "c"), answer, wish, wish_after, interrupt_at)

    ended = play.run()

    assert ended.state in ENDED
    assert not play.acted or max(play.acted.values()) == 1
    assert {f"{step.id}/begin/0/1" for step in book.finally_} <= set(play.moves(Part.BEGIN))
    undone = [key.replace("/undo/", "/do/") for key in play.moves(Part.UNDO)]
    done = [key for key in play.moves(Part.DO) if key in undone]
    assert undone == list(reversed(done))
    assert ended.state is not RunState.SUCCEEDED or not undone


@settings(deadline=None, max_examples=150)
@given(_runbooks(), _bad, st.integers(0, 40))
def test_an_interruption_changes_nothing(book: Runbook, bad: list[tuple[str, Part, str]], interrupt_at: int) -> None:
    """Neither the moves nor their order nor the end."""

    def answer(move: Move, host: str) -> HostEnd:
        end = fine(move, host)
        return replace(end, outcome=Outcome.FAILED) if (move.step, move.part, host or "a") in bad else end

    whole, cut = Play(book, answer=answer), Play(book, answer=answer, interrupt_at=interrupt_at)

    assert cut.run() == whole.run()
    assert cut.moves() == whole.moves()
