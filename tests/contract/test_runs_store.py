"""What the store promises of runs, their moves, and the locks on hosts, on both databases."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from fireline_controller.model import NotFound, Outcome
from fireline_controller.runbooks.record import Filled, HostEnd, HostLock, Move, Part, Run, RunState, RunWish
from fireline_controller.store import Store, Transaction

NOW = datetime(2026, 11, 27, 14, 0, 0, 123456, tzinfo=UTC)
RUN = Run(
    id="run-1",
    runbook="disk-full",
    version=3,
    sha256="ab" * 32,
    content=b"\x00\xffapiVersion",
    params={"older_than": 600, "paths": ["/tmp"]},
    hosts={"": ("a", "b"), "role=db": ("c",)},
    labels={"a": {"role": "web"}},
    spelled="role=web",
    incident_id="",
    operator="alice",
    reason="a test",
    started_at=NOW,
    owned_until=NOW + timedelta(seconds=30),
)
MOVE = Move(
    "kill",
    Part.DO,
    batch=1,
    attempt=2,
    hosts=("a", "b"),
    filled=(Filled({"pid": 7}, ("a",)),),
    known=(HostEnd("c", Outcome.SKIPPED, "not so here"),),
    plans={"a": "cd" * 32},
    delay_s=2.5,
)
ENDS = (
    HostEnd("a", Outcome.OK, "killed", result={"pids": [7, 8]}, request_id="run-1/kill/a/2", can_undo=True),
    HostEnd("b", Outcome.TIMED_OUT, reason="deadline", is_out_of_time=True),
)


def _lock(host: str, owner: str, *, since: datetime = NOW) -> HostLock:
    return HostLock(host, owner, "alice", "disk-full", since, since + timedelta(seconds=60))


def _end(tx: Transaction, ends: tuple[HostEnd, ...]) -> bool:
    return tx.end_move("run-1", MOVE.key, ends, NOW)


def test_a_run_comes_back_as_it_was_put(store: Store) -> None:
    """Bytes, frozen hosts and times included."""
    store.run_now(lambda tx: tx.put_run(RUN))

    assert store.read_now(lambda tx: tx.run("run-1")) == RUN


def test_a_run_that_is_put_again_takes_the_place_of_the_first(store: Store) -> None:
    """Its state and its owner change."""
    later = replace(RUN, state=RunState.WAITING, wish=RunWish.CANCEL, owner="x", tenure=2, finished_at=NOW)
    store.run_now(lambda tx: tx.put_run(RUN))
    store.run_now(lambda tx: tx.put_run(later))

    assert store.read_now(lambda tx: tx.runs()) == (later,)


def test_runs_are_listed_by_state_the_newest_first(store: Store) -> None:
    """Those that have not ended, for whoever takes them up."""
    ended = replace(RUN, id="run-2", state=RunState.FAILED, started_at=NOW + timedelta(seconds=1))
    newest = replace(RUN, id="run-3", started_at=NOW + timedelta(seconds=2))
    for run in (RUN, ended, newest):
        store.run_now(partial(Transaction.put_run, run=run))

    found = store.read_now(lambda tx: tx.runs(states={RunState.RUNNING}))

    assert [run.id for run in found] == ["run-3", "run-1"]


def test_a_run_that_is_not_known_is_named(store: Store) -> None:
    """With what shows those that are."""
    with pytest.raises(NotFound, match="run 'run-9' is not known; `fireline runbook status`"):
        store.read_now(lambda tx: tx.run("run-9"))


def test_a_move_comes_back_with_what_came_of_it(store: Store) -> None:
    """In the order in which the moves were begun."""
    second = Move("kill", Part.VERIFY, hosts=("a",))
    store.run_now(lambda tx: tx.put_run(RUN))
    store.run_now(lambda tx: tx.begin_move("run-1", MOVE, NOW))
    store.run_now(lambda tx: tx.begin_move("run-1", second, NOW))
    store.run_now(lambda tx: tx.end_move("run-1", MOVE.key, ENDS, NOW + timedelta(seconds=1)))

    first, last = store.read_now(lambda tx: tx.moves("run-1"))

    assert (first.move, first.since, first.ends, first.until) == (MOVE, NOW, ENDS, NOW + timedelta(seconds=1))
    assert (last.move, last.ends) == (second, None)


def test_i6_a_move_is_begun_once_and_ends_once(store: Store) -> None:
    """Whoever makes it a second time changes nothing of what is on record."""
    store.run_now(lambda tx: tx.put_run(RUN))
    begun = [store.run_now(lambda tx: tx.begin_move("run-1", MOVE, NOW)) for _ in range(2)]
    again = (ENDS, ())
    ended = [store.run_now(partial(_end, ends=ends)) for ends in again]

    assert (begun, ended) == ([True, False], [True, False])
    assert store.read_now(lambda tx: tx.moves("run-1"))[0].ends == ENDS


def test_locks_are_taken_all_or_none(store: Store) -> None:
    """One host of three is held: whoever holds it is told, and the two others stay free."""
    store.run_now(lambda tx: tx.take_locks([_lock("b", "first")]))

    in_the_way = store.run_now(lambda tx: tx.take_locks([_lock(host, "second") for host in "abc"]))

    assert in_the_way == (_lock("b", "first"),)
    assert store.read_now(lambda tx: tx.locks()) == (_lock("b", "first"),)


def test_a_lock_is_in_nobody_s_way_once_it_has_expired_or_is_one_s_own(store: Store) -> None:
    """The same owner takes it again; another one after its time."""
    store.run_now(lambda tx: tx.take_locks([_lock("a", "first"), _lock("b", "first")]))
    later = NOW + timedelta(seconds=61)

    own = store.run_now(lambda tx: tx.take_locks([_lock("a", "first")]))
    other = store.run_now(lambda tx: tx.take_locks([_lock("b", "second", since=later)]))

    assert (own, other) == ((), ())
    assert [lock.owner for lock in store.read_now(lambda tx: tx.locks())] == ["first", "second"]


def test_locks_are_renewed_and_given_up_by_their_owner(store: Store) -> None:
    """Nobody else's are touched."""
    store.run_now(lambda tx: tx.take_locks([_lock("a", "first"), _lock("b", "first")]))
    store.run_now(lambda tx: tx.take_locks([_lock("c", "second")]))
    until = NOW + timedelta(hours=1)

    renewed = store.run_now(lambda tx: tx.renew_locks("first", until))
    expiries = [lock.expires_at for lock in store.read_now(lambda tx: tx.locks())]
    store.run_now(lambda tx: tx.release_locks("first"))

    assert (renewed, expiries) == (2, [until, until, NOW + timedelta(seconds=60)])
    assert store.read_now(lambda tx: tx.locks()) == (_lock("c", "second"),)
