"""What durability costs: a step of a run, and a whole run over many hosts beside the bare fan-out of the same calls.

The hosts are the fast stand-ins, which answer a ping; a run asks for that where it would ask for a plan.
"""

import asyncio
import statistics
import time
from dataclasses import dataclass

from fireline_controller import state
from fireline_controller.daemon import Controller
from fireline_controller.engine import TargetSpec, Wish
from fireline_controller.engine.runs import RunOrder, RunRooms, Runs
from fireline_controller.engine.runs.deeds import Ends, Order
from fireline_controller.fanout import Budget, Limits, fan_out
from fireline_controller.hosts import Fleet, tune_collector
from fireline_controller.model import Host, HostOutcome, Outcome
from fireline_controller.runbooks.model import ActionCall, Runbook, Step
from fireline_controller.runbooks.record import ENDED, HostEnd, RunState
from fireline_wire.actions import Risk
from tests.bench.grounds import Grounds, command
from tests.runs.books import Shelf

STEPS = 50  # of the run whose steps are counted
_DEADLINE_S = 30.0


@dataclass(frozen=True)
class Ran:
    """Seconds, warm: a durable step over one host, a run of one step over all hosts, and the bare fan-out to these."""

    step_s: float
    run_s: list[float]
    bare_s: list[float]
    not_ok: int


class Pinging:
    """See Deeds: a plan is a ping; nothing else is asked for."""

    def __init__(self, fleet: Fleet, hosts: tuple[Host, ...]) -> None:
        self._fleet = fleet
        self._hosts = {host.name: host for host in hosts}

    async def plan(self, order: Order) -> Ends:
        """See Deeds."""
        outcomes = await self.pinged([self._hosts[name] for name in order.move.hosts])
        return tuple(HostEnd(outcome.host, outcome.outcome, outcome.detail) for outcome in outcomes)

    async def pinged(self, hosts: list[Host]) -> tuple[HostOutcome, ...]:
        """The bare fan-out."""
        now = command()

        async def ping(host: Host) -> HostOutcome:
            await self._fleet.client(host).ping(now, timeout_s=_DEADLINE_S)
            return HostOutcome(host.name, Outcome.OK)

        limits = Limits(_DEADLINE_S, _DEADLINE_S, concurrency=len(hosts))
        return await fan_out(
            hosts, ping, limits=limits, budget=Budget(len(hosts)), cancel=asyncio.Event(), on_outcome=lambda _: None
        )

    async def apply(self, order: Order) -> Ends:
        """See Deeds."""
        raise NotImplementedError

    undo = capture = isolate = release = apply


def _book(name: str, steps: int) -> Runbook:
    return Runbook(name, 1, "", "0" * 64, tuple(Step(f"s{n}", ActionCall("bench.ping")) for n in range(steps)))


async def runs(grounds: Grounds, *, rounds: int) -> Ran:
    """Runs over all hosts and bare fan-outs take turns; then one run of many steps over one host."""
    tune_collector()
    opened = state.open_state(grounds.folder / "state")
    store = opened.open_store()
    controller = Controller(opened, store)
    pinging = Pinging(controller.fleet, grounds.hosts)
    engine, shelf = controller.engine, Shelf(_book("one", 1), _book("many", STEPS))
    rooms = RunRooms(
        store, shelf, pinging, engine.locks, lambda _tx, _at: frozenset(), lambda _: Risk.READ, engine.runs.now
    )
    url = f"sqlite:///{opened.folder / 'runs.sqlite'}"
    made = Runs(
        rooms, opened.folder / "runs", url, is_shared=False, operations=engine.operations, approvals=engine.approvals
    )

    async def run(book: str, target: str) -> RunState:
        wish = Wish("bench", TargetSpec((target,)), "measuring")
        begun = await made.start(RunOrder(book, wish, is_confirmed=True))
        while (found := await store.read(lambda tx: tx.run(begun.id))).state not in ENDED:
            await made.bell(begun.id).wait(1)
        return found.state

    try:
        await pinging.pinged(list(grounds.hosts))
        states = [await run("one", "all")]
        whole, bare = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            states.append(await run("one", "all"))
            whole.append(time.perf_counter() - began)
            began = time.perf_counter()
            await pinging.pinged(list(grounds.hosts))
            bare.append(time.perf_counter() - began)
        began = time.perf_counter()
        states.append(await run("many", grounds.hosts[0].name))
        step_s = (time.perf_counter() - began - statistics.median(bare) / len(grounds.hosts)) / STEPS
        return Ran(step_s, whole, bare, sum(state is not RunState.SUCCEEDED for state in states))
    finally:
        await made.close()
        await controller.close()
        store.close()
