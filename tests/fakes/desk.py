"""A whole controller in this process, with a real state folder, store, vault and keys, and agents of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fireline_controller import state
from fireline_controller.engine import Engine, Finished, News, Started, TargetSpec, Wish
from fireline_controller.hosts import Fleet
from fireline_controller.model import Host, HostOutcome, Operation
from fireline_controller.pki import Authority
from fireline_controller.store import Store, StoredChunks, Transaction
from fireline_controller.vault import Vault
from tests.fakes.agent import FakeAgent
from tests.fakes.capturing import CapturingAgent
from tests.fakes.fleet_keys import certified_agent
from tests.fakes.isolating import FakeIsolation, FakeNetwork


def now() -> datetime:
    """The time by the wall clock: certificates are checked against it."""
    return datetime.now(UTC)


@dataclass
class Desk:
    """A controller and its agents, which serve until the desk is closed."""

    opened: state.State
    store: Store
    vault: Vault
    fleet: Fleet
    engine: Engine
    agents: dict[str, FakeAgent] = field(default_factory=dict)
    network: FakeNetwork = field(default_factory=FakeNetwork)
    authority: Authority = field(init=False)
    _serving: AsyncExitStack = field(default_factory=AsyncExitStack)

    def __post_init__(self) -> None:
        self.authority = self.opened.authority

    async def enrol(self, name: str, *, generation: int = 1, **labels: str) -> CapturingAgent:
        """A host that is in the fleet and serves."""
        credentials, certificate = certified_agent(self.authority, name, generation=generation)
        agent = CapturingAgent(credentials, name=name)
        address = f"2001:2:0:f00d::{len(self.agents) + 1:x}"
        agent.isolation = self.network.hosts[address] = FakeIsolation(self.network, address, name)
        await self._serving.enter_async_context(agent.serving())
        moment = certificate.not_before
        host = Host(name, agent.address, labels, generation, moment, certificate.serial, certificate.not_after)

        def record(tx: Transaction) -> None:
            tx.put_certificate(certificate)
            tx.put_host(host)

        await self.store.run(record)
        self.agents[name] = agent
        return agent

    async def capture(self, *terms: str, incident: str = "", retry_of: str = "") -> dict[str, HostOutcome]:
        """Capture `initial` everywhere or on these hosts; the outcomes by host."""
        spec = TargetSpec(terms if terms or retry_of else ("all",), retry_of=retry_of)
        wish = Wish("alice", spec, reason="drill", incident_id=incident)
        return outcomes([news async for news in self.engine.capture(wish, "initial")])

    async def problems(self) -> Sequence[str]:
        """What is wrong with the journal, and with any evidence."""
        found = list((await self.store.verify()).problems)
        for evidence in await self.store.read(lambda tx: tx.evidence_list()):
            found += (await self.engine.records.verify(evidence.id, operator="alice")).problems
        return found

    async def operations(self) -> Sequence[Operation]:
        """Every operation on record."""
        return await self.store.read(lambda tx: tx.operations())


def outcomes(told: Sequence[News]) -> dict[str, HostOutcome]:
    """The outcomes by host, once it was checked that the news begin, end, and count each host once (I1)."""
    assert isinstance(told[0], Started)
    assert isinstance(told[-1], Finished)
    found = [news for news in told if isinstance(news, HostOutcome)]
    assert sorted(o.host for o in found) == sorted(told[0].target.hosts)
    assert sum(told[-1].counts.values()) == len(found)
    return {o.host: o for o in found}


def _opened(folder: Path, settings: str) -> state.State:
    folder.mkdir(mode=0o700, exist_ok=True)
    if settings:
        (folder / "fireline.toml").write_text(settings)
    state.make(folder, operator="alice", now=now())
    return state.open_state(folder)


@asynccontextmanager
async def desk(folder: Path, settings: str = "", *, reserve_bytes: int = 0) -> AsyncIterator[Desk]:
    """Make or open a state folder and work with it."""
    opened = await asyncio.to_thread(_opened, folder, settings)
    store = opened.open_store()
    vault = Vault(folder / "vault", StoredChunks(store), reserve_bytes=reserve_bytes)
    fleet = Fleet(lambda: made.authority.controller, settings=opened.settings.fanout)
    engine = Engine(
        store=store,
        vault=vault,
        fleet=fleet,
        authority=lambda: made.authority,
        settings=opened.settings,
        folder=folder,
        now=now,
    )
    made = Desk(opened, store, vault, fleet, engine)
    try:
        async with made._serving:
            yield made
            await engine.close()
            await fleet.close()
    finally:
        vault.close()
        store.close()
