"""Runs on a real store with a real DBOS, on hosts that only keep a ledger: what was asked, and what was done once."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from fireline_controller.config import Settings
from fireline_controller.engine.approvals import Approvals
from fireline_controller.engine.locks import Locks
from fireline_controller.engine.operations import Operations
from fireline_controller.engine.owners import Owners
from fireline_controller.engine.runs import RunOrder, RunRooms, Runs
from fireline_controller.engine.runs.deeds import Ends, Order
from fireline_controller.engine.values import TargetSpec, Wish
from fireline_controller.model import Host, Outcome
from fireline_controller.runbooks.record import ENDED, HostEnd, Run, RunState
from fireline_controller.store import Store, Transaction
from fireline_wire.actions import Risk
from tests.runs.books import Shelf

KEY = ec.derive_private_key(0xF19E, ec.SECP256R1())  # the same in every process of a test
HOSTS = ("a", "b", "c")


@dataclass
class LedgerHosts:
    """See Deeds. Each host does a request once, and answers it again with what came of it, as real ones do.

    Attributes:
        file: where the ledger is, so that it outlives a process that is killed.
        bad: `verb what@host` that fails.
        mute: hosts that can't be reached for a plan.
        hold: while it is not set, applications take their time, after they were noted.
        orders: every order, with its verb.
    """

    file: Path
    bad: set[str] = field(default_factory=set)
    mute: set[str] = field(default_factory=set)
    results: dict[str, Any] = field(default_factory=dict)
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    orders: list[tuple[str, Order]] = field(default_factory=list)
    on_order: Callable[[str, Order], None] = lambda _verb, _order: None
    on_noted: Callable[[], None] = lambda: None

    def done(self) -> Counter[str]:
        """How often each host really did what, over all processes."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return Counter(f"{verb} {what}@{host}" for verb, what, host, _ in map(json.loads, lines))

    async def plan(self, order: Order) -> Ends:
        """See Deeds."""
        self._ordered("plan", order)
        return tuple(self._planned(order.what, host) for host in order.move.hosts)

    def _planned(self, what: str, host: str) -> HostEnd:
        if host in self.mute:
            return HostEnd(host, Outcome.UNREACHABLE, "no answer")
        return HostEnd(host, Outcome.OK, plan_sha256=f"plan of {what}", result=dict(self.results.get(what, {})))

    async def apply(self, order: Order) -> Ends:
        """See Deeds."""
        return await self._once("apply", order)

    async def undo(self, order: Order) -> Ends:
        """See Deeds."""
        return await self._once("undo", order)

    async def capture(self, order: Order) -> Ends:
        """See Deeds."""
        return await self._once("capture", order)

    async def isolate(self, order: Order) -> Ends:
        """See Deeds."""
        return await self._once("isolate", order)

    async def release(self, order: Order) -> Ends:
        """See Deeds."""
        return await self._once("release", order)

    async def _once(self, verb: str, order: Order) -> Ends:
        self._ordered(verb, order)
        known = {json.loads(line)[3] for line in self.file.read_text().splitlines()} if self.file.exists() else set()
        for host in order.move.hosts:
            if order.request_id(host) not in known:
                with self.file.open("a") as ledger:
                    ledger.write(json.dumps([verb, order.what, host, order.request_id(host)]) + "\n")
            self.on_noted()
        stopped = asyncio.ensure_future(order.stop.wait())
        held = asyncio.ensure_future(self.hold.wait())
        try:
            await asyncio.wait([stopped, held], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            held.cancel()
        return tuple(self._end(verb, order, host) for host in order.move.hosts)

    def _end(self, verb: str, order: Order, host: str) -> HostEnd:
        if order.stop.is_set() and not self.hold.is_set():
            return HostEnd(host, Outcome.CANCELLED, "stopped", can_undo=True)
        if f"{verb} {order.what}@{host}" in self.bad:
            return HostEnd(host, Outcome.FAILED, "no good", can_undo=True)
        return HostEnd(host, Outcome.OK, f"{verb} done", can_undo=verb == "apply")

    def _ordered(self, verb: str, order: Order) -> None:
        self.orders.append((verb, order))
        self.on_order(verb, order)


@dataclass
class World:
    """A controller of runs, and its clock."""

    store: Store
    shelf: Shelf
    hosts: LedgerHosts
    runs: Runs
    approvals: Approvals
    locks: Locks
    clock: "Clock"

    async def start(self, name: str = "book", *, operator: str = "alice", wait_s: float = 0, **params: str) -> Run:
        """Start a run on all hosts."""
        wish = Wish(operator, TargetSpec(("all",)), "a test")
        return await self.runs.start(RunOrder(name, wish, params, wait_s))

    async def until(self, run_id: str, *states: RunState, within_s: float = 10) -> Run:
        """Wait until a run is in one of these states; without any, until it has ended."""
        wanted = states or tuple(ENDED)
        async with asyncio.timeout(within_s):
            while True:
                run = await self.store.read(lambda tx: tx.run(run_id))
                if run.state in wanted:
                    return run
                await self.runs.bell(run_id).wait(0.05)

    async def moves(self, run_id: str) -> list[str]:
        """The keys of the moves on record."""
        return [taken.move.key for taken in await self.store.read(lambda tx: tx.moves(run_id))]

    async def journal(self, run_id: str) -> list[str]:
        """What the journal says of a run: kinds and sentences."""
        lines = await self.store.read(lambda tx: tx.lines())
        return [f"{line.entry.kind}: {line.entry.summary}" for line in lines if line.entry.operation_id == run_id]


class Clock:
    """The real time, and what a test adds to it."""

    def __init__(self) -> None:
        self.added = timedelta()

    def __call__(self) -> datetime:
        """Now."""
        return datetime.now(UTC) + self.added


def risk_of(action: str) -> Risk:
    """What ends with `read` reads."""
    return Risk.READ if action.endswith("read") else Risk.REVERSIBLE


def host(name: str) -> Host:
    """A host of the fleet."""
    now = datetime.now(UTC)
    return Host(name, f"{name}:7700", {"role": name}, 1, now, name, now + timedelta(days=7))


@asynccontextmanager
async def world(
    folder: Path, shelf: Shelf, *, url: str = "", hosts: LedgerHosts | None = None, store_type: type[Store] = Store
) -> AsyncIterator[World]:
    """A controller over a state folder, closed in good order at the end."""
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - pathlib's blocks no less
    store = store_type.open(
        url or f"sqlite:///{folder}/store.sqlite", journal_key=KEY, anchor_path=folder / "anchor" if not url else None
    )
    try:
        if not await store.hosts():
            await store.run(_put_hosts)
        made = made_of(folder, store, shelf, hosts or LedgerHosts(folder / "ledger"), url)
        try:
            yield made
        finally:
            await made.runs.close()
    finally:
        store.close()


def _put_hosts(tx: Transaction) -> None:
    for name in HOSTS:
        tx.put_host(host(name))


def made_of(folder: Path, store: Store, shelf: Shelf, hosts: LedgerHosts, url: str = "") -> World:
    """The rooms, wired."""
    clock, settings = Clock(), Settings()
    operations = Operations(store, settings, Owners(folder / "running", is_shared=bool(url)), clock)
    people = frozenset({"alice", "bob", "carol"})
    approvals = Approvals(store, folder / "policy.toml", lambda _tx, _at: people, clock)
    locks = Locks(store, clock)
    rooms = RunRooms(store, shelf, hosts, locks, lambda _tx, _at: people, risk_of, clock)
    dbos = url or f"sqlite:///{folder}/runs.sqlite"
    runs = Runs(rooms, folder / "runs", dbos, is_shared=bool(url), operations=operations, approvals=approvals)
    return World(store, shelf, hosts, runs, approvals, locks, clock)
