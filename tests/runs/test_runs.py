"""Runs as operators see them: on record before anything is done, waited for, stopped, taken back, gone on with."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fireline_controller.engine import by_hand
from fireline_controller.engine.locks import Holder
from fireline_controller.engine.runs.deeds import Order
from fireline_controller.engine.runs.values import MoveBegun, MoveEnded, RunOrder, RunSeen
from fireline_controller.engine.values import TargetSpec, Wish
from fireline_controller.model import EmptyTarget, HostOutcome, Operation, Outcome, PolicyError, Severity, Target
from fireline_controller.runbooks.model import ActionCall, Approval, Manual, OnFailure, Parallel, Runbook, Step
from fireline_controller.runbooks.record import Part, RunState, RunWish
from fireline_controller.store import Transaction
from fireline_controller.targets import freeze
from tests.runs.books import Shelf
from tests.runs.world import World, world

READ, CHANGE = "test.read", "test.change"


def act(name: str, action: str = CHANGE, **more: object) -> Step:
    """A step that acts."""
    return replace(Step(name, ActionCall(action), timeout_s=60), **more)  # type: ignore[arg-type]  # fields by name


def book(*steps: Step, version: int = 1, finally_: tuple[Step, ...] = ()) -> Runbook:
    """A runbook of these steps."""
    return Runbook("book", version, "", "0" * 64, steps, finally_=finally_)


WHOLE = book(act("s"), act("t"), finally_=(act("f"),))


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    """A controller with the runbook WHOLE, on hosts that do at once what they are told."""
    async with world(tmp_path / "state", Shelf(WHOLE)) as made:
        made.hosts.hold.set()
        yield made


async def test_i6_every_move_is_journaled_before_it_is_made(here: World) -> None:
    """When the hosts hear of an application, its intent stands in the journal."""
    seen: list[int] = []
    here.hosts.on_order = lambda _verb, order: seen.append(
        here.store.read_now(lambda tx: sum(f"step {order.step}" in line.entry.summary for line in tx.lines()))
    )

    run = await here.start()
    ended = await here.until(run.id)

    assert ended.state is RunState.SUCCEEDED
    assert all(seen)
    assert here.hosts.done() == {f"apply {CHANGE}@{name}": 3 for name in "abc"}


async def test_a_run_is_followed_from_its_beginning_to_its_end(here: World) -> None:
    """Whenever somebody begins to look."""
    run = await here.start()
    await here.until(run.id)

    news = [item async for item in here.runs.follow(run.id)]

    assert isinstance(news[0], RunSeen)
    begun = [item.move.key for item in news if isinstance(item, MoveBegun)]
    assert begun == [item.move.key for item in news if isinstance(item, MoveEnded)]
    assert begun[-1] == "f/do/0/1"


def opened_for(tx: Transaction, *names: str) -> str:
    """An incident whose opening captured these hosts; its id."""
    at = datetime.now(UTC)
    incident = tx.new_incident(Severity("P2"), "shop is slow", "alice", ",".join(names), at).id
    tx.put_operation(Operation("op-1", "capture", incident, "alice", "", freeze(names, spelled="these"), at))
    return incident


async def test_without_a_target_a_run_is_on_the_hosts_that_its_incident_was_opened_for(here: World) -> None:
    """Not on all."""
    incident = await here.store.run(lambda tx: opened_for(tx, "a", "c"))
    run = await here.runs.start(RunOrder("book", Wish("alice", TargetSpec(()), "", incident), {}, 0))
    ended = await here.until(run.id)

    assert ended.state is RunState.SUCCEEDED
    assert here.hosts.done() == {f"apply {CHANGE}@{name}": 3 for name in "ac"}


async def test_without_a_target_and_an_incident_nothing_is_started(here: World) -> None:
    """What to say is told."""
    with pytest.raises(EmptyTarget, match=r"book names no target, nor does an incident \(--incident\): say --target"):
        await here.runs.start(RunOrder("book", Wish("alice", TargetSpec(()), "a test"), {}, 0))


async def test_who_looks_at_a_run_asks_a_host_once_for_each_plan(tmp_path: Path) -> None:
    """Steps that do the same share the answer, and a host that can't be reached is not waited for again."""
    async with world(tmp_path / "state", Shelf(book(act("r", READ), act("s"), act("t")))) as here:
        here.hosts.mute.add("b")
        plan = await here.runs.plan(RunOrder("book", Wish("alice", TargetSpec(("all",)), "a test")))

    asked = [(order.what, order.move.hosts) for _, order in here.hosts.orders]
    assert asked == [(READ, ("a", "b", "c")), (CHANGE, ("a", "c"))]
    assert [[one.outcome for one in step.effects] for step in plan.steps] == [["ok", "unreachable", "ok"]] * 3


async def test_only_what_a_rollback_would_take_back_says_so(here: World) -> None:
    """An application that can be undone does; plans and beginnings don't."""
    run = await here.start()
    await here.until(run.id)

    ended = [item async for item in here.runs.follow(run.id) if isinstance(item, MoveEnded)]
    assert {item.move.part for item in ended if item.can_go_back} == {Part.DO}
    assert all(item.can_go_back for item in ended if item.move.part is Part.DO)


async def test_a_second_run_on_the_same_hosts_is_refused_and_told_why(here: World) -> None:
    """Who holds them since when, and what for."""
    here.hosts.hold.clear()
    first = await here.start()

    with pytest.raises(
        PolicyError, match=f"a .and 2 more. is being changed by alice's {first.id} since .*book"
    ) as refused:
        await here.start(operator="bob")

    assert refused.value.reason == "host_locked"


async def test_a_second_run_waits_for_the_first_one(here: World) -> None:
    """It begins when the locks are given up."""
    here.hosts.hold.clear()
    first = await here.start()
    here.hosts.hold.set()

    second = await here.start(wait_s=10)

    assert (await here.until(first.id)).finished_at is not None
    assert (await here.until(second.id)).state is RunState.SUCCEEDED


async def test_a_host_that_an_operation_changes_is_not_to_be_had_either(here: World) -> None:
    """Single actions take the same locks."""
    await here.locks.take(Holder("op-1", "bob", "test.change"), ["b"])

    with pytest.raises(PolicyError, match="b is being changed by bob's op-1"):
        await here.start()

    await here.locks.release("op-1")
    assert (await here.until((await here.start()).id)).state is RunState.SUCCEEDED


async def test_a_lock_whose_owner_is_gone_expires(here: World) -> None:
    """It is in nobody's way after its lease."""
    await here.locks.take(Holder("op-1", "bob", "test.change"), ["b"])
    here.clock.added = timedelta(seconds=61)

    assert (await here.until((await here.start()).id)).state is RunState.SUCCEEDED


async def test_a_cancelled_run_stops_its_hosts_and_does_what_is_to_be_done_finally(here: World) -> None:
    """The applications under way are told to stop; the next step is not begun."""
    here.hosts.hold.clear()
    run = await here.start()
    while "s/do/0/1" not in await here.moves(run.id):
        pass
    here.hosts.on_order = lambda _verb, order: here.hosts.hold.set() if order.step == "f" else None

    await here.runs.wish(run.id, RunWish.CANCEL, operator="bob", reason="wrong hosts")
    ended = await here.until(run.id)

    assert (ended.state, ended.why) == (RunState.CANCELLED, "cancelled by an operator")
    assert "t/begin/0/1" not in await here.moves(run.id)
    assert "f/do/0/1" in await here.moves(run.id)


async def test_a_run_that_succeeded_is_rolled_back_when_somebody_wants_that(here: World) -> None:
    """Every application is taken back under the request id that the host knows it by."""
    run = await here.start()
    await here.until(run.id, RunState.SUCCEEDED)

    await here.runs.wish(run.id, RunWish.ROLL_BACK, operator="bob", reason="it made things worse")
    ended = await here.until(run.id)

    assert ended.state is RunState.ROLLED_BACK
    undone = [order.move.plans for verb, order in here.hosts.orders if verb == "undo"]
    assert undone == [{name: f"{run.id}/{step}/{name}/1" for name in "abc"} for step in "ts"]


async def test_a_run_is_rolled_back_once(here: World) -> None:
    """What can't be taken back the first time is somebody's work."""
    run = await here.start()
    await here.until(run.id, RunState.SUCCEEDED)
    await here.runs.wish(run.id, RunWish.ROLL_BACK, operator="bob", reason="")
    await here.until(run.id, RunState.ROLLED_BACK)

    with pytest.raises(PolicyError, match="it is rolled_back, and bob had it rolled back before"):
        await here.runs.wish(run.id, RunWish.ROLL_BACK, operator="bob", reason="")


async def _waiting(here: World, step: Step) -> str:
    here.shelf.edit(book(step, act("t")))
    run = await here.start()
    await here.until(run.id, RunState.WAITING)
    return run.id


async def test_a_step_waits_until_others_have_approved_it(here: World) -> None:
    """Not until one has, of two that must."""
    run_id = await _waiting(here, act("s", approval=Approval(count=2)))
    request = (await here.runs.show(run_id)).request_id
    await here.approvals.decide(request, operator="bob", approves=True, reason="")
    assert (await here.until(run_id, RunState.WAITING)).state is RunState.WAITING

    await here.approvals.decide(request, operator="carol", approves=True, reason="")

    assert (await here.until(run_id)).state is RunState.SUCCEEDED
    assert (await here.approvals.show(request)).used_by == f"{run_id}/s"


async def test_who_approves_sees_the_values_that_would_be_used(here: World) -> None:
    """Not the expressions that they come from."""
    step = replace(act("s", approval=Approval()), do=ActionCall(CHANGE, {"on": "${host.name}", "fix": 1}))
    request = (await here.runs.show(await _waiting(here, step))).request_id

    given = (await here.approvals.show(request)).parameters["given"]

    assert given == {name: {"on": name, "fix": 1} for name in "abc"}


async def test_whoever_started_the_run_can_not_approve_its_steps(here: World) -> None:
    """Two persons: that is the point of it."""
    request = (await here.runs.show(await _waiting(here, act("s", approval=Approval())))).request_id

    with pytest.raises(PolicyError, match="alice asked for it: somebody else must decide"):
        await here.approvals.decide(request, operator="alice", approves=True, reason="")


async def test_a_step_that_is_denied_ends_the_run(here: World) -> None:
    """With the words of whoever denied it."""
    run_id = await _waiting(here, act("s", approval=Approval()))

    await here.approvals.decide(
        (await here.runs.show(run_id)).request_id, operator="bob", approves=False, reason="not today"
    )
    ended = await here.until(run_id)

    assert (ended.state, ended.why) == (RunState.FAILED, "s: bob denied it: not today")
    assert [what for what, _ in here.hosts.orders] == ["plan"]


async def test_a_request_that_nobody_approves_in_time_ends_the_run(here: World) -> None:
    """An approval after that is too late."""
    run_id = await _waiting(here, act("s", approval=Approval(timeout_s=300)))
    request = (await here.runs.show(run_id)).request_id
    here.clock.added = timedelta(seconds=301)

    with pytest.raises(PolicyError, match="it is expired since"):
        await here.approvals.decide(request, operator="bob", approves=True, reason="")

    assert "not approved in time: it needed 1 approval by any other operator" in (await here.until(run_id)).why


@pytest.mark.parametrize(("word", "state"), [("done", RunState.SUCCEEDED), ("failed", RunState.FAILED)])
async def test_a_step_by_hand_waits_until_somebody_says_what_came_of_it(
    here: World, word: str, state: RunState
) -> None:
    """And the note is on record."""
    run_id = await _waiting(here, Step("m", Manual("pull the plug"), timeout_s=60))

    await here.runs.say(run_id, "m", word, operator="bob", note="it was warm")

    assert (await here.until(run_id)).state is state
    assert any(f"bob says {word}: it was warm" in line for line in await here.journal(run_id))


async def test_what_is_to_be_done_by_hand_is_said_in_one_line(here: World) -> None:
    """However it is punctuated."""
    run_id = await _waiting(here, Step("m", Manual("pull the plug; wait; put it back"), timeout_s=60))

    [line] = (await here.runs.show(run_id)).note.splitlines()

    assert "pull the plug; wait; put it back -- then: fireline runbook done" in line


async def test_hosts_of_a_run_are_changed_by_hand_while_it_waits_for_that(here: World) -> None:
    """Not the hosts of others, and not once it goes on."""
    run_id = await _waiting(here, Step("m", Manual("pull the plug"), timeout_s=60))

    here.store.read_now(lambda tx: by_hand.require(tx, run_id, ["a", "c"]))
    advice = here.store.read_now(lambda tx: by_hand.advice(tx, run_id))
    with pytest.raises(PolicyError, match=r"step m is on a,b,c, not on d"):
        here.store.read_now(lambda tx: by_hand.require(tx, run_id, ["a", "d"]))
    await here.runs.say(run_id, "m", "done", operator="bob", note="")
    await here.until(run_id)

    assert advice == f"if its step m asks for this, say --run {run_id}"
    with pytest.raises(PolicyError, match="it has nothing done by hand now"):
        here.store.read_now(lambda tx: by_hand.require(tx, run_id, ["a"]))


async def test_a_run_waits_for_what_is_still_done_by_hand_on_its_hosts(here: World) -> None:
    """One action at a time changes a host: nobody can say done, nor begin another one, before it has ended."""
    run_id = await _waiting(here, Step("m", Manual("pull the plug"), timeout_s=60))
    target = Target(("b",), "0" * 64, "b", "b")
    at_work = Operation("op-1", "remediate", "", "bob", "by hand", target, here.clock())
    await here.store.run(lambda tx: tx.put_operation(at_work))

    with pytest.raises(PolicyError, match=r"bob's op-1 still changes b since .*: wait for its end"):
        await here.runs.say(run_id, "m", "done", operator="alice", note="")
    with pytest.raises(PolicyError, match="bob's op-1 still changes b"):
        here.store.read_now(lambda tx: by_hand.require(tx, run_id, ["b"], but="op-2"))
    await here.store.run(lambda tx: tx.finish_operation("op-1", [HostOutcome("b", Outcome.OK)], here.clock()))
    await here.runs.say(run_id, "m", "done", operator="alice", note="")

    assert (await here.until(run_id)).state is RunState.SUCCEEDED


async def test_a_step_that_does_not_wait_for_a_person_is_nobody_s_to_call_done(here: World) -> None:
    """It is done by Fireline."""
    run_id = await _waiting(here, Step("m", Manual("pull the plug"), timeout_s=60))

    with pytest.raises(PolicyError, match="step t is not done by hand but by Fireline"):
        await here.runs.say(run_id, "t", "done", operator="bob", note="")


async def test_a_request_of_a_cancelled_run_is_withdrawn(here: World) -> None:
    """Nobody is asked for what will not be done."""
    run_id = await _waiting(here, act("s", approval=Approval()))
    request = (await here.runs.show(run_id)).request_id

    await here.runs.wish(run_id, RunWish.CANCEL, operator="alice", reason="")
    await here.until(run_id, RunState.CANCELLED)

    assert (await here.approvals.show(request)).ended == "expired"


async def test_a_parked_run_goes_on_with_the_runbook_that_it_is_pinned_to(tmp_path: Path) -> None:
    """It was edited meanwhile; that is said. What was done is not done again."""
    shelf = Shelf(WHOLE)
    async with world(tmp_path / "state", shelf) as before:
        run = await before.start()
        while "s/do/0/1" not in await before.moves(run.id):
            pass
    shelf.edit(book(act("other"), version=2))

    async with world(tmp_path / "state", shelf) as after:
        after.hosts.hold.set()
        assert (await after.store.read(lambda tx: tx.run(run.id))).state is RunState.PARKED
        await after.runs.resume(run.id, "bob")
        ended = await after.until(run.id)

        assert (ended.state, ended.version) == (RunState.SUCCEEDED, 1)
        assert after.hosts.done() == {f"apply {CHANGE}@{name}": 3 for name in "abc"}
        assert any("goes on with version 1 as it was pinned" in line for line in await after.journal(run.id))


async def test_a_run_whose_hosts_others_change_by_now_is_not_gone_on_with(tmp_path: Path) -> None:
    """It says who; a daemon that takes up what was lost leaves it alone, and goes on with it later."""
    async with world(tmp_path / "state", Shelf(WHOLE)) as before:
        run = await before.start()
        while "s/do/0/1" not in await before.moves(run.id):
            pass
    async with world(tmp_path / "state", Shelf(WHOLE)) as after:
        after.hosts.hold.set()
        await after.locks.take(Holder("op-1", "bob", "test.change"), ["b"])
        with pytest.raises(PolicyError, match=f"{run.id} can't go on: b is being changed by bob's op-1"):
            await after.runs.resume(run.id, "alice")
        left = await after.runs.take_up_lost()
        await after.locks.release("op-1")

        assert (left, await after.runs.take_up_lost()) == ([], [run.id])
        assert (await after.until(run.id)).state is RunState.SUCCEEDED


async def test_parallel_steps_are_at_work_at_the_same_time(here: World) -> None:
    """Both are ordered before either has ended."""
    here.shelf.edit(book(Step("p", Parallel((act("x"), act("y"))))))
    here.hosts.hold.clear()
    run = await here.start()
    while not {"x/do/0/1", "y/do/0/1"} <= set(await here.moves(run.id)):
        pass
    here.hosts.hold.set()

    assert (await here.until(run.id)).state is RunState.SUCCEEDED


async def test_a_controller_that_fails_parks_the_run_with_its_reason(here: World) -> None:
    """It can be gone on with; nothing of it is lost."""

    def break_down(_verb: str, order: object) -> None:
        raise PolicyError("the vault is full", reason="disk_full")

    here.hosts.on_order = break_down
    run = await here.start()
    parked = await here.until(run.id, RunState.PARKED)
    here.hosts.on_order = lambda _verb, _order: None

    await here.runs.resume(run.id, "alice")

    assert parked.why == "the vault is full"
    assert (await here.until(run.id)).state is RunState.SUCCEEDED


async def test_a_failed_step_is_rolled_back_by_its_runbook(here: World) -> None:
    """What was done before it, too."""
    here.shelf.edit(book(act("s"), act("t", "test.other", on_failure=OnFailure.ROLLBACK)))
    here.hosts.bad = {"apply test.other@b"}

    ended = await here.until((await here.start()).id)

    assert ended.state is RunState.ROLLED_BACK
    assert here.hosts.done()[f"undo {CHANGE}@a"] == 1


@pytest.mark.parametrize(
    ("rule", "is_bound"),
    [
        ('named = ["test.ch*"]', True),
        ('risks = ["reversible"]', True),
        ('named = ["disk.*"]', False),
        ('risks = ["destructive"]', False),
    ],
)
async def test_a_rule_for_an_action_binds_a_run_that_does_it(tmp_path: Path, rule: str, is_bound: bool) -> None:
    """A runbook is no way around what the policy wants of its actions."""
    async with world(tmp_path / "state", Shelf(WHOLE)) as here:
        (tmp_path / "state/policy.toml").write_text(f"[[rules]]\nactions = ['remediate']\n{rule}\n")
        here.hosts.hold.set()

        if is_bound:
            with pytest.raises(PolicyError, match="needs 1 approval"):
                await here.start()
        else:
            assert (await here.until((await here.start()).id)).state is RunState.SUCCEEDED


async def test_an_undo_knows_how_the_application_ended(here: World) -> None:
    """A host that has forgotten what it did has not taken it back."""
    here.shelf.edit(book(act("s"), act("t", "test.other", on_failure=OnFailure.ROLLBACK)))
    here.hosts.bad = {"apply test.other@b"}

    await here.until((await here.start()).id)

    undone = next(order for verb, order in here.hosts.orders if (verb, order.step) == ("undo", "s"))
    assert [(end.outcome, end.can_undo) for end in undone.planned.values()] == [(Outcome.OK, True)] * 3


async def test_a_failing_controller_leaves_what_is_at_work_to_its_hosts(here: World) -> None:
    """Whoever goes on with the run, or has overtaken this one, attaches to it; so nobody is told to stop."""
    here.shelf.edit(book(Step("p", Parallel((act("x"), act("y", "test.other"))))))
    here.hosts.hold.clear()

    def break_down(verb: str, order: Order) -> None:
        if (verb, order.step) == ("apply", "y"):
            raise PolicyError("the vault is full", reason="disk_full")

    here.hosts.on_order = break_down
    run = await here.start()
    await here.until(run.id, RunState.PARKED)

    at_work = next(order for verb, order in here.hosts.orders if (verb, order.step) == ("apply", "x"))
    assert at_work.is_left()


async def test_a_run_that_lost_its_locks_changes_nothing_more(here: World) -> None:
    """Its controller stood still for so long that somebody else has a host by now."""
    here.hosts.hold.clear()
    run = await here.start()
    while "s/do/0/1" not in await here.moves(run.id):
        pass
    here.clock.added = timedelta(seconds=61)
    await here.locks.take(Holder("op-1", "bob", "test.change"), ["b"])
    here.hosts.hold.set()

    parked = await here.until(run.id, RunState.PARKED)

    assert parked.why.startswith(f"{run.id} can't go on: b is being changed by bob's op-1")
    assert "t/begin/0/1" not in await here.moves(run.id)


async def test_a_leftover_of_ours_says_nothing_of_a_run_that_another_machine_has(tmp_path: Path) -> None:
    """It was taken over from here while this controller was dead: its new owner's lease counts."""
    state, url = tmp_path / "state", f"sqlite:///{tmp_path}/shared.sqlite"
    async with world(state, Shelf(WHOLE), url=url) as before:
        run = await before.start()
    async with world(state, Shelf(WHOLE), url=url) as after:
        until = after.clock() + timedelta(seconds=20)
        theirs = replace(
            await after.store.read(lambda tx: tx.run(run.id)),
            state=RunState.RUNNING, owner="elsewhere-1-0a1b2c", owned_until=until,
        )  # fmt: skip
        await after.store.run(lambda tx: tx.put_run(theirs))
        (state / f"runs/{run.id}.lock").touch()

        assert await after.runs.take_up_lost() == []
