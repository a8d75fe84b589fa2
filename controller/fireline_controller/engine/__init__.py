"""The loop between decisions and hosts: operations, incidents, evidence, upkeep. Holds no rules of its own about the
wire (hosts), the bytes (vault) or the record (store); control and daemon may import it.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from fireline_controller import profiles
from fireline_controller.config import Settings
from fireline_controller.engine.collect import Collection, Rooms
from fireline_controller.engine.fleet import Hosts
from fireline_controller.engine.incidents import Incidents, IncidentView
from fireline_controller.engine.operations import Operations, Running
from fireline_controller.engine.records import Records
from fireline_controller.engine.upkeep import Upkeep
from fireline_controller.engine.values import Finished, News, Progress, Started, TargetSpec, Wish
from fireline_controller.hosts import Fleet
from fireline_controller.model import Entry, Host, HostOutcome, NotFound, Operation, Outcome, Target
from fireline_controller.pki import Authority
from fireline_controller.store import Store, Transaction
from fireline_controller.vault import Vault

__all__ = ["Engine", "Finished", "IncidentView", "News", "Progress", "Started", "TargetSpec", "Wish"]

# Outcomes after which a host may still hold the capture that it was asked for: it is asked for that one again.
_MAY_HOLD = frozenset({Outcome.UNREACHABLE, Outcome.TIMED_OUT, Outcome.CANCELLED})


class Engine:
    """All that the controller does, for whoever asks (control) or unasked (daemon). `folder` is the state folder."""

    def __init__(
        self,
        *,
        store: Store,
        vault: Vault,
        fleet: Fleet,
        authority: Authority,
        settings: Settings,
        folder: Path,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._settings = settings
        self._profile_folder = folder / "profiles"
        self._now = now
        self._rooms = Rooms(store, vault, authority, settings, now)
        self.operations = Operations(store, settings, now)
        self.hosts = Hosts(store, fleet, now)
        self.incidents = Incidents(store, now)
        self.records = Records(store, vault, authority, folder / "authorities", now)
        self.upkeep = Upkeep(store, fleet, authority, settings, now)

    async def resolve(self, spec: TargetSpec) -> tuple[Target, bool]:
        """What a target means now, and whether it needs a confirmation.

        Raises:
            FirelineError: it does not parse or matches nothing.
        """
        target, _ = await self.operations.resolve(spec)
        return target, self.operations.needs_confirmation(target)

    async def ping(self, wish: Wish) -> AsyncIterator[News]:
        """Send every host a command that does nothing.

        Raises:
            FirelineError: nothing was sent: the target, a missing confirmation, the store.
        """

        async def work(running: Running, host: Host) -> HostOutcome:
            answer = await self._fleet.client(host).ping(
                running.command, timeout_s=self._settings.fanout.command_deadline_s
            )
            return HostOutcome(
                host.name,
                Outcome.OK,
                detail=f"clock {answer.offset_ns / 1e6:+.1f} ms",
                duration_ms=running.elapsed_ms(),
            )

        async for news in self.operations.run("ping", wish, work, commands_only=True):
            yield news

    async def capture(self, wish: Wish, profile_name: str) -> AsyncIterator[News]:
        """Collect the state of every host as sealed evidence.

        Raises:
            FirelineError: nothing was sent: the target, the profile, a missing confirmation, the store.
        """
        if wish.incident_id:
            await self.incidents.require(wish.incident_id)
        chain = await self._store.read(lambda tx: _retried(tx, wish.target.retry_of))
        profile = self._profile(chain[0].profile if chain else profile_name)

        async def work(running: Running, host: Host) -> HostOutcome:
            request_id = _request_id(host.name, running.operation.id, chain)
            client = self._fleet.client(host)
            return await Collection(self._rooms, running, host, client, profile, request_id).run()

        incident_id = wish.incident_id or (chain[0].incident_id if chain else "")
        whole = replace(wish, incident_id=incident_id)
        async for news in self.operations.run("capture", whole, work, profile=profile.name, commands_only=False):
            yield news

    async def open_incident(self, severity: str, title: str, wish: Wish, profile_name: str) -> AsyncIterator[News]:
        """Put an incident on record and capture its hosts at once. Without a target nothing is captured.

        Raises:
            FirelineError: nothing was opened: the target, the profile, severity or title, a missing confirmation.
        """
        profile = profile_name or "initial"
        self._profile(profile)
        if not wish.target.terms:
            incident = await self.incidents.open(severity, title, target="", operator=wish.operator, reason=wish.reason)
            yield Started("", incident.id, Target((), "", "", ""), "")
            yield Finished({}, 0, ())
            return
        target, _ = await self.operations.resolve(wish.target)
        self.operations.require_confirmed(target, wish)
        incident = await self.incidents.open(
            severity, title, target=target.spelled, operator=wish.operator, reason=wish.reason
        )
        async for news in self.capture(replace(wish, incident_id=incident.id), profile):
            yield news

    async def settle_interrupted(self) -> Sequence[str]:
        """Give every host of an operation that a killed controller left its outcome (I1).

        Its captures go on or lie sealed on the hosts; `--retry-of` fetches them.

        Returns:
            The ids of the operations.
        """
        now = self._now()

        def record(tx: Transaction) -> list[str]:
            left = tx.operations(unfinished=True)
            for operation in left:
                tx.finish_operation(operation.id, [_lost(operation, name) for name in operation.target.hosts], now)
                tx.append(_interrupted(operation, now))
            return [o.id for o in left]

        return await self._store.run(record)

    async def close(self) -> None:
        """Stop what runs and wait until it is on record."""
        await self.operations.close()

    def _profile(self, name: str) -> profiles.Profile:
        return profiles.load(
            name, folders=(self._profile_folder,), critical_services=self._settings.evidence.critical_services
        )


def _retried(tx: Transaction, operation_id: str) -> tuple[Operation, ...]:
    """The operation to retry, the one that it retried, and so on; a capture each."""
    chain: list[Operation] = []
    while operation_id:
        operation = tx.operation(operation_id)
        if operation.kind != "capture":
            raise NotFound(f"operation {operation_id} is no capture but a {operation.kind}")
        chain.append(operation)
        operation_id = operation.retry_of
    return tuple(chain)


def _request_id(host: str, operation_id: str, chain: Sequence[Operation]) -> str:
    """The id of the capture that the host may hold already, or a new one (I2)."""
    request_id = operation_id
    for prior in chain:
        outcome = next((o for o in prior.outcomes if o.host == host), None)
        if outcome is None or outcome.outcome not in _MAY_HOLD:
            break
        request_id = prior.id
    return request_id


def _lost(operation: Operation, host: str) -> HostOutcome:
    detail = f"the controller was stopped before this host ended; take it up again: --retry-of {operation.id}"
    return HostOutcome(host, Outcome.UNREACHABLE, detail, "controller_stopped")


def _interrupted(operation: Operation, now: datetime) -> Entry:
    return Entry(
        kind=f"{operation.kind}.interrupted",
        actor="controller",
        at=now,
        summary=f"{operation.id} was interrupted when the controller stopped",
        incident_id=operation.incident_id,
        operation_id=operation.id,
    )
