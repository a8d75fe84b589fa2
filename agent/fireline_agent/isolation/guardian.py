"""Isolation as the agent holds it: the keeper, its upkeep and its watchdog, put together for one process."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from fireline_agent.hands import nft
from fireline_agent.isolation import capability as trial
from fireline_agent.isolation import facts
from fireline_agent.isolation.containernet import ContainerNet
from fireline_agent.isolation.containers import Containers
from fireline_agent.isolation.force import without_ours
from fireline_agent.isolation.frozen import Frozen
from fireline_agent.isolation.hostnet import HostNet
from fireline_agent.isolation.keeper import Caller, Keeper
from fireline_agent.isolation.means import MeansError
from fireline_agent.isolation.model import Arming, Capability, Ended, Plan, Report
from fireline_agent.isolation.orders import Orders, Signed
from fireline_agent.isolation.paused import Paused
from fireline_agent.isolation.records import Records
from fireline_agent.isolation.releasing import release
from fireline_agent.isolation.upkeep import News, Upkeep
from fireline_agent.isolation.watchdog import Watchdog


@dataclass(frozen=True)
class Planned:
    """A plan, and what a witness would knock at: the agent's own port first."""

    plan: Plan
    ports: tuple[int, ...]
    addresses: tuple[str, ...]
    ruleset_sha256: str


class Guardian:
    """The isolations of this host, for the life of the process. Blocking; safe from any thread."""

    def __init__(self, keeper: Keeper, upkeep: Upkeep, port: int) -> None:
        self.keeper = keeper
        self._upkeep = upkeep
        self._port = port
        self._watchdog: Watchdog | None = None

    @property
    def capability(self) -> Capability:
        """How far this host can be isolated."""
        return self.keeper.host.capability

    @property
    def ended(self) -> tuple[Ended, ...]:
        """See Upkeep."""
        return self._upkeep.ended

    @property
    def lacks(self) -> tuple[str, ...]:
        """What this host can't do, and what is here that no record explains, each a sentence.

        Raises:
            RefusedError: busy.
        """
        records = self.keeper.records
        if not records.is_there:
            return self.capability.lacks
        with records.locked():
            believed = {record.name for record in records.all()}
            with suppress(MeansError):
                found = records.names() | self.keeper.host.own_names()
                strange = sorted(found - believed)
                return (*self.capability.lacks, *map(_strange, strange))
        return self.capability.lacks

    def recover(self) -> tuple[str, ...]:
        """See Upkeep."""
        return self._upkeep.recover()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look after what is isolated while the block lasts."""
        with Watchdog(self._upkeep) as self._watchdog:
            yield
        self._watchdog = None

    def plan(self, signed: Signed) -> Planned:
        """What an order would do here, and the rules that there are. Changes nothing.

        Raises:
            RefusedError: the order is not believed.
        """
        planned = self.keeper.plan(signed)
        try:
            ruleset = hashlib.sha256(without_ours(self.keeper.host.ruleset()).encode()).hexdigest()
        except MeansError:
            ruleset = ""
        # Where a part of the host is cut off the rest goes on answering: a witness would see no difference.
        addresses = facts.network().addresses if planned.order.scope.kind == "host" else ()
        return Planned(planned, facts.listening_ports(self._port), addresses, ruleset)

    def arm(self, signed: Signed, caller: Caller, *, started_ns: int) -> Arming:
        """See Keeper. From then on it is looked after: of what is frozen or paused no kernel tells."""
        arming = self.keeper.arm(signed, caller, started_ns=started_ns)
        if self._watchdog is not None:
            self._watchdog.wake()
        return arming

    def release(self, order_id: str, fence_token: int) -> Report:
        """See releasing."""
        return release(self.keeper, order_id, fence_token=fence_token)

    def note_ruleset(self, order_id: str) -> None:
        """See Keeper."""
        self.keeper.note_ruleset(order_id)


def open_guardian(
    *, state: Path, keys: Path, docker_socket: Path, port: int, tell: Callable[[News], None], is_agent: bool = True
) -> Guardian:
    """Put it together, and find out what this kernel can do.

    `is_agent` where this process will serve: the boot unit puts rules in force before the agent's own group is there.
    """
    program, identity = nft.find(), facts.identity(port)
    if not is_agent:
        identity = replace(identity, cgroup=None)
    capability = trial.find_out(program, identity)
    if not capability.has_cgroup:
        identity = replace(identity, cgroup=None)
    folder, orders, containers = state / "isolation", Orders(keys), Containers(docker_socket)
    networks, frozen = ContainerNet(program, capability, containers), Frozen(folder)
    keeper = Keeper(
        Records(folder, orders),
        orders,
        HostNet(program, identity, capability),
        others={
            "container": networks,
            "compose": networks,
            "image": networks,
            "paused": Paused(folder, containers),
            "user": frozen,
            "process": frozen,
        },
        now=lambda: datetime.now(UTC),
    )
    return Guardian(keeper, Upkeep(keeper, tell), port)


def _strange(name: str) -> str:
    return f"{name}: rules or a record of an isolation that can't be believed; a release of everything removes it"
