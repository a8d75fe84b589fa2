"""What the controller does for its hosts unasked: renew certificates, pass on the deny-list, notice who is lost.

The controller drives all of it over its own connections: an agent never dials out after it has joined.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from fireline_controller import pki
from fireline_controller.config import Settings
from fireline_controller.engine.operations import new_operation_id
from fireline_controller.hosts import Command, Fleet
from fireline_controller.model import Entry, Host, HostError
from fireline_controller.store import Store, Transaction

log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_WATCH_PAUSE_S = 2.0


class Upkeep:
    """Renewal, deny-list and watch over the fleet."""

    def __init__(
        self, store: Store, fleet: Fleet, authority: pki.Authority, settings: Settings, now: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._authority = authority
        self._settings = settings
        self._now = now

    async def renew_due(self) -> Sequence[str]:
        """Renew every certificate that is due; a host that can't be reached now is tried again next time.

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
        except HostError as error:
            log.warning("certificate not renewed", extra={"host": host.name, "error": str(error)})
            return False
        return True

    async def renew(self, host: Host) -> Host:
        """Give one host a new certificate for a new key, made on the host.

        Raises:
            HostError: the host can't be reached or refuses.
            PolicyError: its signing request is not acceptable.
        """
        now = self._now()
        client = self._fleet.client(host)
        command = await self._command(now)
        request = await client.prepare_renewal(command, timeout_s=_TIMEOUT_S)
        lifetime = timedelta(hours=self._settings.certificates.agent_lifetime_h)
        certificate = self._authority.issue_agent(
            request, host=host.name, generation=host.generation, now=now, lifetime=lifetime
        )

        def issued(tx: Transaction) -> None:
            tx.put_certificate(certificate)
            summary = f"certificate of {host.name} renewed until {certificate.not_after:%Y-%m-%d %H:%M}Z"
            data = {"serial": certificate.serial}
            tx.append(Entry("certificate.renewed", "controller", now, summary, host=host.name, data=data))

        await self._store.run(issued)
        install = replace(command, request_id=f"{command.request_id}-install")
        await client.install_certificate(install, self._authority.chain_of(certificate), timeout_s=_TIMEOUT_S)
        # Only now: a host that did not take it is still due, and is asked again.
        renewed = replace(host, certificate_serial=certificate.serial, certificate_not_after=certificate.not_after)
        await self._store.run(lambda tx: tx.put_host(renewed))
        return renewed

    async def push_deny_list(self, hosts: Sequence[Host]) -> None:
        """Tell these hosts whom to refuse; one that can't be reached is told when it is next watched."""
        version, serials = await self._store.run(lambda tx: tx.denied())
        command = await self._command(self._now())

        async def tell(host: Host) -> None:
            try:
                await self._fleet.client(host).set_deny_list(command, version, sorted(serials), timeout_s=_TIMEOUT_S)
            except HostError as error:
                log.warning("deny-list not passed on", extra={"host": host.name, "error": str(error)})

        await asyncio.gather(*(tell(h) for h in hosts))

    async def watch(self, host: Host) -> None:
        """Hold a stream to the host for ever, and journal when it is lost and when it is back."""
        is_lost = is_told = False
        while True:
            try:
                async for event in self._fleet.client(host).watch():
                    if is_lost:
                        is_lost = False
                        await self._note(host, "host.back", f"{host.name} answers again")
                    if not is_told:
                        is_told = True
                        await self.push_deny_list([host])
                    log.info("host event", extra={"host": host.name, "kind": event.kind, "detail": event.detail})
                reason = "it ended the stream"
            except HostError as error:
                reason = str(error)
            if not is_lost:
                is_lost, is_told = True, False
                await self._note(host, "host.lost", f"{host.name} is lost: {reason}")
            await asyncio.sleep(_WATCH_PAUSE_S)

    async def _note(self, host: Host, kind: str, summary: str) -> None:
        now = self._now()
        await self._store.run(lambda tx: tx.append(Entry(kind, "controller", now, summary, host=host.name)))

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


def _is_due(tx: Transaction, host: Host, now: datetime) -> bool:
    return pki.is_due(tx.certificate(host.certificate_serial), now)
