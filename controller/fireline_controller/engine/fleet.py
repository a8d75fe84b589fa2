"""The fleet as the controller keeps it: labels, removal, and what a live agent says of itself."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from fireline_controller import targets
from fireline_controller.engine.approvals import Approvals
from fireline_controller.engine.grounds import withdraw
from fireline_controller.engine.permits import Permit
from fireline_controller.engine.values import TargetSpec, Wish
from fireline_controller.hosts import Fleet, HostDescription
from fireline_controller.isolation import IN_FORCE, STANDING
from fireline_controller.model import Entry, Host, HostError, NotFound, PolicyError
from fireline_controller.store import Store, Transaction
from fireline_wire.identity import Identity, Role

_ASKED_S = 5.0


class Hosts:
    """Who is in the fleet."""

    def __init__(self, store: Store, fleet: Fleet, approvals: Approvals, now: Callable[[], datetime]) -> None:
        self._store = store
        self._fleet = fleet
        self._approvals = approvals
        self._now = now

    async def all(self) -> Sequence[Host]:
        """Every enrolled host, sorted by name."""
        return await self._store.run(lambda tx: tx.hosts())

    async def get(self, name: str) -> Host:
        """One enrolled host.

        Raises:
            NotFound: no host of that name is in the fleet.
        """
        host = await self._store.run(lambda tx: tx.host(name))
        if host.removed:
            raise NotFound(
                f"host {name} was removed from the fleet; enrol it again: fireline enroll token --host {name}"
            )
        return host

    async def describe(self, host: Host, *, timeout_s: float) -> HostDescription:
        """What the live agent says of its host.

        Raises:
            HostError: it can't be asked.
        """
        return await self._fleet.client(host).describe(timeout_s=timeout_s)

    async def label(
        self, hosts: Sequence[Host], *, put: Mapping[str, str], drop: Sequence[str], operator: str, reason: str
    ) -> Sequence[Host]:
        """Set and remove labels.

        Raises:
            PolicyError: a label is no label: key and value as Kubernetes has them; or approval is needed.
        """
        for key, value in put.items():
            if not key or any(c.isspace() or c in ",=!()" for c in key + value):
                raise PolicyError(f"label {key}={value}: no blanks and none of ,=!() allowed", reason="invalid_request")
        data = {"set": dict(put), "removed": list(drop), "reason": reason}
        names = [host.name for host in hosts]
        changes = {"set": dict(put), "remove": list(drop)}
        permit = await self._ask(names, changes, f"label {targets.fold(names)}", operator, reason)
        now = self._now()

        def record(tx: Transaction) -> list[Host]:
            permit.spend(tx, used_by=f"label {targets.fold(names)}", at=now)
            changed = [_relabelled(host, put, drop) for host in _as_they_are(tx, hosts)]
            for host in changed:
                tx.put_host(host)
                summary = f"labels of {host.name} changed"
                tx.append(Entry("host.labelled", operator, now, summary, host=host.name, data=data))
            return changed

        return await self._store.run(record)

    async def remove(self, name: str, *, operator: str, reason: str) -> Host:
        """Take a host out of the fleet: revoke every certificate of it, cut its connections, keep its evidence.

        Raises:
            NotFound: no host of that name is in the fleet.
            PolicyError: it is isolated, by its own kernel; or approval is needed.
        """
        await self._require_let_back(await self.get(name))
        permit = await self._ask([name], {"leave": True}, f"remove host {name}", operator, reason)
        now = self._now()

        def record(tx: Transaction) -> Host:
            permit.spend(tx, used_by=f"remove host {name}", at=now)
            host = replace(tx.host(name), removed=True)
            certificates = tx.certificates(str(Identity(Role.AGENT, name)))
            for certificate in certificates:
                if certificate.revoked_at is None and certificate.not_after > now:
                    tx.revoke(certificate.serial, now)
            tx.put_host(host)
            for isolation in tx.isolations(STANDING, name):
                withdraw(tx, isolation, now, "withdrawn: it was removed from the fleet")
            data = {"reason": reason, "serials": [c.serial for c in certificates]}
            tx.append(Entry("host.removed", operator, now, f"{name} removed: {reason}", host=name, data=data))
            return host

        host = await self._store.run(record)
        await self._fleet.drop(name)
        return host

    async def _require_let_back(self, host: Host) -> None:
        """Refuse a host that would stay cut off for good: a removed one takes no release. One that is gone can go."""
        if not await self._store.read(lambda tx: tx.isolations(IN_FORCE, host.name)):
            return
        with suppress(HostError):
            status = await self._fleet.client(host).isolation_status(timeout_s=_ASKED_S)
            if any(state.phase != "none" for state in status.isolations):
                message = (
                    f"{host.name} is isolated, and nobody could let it back once it is removed:"
                    f" fireline release -t {host.name} --reason WHY"
                )
                raise PolicyError(message, reason="policy_denied")

    async def _ask(
        self, names: Sequence[str], parameters: Mapping[str, Any], summary: str, operator: str, reason: str
    ) -> Permit:
        target = targets.freeze(names, spelled="")
        wish = Wish(operator, TargetSpec(), reason)
        return await self._approvals.require("fleet", target, parameters, wish, summary=summary)


def _as_they_are(tx: Transaction, hosts: Sequence[Host]) -> list[Host]:
    """The hosts as the record has them now, without those that were removed since they were looked up."""
    now = {host.name: host for host in tx.hosts()}
    return [now[host.name] for host in hosts if host.name in now]


def _relabelled(host: Host, put: Mapping[str, str], drop: Sequence[str]) -> Host:
    return replace(host, labels={k: v for k, v in {**host.labels, **put}.items() if k not in drop})
