"""What comes next in a run, decided from its record alone."""

from dataclasses import replace
from typing import Any

import pytest

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
from fireline_controller.runbooks.record import Ended, HostEnd, Move, Part, RunState, RunWish
from tests.runs.course_world import Answer, Play, fine


def act(name: str, action: str = "reversible.x", **more: Any) -> Step:
    """A step that acts."""
    return Step(name, ActionCall(action), timeout_s=60, **more)


def book(*steps: Step, finally_: tuple[Step, ...] = (), targets: Targets | None = None) -> Runbook:
    """A runbook of these steps."""
    return Runbook("book", 1, "", "0" * 64, steps, finally_=finally_, targets=targets or Targets())


def failing(*bad: tuple[str, Part, str], outcome: Outcome = Outcome.FAILED, **more: Any) -> Answer:
    """Everything goes well but these: step, part and host; a host of "*" is any."""

    def answer(move: Move, host: str) -> HostEnd:
        hit = any((move.step, move.part) == (step, part) and host_ in (host, "*") for step, part, host_ in bad)
        return HostEnd(host, outcome, "no good", **more) if hit else fine(move, host)

    return answer


def test_an_action_is_planned_on_every_host_before_it_is_done() -> None:
    """One step, three hosts, all at once: begun, planned, done."""
    play = Play(book(act("s")))

    assert play.run().state is RunState.SUCCEEDED
    assert play.moves() == ["s/begin/0/1", "s/plan/0/1", "s/do/0/1"]


def test_what_only_reads_is_not_done() -> None:
    """The plan of a reading action is what it found."""
    play = Play(book(act("s", "read.x")))

    assert play.run().state is RunState.SUCCEEDED
    assert play.moves(Part.DO) == []


def test_a_plan_that_changes_nothing_is_not_done() -> None:
    """Nothing to do is no failure."""

    def nothing(move: Move, host: str) -> HostEnd:
        return HostEnd(host, Outcome.OK)

    play = Play(book(act("s")), answer=nothing)

    assert play.run().state is RunState.SUCCEEDED
    assert play.moves(Part.DO) == []


def test_a_condition_is_decided_for_each_host() -> None:
    """Hosts for which it is false are skipped, which is no failure."""
    step = replace(act("s"), when="host.labels.role")
    play = Play(book(step))

    ended = play.run()

    assert ended.state is RunState.FAILED
    assert "'host.labels.role' is 'a': wanted true or false" in ended.why


def test_hosts_that_a_condition_leaves_out_are_not_asked() -> None:
    """All are left out: the step is over, and the next one comes."""
    play = Play(book(replace(act("s"), when="not params.yes"), act("t")))

    assert play.run().state is RunState.SUCCEEDED
    assert play.moves(Part.DO) == ["t/do/0/1"]


def test_a_canary_goes_first_and_its_failure_stops_the_rest() -> None:
    """The others are not begun, however many failures would be allowed."""
    targets = Targets(canary=1, max_fail="3")
    play = Play(book(act("s", targets=targets)), answer=failing(("s", Part.DO, "a")))

    ended = play.run()

    assert (ended.state, play.moves(Part.DO)) == (RunState.FAILED, ["s/do/0/1"])
    assert play.hosts_of("s/do/0/1") == ("a",)


def test_batches_follow_one_another() -> None:
    """Half of four hosts at a time."""
    play = Play(book(act("s", targets=Targets(batch="50%"))), hosts=("a", "b", "c", "d"))

    play.run()

    assert [play.hosts_of(key) for key in play.moves(Part.DO)] == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize(
    ("max_fail", "batches"), [("0", 1), ("1", 3), ("34%", 3)], ids=["none allowed", "one allowed", "a third allowed"]
)
def test_failures_beyond_the_allowed_stop_the_batches(max_fail: str, batches: int) -> None:
    """The first of three hosts fails, one host a batch."""
    targets = Targets(batch="1", max_fail=max_fail)
    play = Play(book(act("s", targets=targets)), answer=failing(("s", Part.DO, "a")))

    play.run()

    assert len(play.moves(Part.DO)) == batches


def test_only_the_hosts_that_failed_are_tried_again() -> None:
    """Each attempt is planned anew, for the host is not as it was."""
    play = Play(book(act("s", retry=Retry(3))), answer=failing(("s", Part.DO, "b")))

    ended = play.run()

    assert ended.state is RunState.FAILED
    assert [play.hosts_of(f"s/do/0/{n}") for n in (1, 2, 3)] == [("a", "b", "c"), ("b",), ("b",)]
    assert len(play.moves(Part.PLAN)) == 3


@pytest.mark.parametrize("outcome", [Outcome.DENIED, Outcome.CANCELLED])
def test_a_host_that_said_no_is_not_tried_again(outcome: Outcome) -> None:
    """It would say no again."""
    play = Play(book(act("s", retry=Retry(3))), answer=failing(("s", Part.DO, "b"), outcome=outcome))

    play.run()

    assert len(play.moves(Part.DO)) == 1


def test_nobody_is_tried_again_after_the_step_s_time() -> None:
    """Its clock holds for all attempts."""
    late = failing(("s", Part.DO, "b"), outcome=Outcome.TIMED_OUT, is_out_of_time=True)
    play = Play(book(act("s", retry=Retry(3))), answer=late)

    play.run()

    assert len(play.moves(Part.DO)) == 1


def test_a_step_that_is_not_verified_has_failed() -> None:
    """It was done on all hosts, and helped on two of them."""
    step = act("s", verify=Until(ActionCall("read.y"), "result.good", 60))
    play = Play(book(step, act("t")), answer=failing(("s", Part.VERIFY, "c")))

    ended = play.run()

    assert ended.state is RunState.FAILED
    assert ended.why == "s: c: failed: no good"
    assert play.hosts_of("s/verify/0/1") == ("a", "b", "c")


@pytest.mark.parametrize("outcome", [Outcome.DENIED, Outcome.CANCELLED])
@pytest.mark.parametrize("how", [OnFailure.ABORT, OnFailure.CONTINUE, OnFailure.GOTO])
def test_a_step_that_was_not_approved_ends_the_run(outcome: Outcome, how: OnFailure) -> None:
    """Whatever its failure would lead to: people did not agree."""
    step = act("s", approval=Approval(), on_failure=how, goto="t")
    play = Play(book(step, act("t")), answer=failing(("s", Part.APPROVE, ""), outcome=outcome))

    assert play.run().state is RunState.FAILED
    assert play.moves(Part.PLAN, Part.DO) == ["s/plan/0/1"]


def test_what_others_approve_is_planned_before_and_is_what_is_done() -> None:
    """On all hosts at once, though it is done host by host."""
    play = Play(book(act("s", approval=Approval(), targets=Targets(batch="1"))))

    assert play.run().state is RunState.SUCCEEDED
    assert play.moves(Part.PLAN, Part.APPROVE, Part.DO) == [
        "s/plan/0/1", "s/approve/0/1", "s/do/0/1", "s/do/1/1", "s/do/2/1",
    ]  # fmt: skip


def test_nobody_is_asked_where_nothing_would_change() -> None:
    """The step has ended well, and on one host of three it is for that one."""

    def answer(move: Move, host: str) -> HostEnd:
        changes = move.part is not Part.PLAN or (move.step == "t" and host == "b")
        return fine(move, host) if changes else HostEnd(host, Outcome.OK, "nothing to do")

    play = Play(book(act("s", approval=Approval()), act("t", approval=Approval())), answer=answer)

    assert play.run().state is RunState.SUCCEEDED
    assert play.moves(Part.APPROVE, Part.DO) == ["t/approve/0/1", "t/do/0/1"]
    assert play.hosts_of("t/approve/0/1") == ("b",)


def test_a_failure_that_is_gone_on_after_makes_the_run_a_failed_one() -> None:
    """The next step is done all the same, on every host."""
    play = Play(book(act("s", on_failure=OnFailure.CONTINUE), act("t")), answer=failing(("s", Part.DO, "a")))

    assert play.run().state is RunState.FAILED
    assert play.hosts_of("t/do/0/1") == ("a", "b", "c")


def test_a_failure_can_lead_to_a_later_step() -> None:
    """What stands between is left out."""
    steps = (act("s", on_failure=OnFailure.GOTO, goto="u"), act("t"), act("u"))
    play = Play(book(*steps), answer=failing(("s", Part.DO, "a")))

    play.run()

    assert play.moves(Part.DO) == ["s/do/0/1", "u/do/0/1"]


def test_a_way_that_leads_back_ends_the_run() -> None:
    """A run comes to no step twice."""
    steps = (act("s"), act("t", on_failure=OnFailure.GOTO, goto="s"))
    play = Play(book(*steps), answer=failing(("t", Part.DO, "a")))

    ended = play.run()

    assert (ended.state, ended.why) == (RunState.FAILED, "step 's' would come a second time")


def test_a_host_that_failed_within_what_is_allowed_takes_no_further_part() -> None:
    """The others go on without it."""
    steps = (act("s", targets=Targets(max_fail="1")), act("t"))
    play = Play(book(*steps), answer=failing(("s", Part.DO, "b")))

    assert play.run().state is RunState.SUCCEEDED
    assert play.hosts_of("t/do/0/1") == ("a", "c")


def test_i3_nothing_is_destroyed_on_a_host_whose_capture_is_not_sealed() -> None:
    """The capture failed on one host, which the runbook allows; that host is refused, and no other is touched."""
    capture = Step("cap", CaptureCall("volatile"), is_required=True, on_failure=OnFailure.CONTINUE)
    play = Play(book(capture, act("kill", "destructive.x")), answer=failing(("cap", Part.DO, "b")))

    ended = play.run()

    assert ended.why == "kill: b: denied: destructive.x destroys what cap was to keep, and that is not sealed here"
    assert play.moves(Part.PLAN) == []


def test_i3_what_was_captured_may_be_destroyed() -> None:
    """The capture is sealed everywhere."""
    capture = Step("cap", CaptureCall("volatile"), is_required=True)
    play = Play(book(capture, act("kill", "destructive.x")))

    assert play.run().state is RunState.SUCCEEDED
    assert play.hosts_of("kill/do/0/1") == ("a", "b", "c")


def test_what_was_done_is_taken_back_in_reverse() -> None:
    """The last step fails; the two before, and what it did itself, are taken back, the last first."""
    steps = (act("s"), act("t"), act("u", on_failure=OnFailure.ROLLBACK))
    play = Play(book(*steps), answer=failing(("u", Part.DO, "b"), can_undo=True, request_id="u-b"))

    ended = play.run()

    assert ended.state is RunState.ROLLED_BACK
    assert play.moves(Part.UNDO) == ["u/undo/0/1", "t/undo/0/1", "s/undo/0/1"]
    assert play.hosts_of("u/undo/0/1") == ("a", "b", "c")


def test_every_attempt_is_taken_back() -> None:
    """The first attempt did a part before it failed, the second one the rest."""
    step = act("s", retry=Retry(2))

    def answer(move: Move, host: str) -> HostEnd:
        end = fine(move, host)
        return replace(end, outcome=Outcome.FAILED) if (move.part, move.attempt) == (Part.DO, 1) else end

    play = Play(book(step), hosts=("a",), answer=answer, wish=RunWish.ROLL_BACK, wish_after=50)
    play.run()
    play.wish_after = 0

    assert play.run().state is RunState.ROLLED_BACK
    assert play.moves(Part.UNDO) == ["s/undo/0/2", "s/undo/0/1"]


def test_a_step_s_own_rollback_is_preferred_to_the_undo() -> None:
    """It is an action like others: planned, then done."""
    steps = (act("s", rollback=ActionCall("reversible.back")), act("t", on_failure=OnFailure.ROLLBACK))
    play = Play(book(*steps), answer=failing(("t", Part.DO, "*")))

    assert play.run().state is RunState.ROLLED_BACK
    assert play.moves(Part.UNDO, Part.BACK_PLAN, Part.BACK) == ["s/back-plan/0/1", "s/back/0/1"]


def test_an_isolation_is_taken_back_by_letting_the_hosts_back() -> None:
    """It counts as what the run did."""
    steps = (Step("cut", IsolateCall(), timeout_s=60), act("t", on_failure=OnFailure.ROLLBACK))
    play = Play(book(*steps), answer=failing(("t", Part.DO, "*")))

    play.run()

    assert play.moves(Part.UNDO) == ["cut/undo/0/1"]


def test_what_can_not_be_taken_back_is_said_and_keeps_nothing_else() -> None:
    """The run has failed then, not rolled back."""
    steps = (act("s"), act("t"), act("u", on_failure=OnFailure.ROLLBACK))
    play = Play(book(*steps), answer=failing(("u", Part.DO, "*"), ("t", Part.UNDO, "a")))

    ended = play.run()

    assert ended.state is RunState.FAILED
    assert ended.why.endswith("not taken back: t on a (no good)")
    assert play.moves(Part.UNDO) == ["t/undo/0/1", "s/undo/0/1"]


def test_what_has_no_way_back_is_said() -> None:
    """The rollback goes on without it."""
    steps = (act("s", no_way_back="sessions are gone"), act("t", on_failure=OnFailure.ROLLBACK))

    def answer(move: Move, host: str) -> HostEnd:
        end = failing(("t", Part.DO, "*"))(move, host)
        return replace(end, can_undo=False)

    ended = Play(book(*steps), answer=answer).run()

    assert ended.state is RunState.ROLLED_BACK
    assert "stays as it is: s (sessions are gone)" in ended.why


def test_what_is_done_finally_is_done_after_a_failure() -> None:
    """And its own failure keeps none of the rest of it."""
    play = Play(book(act("s"), finally_=(act("f"), act("g"))), answer=failing(("s", Part.DO, "*"), ("f", Part.DO, "*")))

    ended = play.run()

    assert ended.why == "s: a and 2 more: failed: no good; finally: f: a and 2 more: failed: no good"
    assert play.moves(Part.DO) == ["s/do/0/1", "f/do/0/1", "g/do/0/1"]


def test_a_cancelled_run_does_what_is_to_be_done_finally() -> None:
    """Nothing else is begun."""
    play = Play(book(act("s"), act("t"), finally_=(act("f"),)), wish=RunWish.CANCEL, wish_after=3)

    assert play.run().state is RunState.CANCELLED
    assert play.moves(Part.DO) == ["s/do/0/1", "f/do/0/1"]


def test_a_cancellation_that_comes_too_late_changes_nothing() -> None:
    """All was done by then."""
    assert Play(book(act("s")), wish=RunWish.CANCEL, wish_after=3).run().state is RunState.SUCCEEDED


def test_a_run_that_succeeded_can_be_rolled_back() -> None:
    """What is done finally is not done again."""
    play = Play(book(act("s"), finally_=(act("f"),)))
    play.run()
    play.wish = RunWish.ROLL_BACK

    assert play.run().state is RunState.ROLLED_BACK
    assert play.moves(Part.UNDO) == ["s/undo/0/1"]
    assert play.moves(Part.DO) == ["s/do/0/1", "f/do/0/1"]


@pytest.mark.parametrize(
    ("said", "state"),
    [(Outcome.OK, RunState.SUCCEEDED), (Outcome.SKIPPED, RunState.SUCCEEDED), (Outcome.FAILED, RunState.FAILED)],
)
def test_a_person_decides_a_step_that_is_done_by_hand(said: Outcome, state: RunState) -> None:
    """Done and not needed are both good."""
    step = Step("m", Manual("look at the console"), timeout_s=60)

    assert Play(book(step), answer=failing(("m", Part.MANUAL, ""), outcome=said)).run().state is state


def test_parallel_steps_all_end_before_the_next() -> None:
    """Each is a step of its own."""
    both = Step("p", Parallel((act("x"), act("y"))))
    play = Play(book(both, act("t")))

    assert play.run().state is RunState.SUCCEEDED
    assert play.moves(Part.DO)[-1] == "t/do/0/1"
    assert sorted(play.moves(Part.DO)[:2]) == ["x/do/0/1", "y/do/0/1"]


def test_no_parallel_step_is_begun_after_one_has_failed() -> None:
    """One at a time here, and the first one fails."""
    both = Step("p", Parallel((act("x"), act("y")), limit=1))
    play = Play(book(both), answer=failing(("x", Part.DO, "*")))

    assert play.run().state is RunState.FAILED
    assert play.moves(Part.BEGIN) == ["x/begin/0/1"]


def test_results_of_a_step_are_parameters_of_the_next() -> None:
    """Each host has its own."""

    def answer(move: Move, host: str) -> HostEnd:
        end = fine(move, host)
        return replace(end, result={"pids": [host]}) if move.step == "s" else end

    steps = (act("s", "read.x"), Step("t", ActionCall("reversible.x", {"pids": "${steps.s.result.pids}"}), timeout_s=9))
    play = Play(book(*steps), answer=answer)

    play.run()

    begun = next(t.move for t in play.record if t.move.key == "t/begin/0/1")
    assert {one.hosts: one.given for one in begun.filled} == {
        ("a",): {"pids": ["a"]},
        ("b",): {"pids": ["b"]},
        ("c",): {"pids": ["c"]},
    }


_WHOLE = book(
    Step("cap", CaptureCall("volatile"), is_required=True),
    act("look", "read.x"),
    Step("p", Parallel((act("x", retry=Retry(2)), act("y", targets=Targets(batch="1"))), limit=2)),
    act("kill", "destructive.x", approval=Approval(), verify=Until(ActionCall("read.y"), "params.yes", 9)),
    Step("m", Manual("look"), timeout_s=9),
    act("last", on_failure=OnFailure.ROLLBACK, rollback=ActionCall("reversible.back")),
    finally_=(act("f"),),
    targets=Targets(max_fail="1"),
)


@pytest.mark.parametrize("interrupt_at", range(30))
@pytest.mark.parametrize("bad", ["", "x", "last"])
def test_i6_a_run_that_is_interrupted_after_any_move_ends_as_one_that_is_not(bad: str, interrupt_at: int) -> None:
    """The same moves, on the same hosts, in the same order, and the same end."""
    answer = failing((bad, Part.DO, "*"), can_undo=True, request_id="r") if bad else fine
    whole, cut = Play(_WHOLE, answer=answer), Play(_WHOLE, answer=answer, interrupt_at=interrupt_at)

    assert cut.run() == whole.run()
    assert cut.moves() == whole.moves()
    assert cut.acted == whole.acted


def test_a_host_that_is_lost_on_the_way_is_named_at_the_end() -> None:
    """Few enough failed for the run to succeed; it still says on whom it was not done."""
    steps = (act("s", targets=Targets(max_fail="1")), act("t"))

    ended = Play(book(*steps), answer=failing(("s", Part.DO, "b"))).run()

    assert ended == Ended(RunState.SUCCEEDED, "not done on b, lost in step s")


def test_a_run_that_loses_every_host_has_failed() -> None:
    """However many failures a step allows."""
    steps = (act("s", targets=Targets(max_fail="100%")), act("t"))
    answer = failing(("s", Part.DO, "a"), ("s", Part.DO, "b"), ("s", Part.DO, "c"))

    ended = Play(book(*steps), answer=answer).run()

    assert ended == Ended(RunState.FAILED, "not done on a,b,c, lost in step s")
