"""The loop between decisions and hosts: operations, incidents, evidence, upkeep. Holds no rules of its own about the
wire (hosts), the bytes (vault) or the record (store); control and daemon may import it.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from fireline_controller import profiles
from fireline_controller.config import Settings
from fireline_controller.engine.approvals import Approvals
from fireline_controller.engine.collect import Collection, Rooms
from fireline_controller.engine.fleet import Hosts
from fireline_controller.engine.foresight import Planned
from fireline_controller.engine.incidents import Incidents, IncidentView
from fireline_controller.engine.isolations import HostIsolations, Isolations
from fireline_controller.engine.locks import Locks
from fireline_controller.engine.operations import Operations, Running
from fireline_controller.engine.operators import OnDenied, Operator, Operators, current
from fireline_controller.engine.orders import Orders
from fireline_controller.engine.owners import Owners
from fireline_controller.engine.records import Records
from fireline_controller.engine.recovering import Recovering, rules_of
from fireline_controller.engine.remediations import Outlook, Remediations
from fireline_controller.engine.returning import Returning
from fireline_controller.engine.runs import Runs
from fireline_controller.engine.runs.acts import HostDeeds
from fireline_controller.engine.runs.books import Bookshelf
from fireline_controller.engine.runs.rooms import RunRooms, risk_of
from fireline_controller.engine.settling import lineage
from fireline_controller.engine.suggestions import Suggestions
from fireline_controller.engine.upkeep import Upkeep
from fireline_controller.engine.values import Finished, IsolationWish, News, Progress, Started, TargetSpec, Wish
from fireline_controller.hosts import Fleet
from fireline_controller.model import Host, HostOutcome, NotFound, Operation, Outcome, PolicyError, Target
from fireline_controller.pki import Authority
from fireline_controller.store import Store, Transaction
from fireline_controller.vault import Vault

__all__ = [
    "Engine",
    "Finished",
    "HostIsolations",
    "IncidentView",
    "IsolationWish",
    "News",
    "Operator",
    "Outlook",
    "Planned",
    "Progress",
    "Started",
    "TargetSpec",
    "Wish",
    "rules_of",
]

# Outcomes after which a host may still hold the capture that it was asked for: it is asked for that one again.
_MAY_HOLD = frozenset({Outcome.UNREACHABLE, Outcome.TIMED_OUT, Outcome.CANCELLED})
_ENDED_OK: Final = HostOutcome("", Outcome.OK)


class Engine:
    """All that the controller does, for whoever asks (control) or unasked (daemon). `folder` is the state folder.

    `authority` gives the keys as they are now: certificates are renewed while the controller runs. `on_denied` is told
    the deny-list (version, serial numbers) when it has changed.
    """

    def __init__(
        self,
        *,
        store: Store,
        vault: Vault,
        fleet: Fleet,
        authority: Callable[[], Authority],
        settings: Settings,
        folder: Path,
        now: Callable[[], datetime],
        on_denied: OnDenied = lambda version, serials: None,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._settings = settings
        self._profile_folder = folder / "profiles"
        self._now = now
        self._rooms = Rooms(store, vault, authority, settings, now)
        owners = Owners(folder / "running", is_shared=bool(settings.store.url))
        self.operations = Operations(store, settings, owners, now)
        self.approvals = Approvals(store, folder / "policy.toml", lambda tx, at: current(tx, authority(), at), now)
        self.hosts = Hosts(store, fleet, self.approvals, now)
        self.incidents = Incidents(store, now)
        self.suggestions = Suggestions(folder, store, self.incidents)
        self.records = Records(store, vault, authority, folder / "authorities", now)
        self.operators = Operators(store, authority, self.approvals, on_denied, now)
        orders = Orders(authority, settings)
        self.isolations = Isolations(
            self._rooms, fleet, self.operations, self.approvals, orders=orders, profile=self._profile
        )
        self.locks = Locks(store, now)
        self.remediations = Remediations(
            self._rooms, fleet, self.operations, self.approvals, self.locks, capture=self._captured
        )
        self.recovering = Recovering(
            self._rooms,
            fleet,
            remediations=self.remediations,
            incidents=self.incidents,
            locks=self.locks,
            capture=self._captured,
        )
        deeds = HostDeeds(self._rooms, fleet, self.isolations, self._profile)
        run_rooms = RunRooms(
            store, Bookshelf(folder), deeds, self.locks, lambda tx, at: current(tx, authority(), at), risk_of, now
        )
        self.runs = Runs(
            run_rooms,
            folder / "runs",
            settings.store.url or f"sqlite:///{folder / 'runs.sqlite'}",
            is_shared=bool(settings.store.url),
            operations=self.operations,
            approvals=self.approvals,
        )
        self._returning = Returning(self._rooms, fleet, orders, self.isolations.isolate)
        self.upkeep = Upkeep(store, fleet, authority, settings, now, on_seen=self._returning.seen)

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
            clock = f"clock {answer.offset_ns / 1e6:+.1f} ms"
            return _ENDED_OK.but(host=host.name, detail=clock, duration_ms=running.elapsed_ms())

        async for news in self.operations.run("ping", wish, work, commands_only=True):
            yield news

    async def renew(self, wish: Wish) -> AsyncIterator[News]:
        """Give every host another certificate for another key, whether it is due or not: one may have been copied.

        Raises:
            FirelineError: nothing was sent: the target, a missing confirmation, the store.
        """

        async def work(running: Running, host: Host) -> HostOutcome:
            try:
                until = await self.upkeep.renew(host)
            except PolicyError as error:  # its signing request is none: that host's own fault
                return HostOutcome(host.name, Outcome.FAILED, str(error), error.reason, running.elapsed_ms())
            detail = f"certificate until {until:%Y-%m-%d %H:%M:%S} UTC"
            return HostOutcome(host.name, Outcome.OK, detail, duration_ms=running.elapsed_ms())

        async for news in self.operations.run("renew", wish, work, commands_only=True):
            yield news

    async def capture(
        self, wish: Wish, profile_name: str, params: Mapping[str, Any] | None = None
    ) -> AsyncIterator[News]:
        """Collect the state of every host as sealed evidence.

        Args:
            wish: whose, which hosts, why, how far.
            profile_name: what is collected.
            params: of its collectors beyond the profile's own, `COLLECTOR.NAME` to a JSON value.

        Raises:
            FirelineError: nothing was sent: the target, the profile, a missing confirmation, the store.
        """
        if wish.incident_id:
            await self.incidents.require(wish.incident_id)
        if wish.target.retry_of:
            await self.operations.resolve(wish.target)  # before the chain is read, so that it has all its outcomes
        chain = await self._store.read(lambda tx: _retried(tx, wish))
        profile = self._profile(chain[0].profile if chain else profile_name).with_params(params or {})
        async for news in self._captured(wish, profile, chain):
            yield news

    async def _captured(
        self, wish: Wish, profile: profiles.Profile, chain: Sequence[Operation] = ()
    ) -> AsyncIterator[News]:
        async def work(running: Running, host: Host) -> HostOutcome:
            request_id = _request_id(host.name, running.operation.id, chain)
            client = self._fleet.client(host)
            return await Collection(self._rooms, running, host, client, profile, request_id, chain).run()

        incident_id = wish.incident_id or (chain[0].incident_id if chain else "")
        whole = replace(wish, incident_id=incident_id)
        async for news in self.operations.run("capture", whole, work, profile=profile, commands_only=False):
            yield news

    async def open_incident(self, severity: str, title: str, wish: Wish, profile_name: str) -> AsyncIterator[News]:
        """Put an incident on record and capture its hosts at once. Without a target nothing is captured.

        Raises:
            FirelineError: nothing was opened: the target, the profile, severity or title, a missing confirmation.
        """
        profile = profile_name or "initial"
        self._profile(profile)
        if wish.target == TargetSpec():
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

    async def close(self) -> None:
        """Stop what runs and wait until it is on record."""
        await self._returning.close()
        await self.runs.close()
        await self.operations.close()

    def _profile(self, name: str) -> profiles.Profile:
        return profiles.load(
            name, folders=(self._profile_folder,), critical_services=self._settings.evidence.critical_services
        )


def _retried(tx: Transaction, wish: Wish) -> tuple[Operation, ...]:
    """The operation to retry, the one that it retried, and so on; a capture each."""
    if not wish.target.retry_of:
        return ()
    prior = tx.operation(wish.target.retry_of)
    if prior.kind != "capture":
        raise NotFound(f"operation {prior.id} is no capture but a {prior.kind}")
    if wish.incident_id not in ("", prior.incident_id):
        belongs = f"belongs to {prior.incident_id}" if prior.incident_id else "belongs to no incident"
        raise PolicyError(f"{prior.id} {belongs}: its retry does too", reason="invalid_request")
    return (prior, *lineage(tx, prior))


def _request_id(host: str, operation_id: str, chain: Sequence[Operation]) -> str:
    """The id of the capture that the host may hold already, or a new one (I2)."""
    request_id = operation_id
    for prior in chain:
        outcome = next((o for o in prior.outcomes if o.host == host), None)
        if outcome is not None and outcome.outcome is Outcome.SKIPPED:
            continue  # it was not asked then: what it may hold is older
        if outcome is None or not _may_hold(outcome):
            break
        request_id = prior.id
    return request_id


def _may_hold(outcome: HostOutcome) -> bool:
    """Whether the host may still hold the capture. What did not fit here is sealed there, and may be gone elsewhere."""
    return outcome.outcome in _MAY_HOLD or outcome.reason == "disk_full"
