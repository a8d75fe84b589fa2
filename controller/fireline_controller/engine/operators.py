"""Who may ask this controller: the operators beyond the one that `fireline init` made; added, renewed, removed."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from fireline_controller import pki, targets
from fireline_controller.engine.approvals import Approvals
from fireline_controller.engine.permits import Permit
from fireline_controller.engine.values import Wish
from fireline_controller.model import Certificate, Entry, NotFound, PolicyError, StoreError
from fireline_controller.store import Store, Transaction
from fireline_wire.identity import Identity, is_name

log = logging.getLogger(__name__)

OnDenied = Callable[[int, Collection[str]], object]


@dataclass(frozen=True)
class Operator:
    """An operator and the certificate that holds longest; empty serial and no end for the one that `init` made."""

    name: str
    serial: str = ""
    not_after: datetime | None = None
    has_key_here: bool = True


@dataclass(frozen=True)
class Added:
    """What a new operator is given. `warning`: what it was added against."""

    chain_pem: bytes
    ca_pem: bytes
    warning: str


@dataclass(frozen=True)
class Removed:
    """What is revoked. `warning`: what it was removed against."""

    serials: tuple[str, ...]
    warning: str


class Operators:
    """The operators of this controller.

    `on_denied` is told the deny-list when it has changed: version and serial numbers.
    """

    def __init__(
        self,
        store: Store,
        authority: Callable[[], pki.Authority],
        approvals: Approvals,
        on_denied: OnDenied,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._authority = authority
        self._approvals = approvals
        self._on_denied = on_denied
        self._now = now

    async def all(self) -> Sequence[Operator]:
        """Every operator, by name; expired ones too, removed ones not."""
        certificates = await self._store.read(lambda tx: tx.operator_certificates())
        here = await asyncio.to_thread(self._keys().names)
        longest = {_name_of(c): c for c in sorted(certificates, key=lambda c: c.not_after)}
        others = [Operator(name, c.serial, c.not_after, name in here) for name, c in longest.items()]
        return sorted([Operator(self._authority().operator_name), *others], key=lambda o: o.name)

    async def add(self, name: str, signing_request_pem: bytes, wish: Wish) -> Added:
        """Certify the key of a new operator.

        Raises:
            PolicyError: the name is none or is taken, the request is malformed, or approval is needed.
        """
        if not is_name(name):
            message = f"{name!r} is not a name: wanted lower-case letters, digits, '-' and '.', as in RFC 1123"
            raise PolicyError(message, reason="invalid_request")
        now, authority = self._now(), self._authority()
        certificate = authority.issue_operator(signing_request_pem, name=name, now=now)
        permit = await self._ask(f"add operator {name}", {"add": name}, wish)

        def record(tx: Transaction) -> None:
            if name in current(tx, authority, now):
                message = f"the name {name} is taken by an operator; to replace it: fireline operator remove {name}"
                raise PolicyError(message, reason="name_taken")
            tx.put_certificate(certificate)
            data = {"name": name, "serial": certificate.serial, "reason": wish.reason}
            tx.append(Entry("operator.added", wish.operator, now, f"operator {name} added", data=data))
            permit.spend(tx, used_by=f"operator add {name}", at=now)

        await self._store.run(record)
        return Added(authority.chain_of(certificate), authority.ca_pem, permit.warning)

    async def remove(self, name: str, wish: Wish) -> Removed:
        """Revoke every certificate of an operator and cut the calls under way.

        What the operator had begun on hosts goes on: it is on record, and anybody can cancel it.

        Raises:
            NotFound: there is no such operator.
            PolicyError: it is the one that `init` made, or whoever asks; or approval is needed.
        """
        self._require_removable(name, wish.operator)
        await self._store.read(lambda tx: _held(tx, name))
        permit = await self._ask(f"remove operator {name}", {"remove": name}, wish)
        now = self._now()

        def record(tx: Transaction) -> tuple[str, ...]:
            serials = tuple(tx.revoke(c.serial, now).serial for c in _held(tx, name))
            data = {"name": name, "serials": list(serials), "reason": wish.reason}
            summary = f"operator {name} removed: {wish.reason}"
            tx.append(Entry("operator.removed", wish.operator, now, summary, data=data))
            permit.spend(tx, used_by=f"operator remove {name}", at=now)
            return serials

        serials = await self._store.run(record)
        await self.enforce_denied()
        await asyncio.to_thread(self._keys().remove, name)
        return Removed(serials, permit.warning)

    async def enforce_denied(self) -> None:
        """Put the deny-list as it is now in force here: another controller on the same record may have changed it."""
        self._on_denied(*await self._store.read(lambda tx: tx.denied()))

    async def renew_due(self) -> Sequence[str]:
        """Renew the certificates whose keys are in this state folder, where one is due; the operators' names.

        A file that is no such certificate holds nobody up: it is logged.
        """
        now, keys = self._now(), self._keys()
        renewed = []
        for name in await asyncio.to_thread(keys.names):
            try:
                chain_pem = await asyncio.to_thread(keys.chain, name)
                fresh = self._authority().renew_operator(chain_pem, name=name, now=now)
            except (ValueError, StoreError) as error:
                log.warning("certificate of operator %s not renewed: %s", name, error)
                continue
            if fresh is not None and await self._store.run(partial(_renew, name=name, fresh=fresh, now=now)):
                await asyncio.to_thread(keys.replace_chain, name, self._authority().chain_of(fresh))
                renewed.append(name)
        return renewed

    def _require_removable(self, name: str, asking: str) -> None:
        if name == self._authority().operator_name:
            message = f"{name} is the operator that `fireline init` made: this state folder works with that key"
            raise PolicyError(message, reason="policy_denied")
        if name == asking:
            raise PolicyError(f"{name} asks for it: another operator must remove {name}", reason="policy_denied")

    async def _ask(self, summary: str, parameters: dict[str, str], wish: Wish) -> Permit:
        nowhere = targets.freeze((), spelled="")
        return await self._approvals.require("operator", nowhere, parameters, wish, summary=summary)

    def _keys(self) -> pki.OperatorKeys:
        return pki.OperatorKeys(self._authority().folder)


def current(tx: Transaction, authority: pki.Authority, now: datetime) -> frozenset[str]:
    """The names of those who are operators now."""
    added = {_name_of(c) for c in tx.operator_certificates() if c.not_after > now}
    return frozenset({authority.operator_name, *added})


def _held(tx: Transaction, name: str) -> Sequence[Certificate]:
    held = [c for c in tx.operator_certificates() if _name_of(c) == name]
    if not held:
        raise NotFound(f"operator {name!r} is not known; `fireline operator list` shows those that are")
    return held


def _renew(tx: Transaction, *, name: str, fresh: Certificate, now: datetime) -> bool:
    """Keep a new certificate of an operator, unless that one was removed meanwhile."""
    if not any(_name_of(c) == name for c in tx.operator_certificates()):
        return False
    tx.put_certificate(fresh)
    summary = f"certificate of operator {name} renewed until {fresh.not_after:%Y-%m-%d %H:%M:%S} UTC"
    data = {"name": name, "serial": fresh.serial}
    tx.append(Entry("certificate.renewed", "controller", now, summary, data=data))
    return True


def _name_of(certificate: Certificate) -> str:
    return Identity.parse(certificate.identity).name
