"""A controller of runs that is killed with signal 9 at its n-th event, for every n; then another one goes on.

Run as a program, in a process of its own that forks one controller after the other: what is imported once is imported
for all. Events are every transaction that was committed, and every order to the hosts, before and after they noted it.
Prints a line of JSON for each n, until there is no n-th event any more.
"""

import asyncio
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dbos  # noqa: F401 - once for all forks

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
    Until,
)
from fireline_controller.store import Store
from tests.runs.books import Shelf
from tests.runs.world import World, world

CHANGE = "test.change"


def act(name: str, what: str, **more: Any) -> Step:
    """A step that acts."""
    return Step(name, ActionCall(what), timeout_s=60, **more)


BOOKS = {
    # All ways that a step can go.
    "whole": Runbook(
        "whole", 1, "", "0" * 64,
        (
            Step("cap", CaptureCall("volatile"), is_required=True),
            act("look", "test.read"),
            Step("both", Parallel((act("x", "test.x"), act("y", "test.y", retry=Retry(2))))),
            act("kill", "test.kill", approval=Approval(), verify=Until(ActionCall("test.read"), "true", 9)),
            Step("m", Manual("look"), timeout_s=60),
        ),
        finally_=(act("f", "test.finally"),),
    ),
    # A way back.
    "back": Runbook(
        "back", 1, "", "0" * 64,
        (
            act("s", "test.s"),
            Step("cut", IsolateCall(), timeout_s=60),
            act("own", "test.own", rollback=ActionCall("test.back")),
            act("bad", "test.bad", on_failure=OnFailure.ROLLBACK),
        ),
        finally_=(act("f", "test.finally"),),
    ),
}  # fmt: skip


class Killer:
    """Ends this process at its n-th event."""

    def __init__(self, at: int) -> None:
        self.left = at

    def event(self) -> None:
        """Something is about to happen, or has happened."""
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class KilledStore(Store):
    """Each transaction is an event, once it is committed: what is killed before that is as if it had not begun."""

    killer = Killer(0)

    def run_now(self, work: Callable[[Any], Any]) -> Any:
        """See Store."""
        result = super().run_now(work)
        self.killer.event()
        return result


async def _people(here: World, run_id: str) -> None:
    """Approve, and say done, as soon as that is asked for."""
    while run_id:
        for approval in await here.approvals.newest(5):
            if here.approvals.standing(approval) == "open" and not approval.votes:
                await here.approvals.decide(approval.id, operator="bob", approves=True, reason="")
                here.runs.bell(run_id).ring()
        moves = await here.store.read(lambda tx: tx.moves(run_id))
        if any(t.move.key == "m/manual/0/1" and t.ends is None for t in moves):
            await here.runs.say(run_id, "m", "done", operator="bob", note="")
        await asyncio.sleep(0.02)


async def _play(folder: Path, book: str, kill_at: int, run_id: str) -> None:
    """Start the run, or go on with it, until it has ended or this process is killed."""
    KilledStore.killer = Killer(0)
    async with world(folder, Shelf(*BOOKS.values()), store_type=KilledStore) as here:
        here.hosts.hold.set()
        here.hosts.bad = {f"apply test.bad@{name}" for name in "abc"}
        if run_id:
            await here.runs.take_up_lost()
        else:
            KilledStore.killer = killer = Killer(kill_at)
            here.hosts.on_order = lambda _verb, _order: killer.event()
            here.hosts.on_noted = killer.event
            run_id = (await here.start(book)).id
        people = asyncio.create_task(_people(here, run_id))
        run = await here.until(run_id, within_s=30)
        KilledStore.killer = Killer(0)
        people.cancel()
        lines = await here.journal(run_id)
        report = await here.store.verify()
        document = {
            "state": str(run.state),
            "tenure": run.tenure,
            "done": dict(here.hosts.done()),
            "moves": await here.moves(run_id),
            "finished": sum(line.startswith("runbook.finished") for line in lines),
            "problems": list(report.problems),
        }
        (folder / "result.json").write_text(json.dumps(document))


def _forked(work: Callable[[], object]) -> int:
    """Do the work in a process of its own; its status as os.waitpid gives it."""
    if (pid := os.fork()) == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def _run_id(folder: Path) -> str:
    from tests.runs.world import KEY

    store = Store.open(f"sqlite:///{folder}/store.sqlite", journal_key=KEY, anchor_path=folder / "anchor")
    try:
        runs = store.read_now(lambda tx: tx.runs())
    finally:
        store.close()
    return runs[0].id if runs else ""


def main(folder: Path, book: str, first: int, step: int) -> None:
    """Kill at `first`, then `step` events later each time."""
    at = first
    while _killed_at(folder / f"{book}-{at}", book, at):
        at += step


def _killed_at(state: Path, book: str, at: int) -> bool:
    """One pair of processes; whether the first one was killed."""
    status = _forked(lambda: asyncio.run(_play(state, book, at, "")))
    was_killed = os.WIFSIGNALED(status)
    if was_killed:
        _forked(lambda: (state / "run").write_text(_run_id(state)))
        if run_id := (state / "run").read_text():
            status = _forked(lambda: asyncio.run(_play(state, book, 0, run_id)))
    result = state / "result.json"
    found = json.loads(result.read_text()) if result.exists() else {"state": "nothing on record"}
    print(json.dumps({"at": at, "killed": was_killed, "status": status, **found}), flush=True)
    return was_killed


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
