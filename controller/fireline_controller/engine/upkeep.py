"""What the controller does for its hosts unasked: renew certificates, pass on the deny-list, notice who is lost.

The controller drives all of it over its own connections: an agent never dials out after it has joined.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from fireline_controller import pki
from fireline_controller.config import Settings
from fireline_controller.engine.operations import new_operation_id
from fireline_controller.hosts import Command, Fleet, HostEvent
from fireline_controller.model import Certificate, Entry, FirelineError, Host, HostError, PolicyError
from fireline_controller.store import Store, Transaction

log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_WATCH_PAUSE_S = 2.0
# An agent starts after its host has joined: one that was never heard of is lost only after this time.
_FIRST_WORD = timedelta(minutes=1)
_LINES_A_MINUTE = 20
# Events that go into the journal, and as what.
_JOURNALED = {
    "isolation_changed": "isolation.changed",
    "isolation_drift": "isolation.drift",
    "isolation_broken": "isolation.broken",
}


class Upkeep:
    """Renewal, deny-list and watch over the fleet. `on_seen` is told a host each time that its watch begins."""

    def __init__(
        self,
        store: Store,
        fleet: Fleet,
        authority: Callable[[], pki.Authority],
        settings: Settings,
        now: Callable[[], datetime],
        *,
        on_seen: Callable[[Host], Awaitable[None]],
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._authority = authority
        self._settings = settings
        self._now = now
        self._on_seen = on_seen

    async def renew_due(self) -> Sequence[str]:
        """Renew every certificate that is due; a host that can't be reached, or refuses, is tried again next time.

        Returns:
            The names of the hosts that have a new certificate.
        """
        now = self._now()
        hosts = await self._store.run(lambda tx: [h for h in tx.hosts() if _is_due(tx, h, now)])
        renewed = await asyncio.gather(*(self._renew_or_log(h) for h in hosts))
        return [h.name for h, done in zip(hosts, renewed, strict=True) if done]

    async def _renew_or_log(self, host: Host) -> bool:
        try:
            await self.renew(host)
        except (HostError, PolicyError) as error:  # one host that lies or is away holds up no other's renewal
            log.warning("certificate of %s not renewed: %s", host.name, error)
            return False
        return True

    async def renew(self, host: Host) -> datetime:
        """Give one host a new certificate for a new key, made on the host; returns until when it holds.

        Raises:
            HostError: the host can't be reached or refuses.
            PolicyError: its signing request is not acceptable, or it was removed meanwhile.
        """
        now = self._now()
        client = self._fleet.client(host)
        command = await self._command(now)
        request = await client.prepare_renewal(command, timeout_s=_TIMEOUT_S)
        lifetime = timedelta(hours=self._settings.certificates.agent_lifetime_h)
        certificate = self._authority().issue_agent(
            request, host=host.name, generation=host.generation, now=now, lifetime=lifetime
        )
        # On record before the host has it, for the host may sign with it at once; in force only once it is installed.
        await self._store.run(lambda tx: _issued(tx, host, certificate))
        chain = certificate.pem.encode() + self._authority().ca_pem
        await client.install_certificate(
            replace(command, request_id=f"{command.request_id}-install"), chain, timeout_s=_TIMEOUT_S
        )
        await self._store.run(lambda tx: _in_force(tx, host, certificate, now))
        return certificate.not_after

    async def push_deny_list(self, hosts: Sequence[Host]) -> None:
        """Tell these hosts whom to refuse; one that can't be reached is told when it is next watched."""
        version, serials = await self._store.run(lambda tx: tx.denied())
        command = await self._command(self._now())

        async def tell(host: Host) -> None:
            try:
                await self._fleet.client(host).set_deny_list(command, version, sorted(serials), timeout_s=_TIMEOUT_S)
            except HostError as error:
                log.warning("deny-list not passed on to %s: %s", host.name, error)

        await asyncio.gather(*(tell(h) for h in hosts))

    async def watch(self, host: Host) -> None:
        """Hold a stream to the host while it is in the fleet, and journal when it is lost and when it is back."""
        is_lost, is_known = False, False
        told = _Told()
        while await self._store.read(lambda tx: _is_enrolled(tx, host)):
            reason, is_new = "it ended the stream", True
            try:
                async for event in self._fleet.client(host).watch():
                    if is_new:
                        await self._greet(host, was_lost=is_lost)
                        is_new, is_known, is_lost = False, True, False
                    log.info("%s: %s %s", host.name, event.kind, event.detail)
                    await self._heard(host, event, told)
            except FirelineError as error:
                reason = str(error)
            if not is_lost and (is_known or self._now() - host.enrolled_at > _FIRST_WORD):
                is_lost = True
                await self._note(host, "host.lost", f"{host.name} is lost: {reason}")
            await asyncio.sleep(_WATCH_PAUSE_S)

    async def _greet(self, host: Host, *, was_lost: bool) -> None:
        """What a host must know that was out of sight."""
        if was_lost:
            await self._note(host, "host.back", f"{host.name} answers again")
        await self.push_deny_list([host])
        await self._on_seen(host)

    async def _heard(self, host: Host, event: HostEvent, told: "_Told") -> None:
        """Put on record what a host says of its isolation; a host that says too much at once is not believed more."""
        kind = _JOURNALED.get(event.kind)
        if kind is None or not told.may_tell(kind, self._now()):
            return
        await self._note(host, kind, f"{host.name} says: {event.detail or event.kind}")
        if kind == "isolation.broken":
            await self._on_seen(host)

    async def _note(self, host: Host, kind: str, summary: str) -> None:
        now = self._now()

        def record(tx: Transaction) -> None:
            if _is_enrolled(tx, host):  # one that was removed is cut off, not lost
                tx.append(Entry(kind, "controller", now, summary, host=host.name))

        await self._store.run(record)

    async def _command(self, now: datetime) -> Command:
        operation_id = new_operation_id(now)
        fence = await self._store.run(lambda tx: tx.next_fence_token())
        return Command(
            request_id=operation_id,
            operation_id=operation_id,
            incident_id="",
            operator="controller",
            reason="upkeep",
            deadline=now + timedelta(seconds=_TIMEOUT_S),
            fence_token=fence,
        )


class _Told:
    """How much of what a host tells goes on record: so many lines a minute, so that a hostile one can't flood it.

    Each kind has a bound of its own: nothing that is told often drowns what is told once.
    """

    def __init__(self) -> None:
        self._lines = {kind: deque[datetime](maxlen=_LINES_A_MINUTE) for kind in _JOURNALED.values()}

    def may_tell(self, kind: str, now: datetime) -> bool:
        """Whether one more line of a kind is within bounds; then it is counted."""
        lines = self._lines[kind]
        if len(lines) == _LINES_A_MINUTE and now - lines[0] < timedelta(minutes=1):
            return False
        lines.append(now)
        return True


def _is_due(tx: Transaction, host: Host, now: datetime) -> bool:
    return pki.is_due(tx.certificate(host.certificate_serial), now)


def _is_enrolled(tx: Transaction, host: Host) -> bool:
    known = tx.host(host.name)
    return not known.removed and known.generation == host.generation


def _issued(tx: Transaction, host: Host, certificate: Certificate) -> None:
    if not _is_enrolled(tx, host):
        raise PolicyError(f"{host.name} was removed from the fleet meanwhile", reason="certificate_revoked")
    tx.put_certificate(certificate)


def _in_force(tx: Transaction, host: Host, certificate: Certificate, now: datetime) -> None:
    if not _is_enrolled(tx, host):
        return
    known = tx.host(host.name)  # as it is now: labels may have changed while the host was asked
    tx.put_host(replace(known, certificate_serial=certificate.serial, certificate_not_after=certificate.not_after))
    summary = f"certificate of {host.name} renewed until {certificate.not_after:%Y-%m-%d %H:%M:%S} UTC"
    data = {"serial": certificate.serial}
    tx.append(Entry("certificate.renewed", "controller", now, summary, host=host.name, data=data))
