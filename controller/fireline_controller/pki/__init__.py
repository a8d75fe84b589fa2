"""The incident authority: a folder of keys and certificates, and what it signs. Short-lived, ECDSA P-256 throughout.

The folder holds, for each of ca, controller, operator and journal, `NAME.key` and `NAME.pem` (leaf first, then the
authority), and in `operators` those of further operators. Leaves to others: who may have a certificate (enrollment,
engine), when a host's or a further operator's is renewed (engine), and which are revoked (store).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fireline_controller.model import Certificate, ConfigError
from fireline_controller.pki import folder as folders
from fireline_controller.pki.operators import OperatorKeys, hand_over
from fireline_controller.pki.signing import (
    CONTROLLER,
    JOURNAL,
    OWN_LIFETIME,
    Grant,
    agent_grant,
    key_pem,
    new_key,
    operator_grant,
    pem_of,
    requested_key,
    self_signed,
    sign,
    signing_request,
)
from fireline_wire import chain, envelope
from fireline_wire.identity import Identity, Role
from fireline_wire.tls import Credentials

__all__ = [
    "Authority",
    "OperatorKeys",
    "create",
    "hand_over",
    "is_due",
    "load",
    "new_request",
    "renew",
    "verify_chain",
]

_ROLES: Final[Mapping[str, Role]] = {
    "controller": Role.CONTROLLER,
    "operator": Role.OPERATOR,
    "journal": Role.CONTROLLER,
}


@dataclass(frozen=True)
class Authority:
    """An opened folder. Only this object and its folder hold the authority's key."""

    folder: Path
    ca_pem: bytes
    controller: Credentials
    operator: Credentials
    journal_key: ec.EllipticCurvePrivateKey = field(repr=False)
    journal_chain_pem: bytes
    _ca_key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def ca_sha256(self) -> str:
        """What enrolment tokens pin: SHA-256 over the authority's DER, hexadecimal."""
        return chain.fingerprint(self._ca)

    @property
    def operator_name(self) -> str:
        """The name in the folder's operator certificate."""
        return chain.identity_of(chain.certificates(self.operator.chain_pem)[0]).name

    def issue_agent(
        self, csr_pem: bytes, *, host: str, generation: int, now: datetime, lifetime: timedelta
    ) -> Certificate:
        """Certify a host's key; of the request, only the key and its proof of possession count.

        Raises:
            PolicyError: the request is malformed, not P-256 or not signed by its own key.
        """
        return self._issue(requested_key(csr_pem), agent_grant(host, generation), now, lifetime, generation)

    def issue_operator(self, csr_pem: bytes, *, name: str, now: datetime) -> Certificate:
        """Certify an operator's key; of the request, only the key and its proof of possession count.

        Raises:
            PolicyError: the request is malformed, not P-256 or not signed by its own key.
            ValueError: the name is none.
        """
        return self._issue(requested_key(csr_pem), operator_grant(name), now, OWN_LIFETIME)

    def renew_operator(self, chain_pem: bytes, *, name: str, now: datetime) -> Certificate | None:
        """A new certificate for the key of an operator's chain; None while none is due.

        Raises:
            ValueError: the chain is none, or its leaf is not this operator's by this authority.
        """
        leaf = chain.certificates(chain_pem)[0]
        chain.require_issued_by(leaf, self._ca)
        grant = operator_grant(name)
        if (found := chain.identity_of(leaf)) != grant.identity:
            raise ValueError(f"it is for {found}, wanted {grant.identity}")
        if not _is_late(leaf.not_valid_before_utc, leaf.not_valid_after_utc, now):
            return None
        return self._issue(chain.public_key_of(leaf), grant, now, OWN_LIFETIME)

    def chain_of(self, certificate: Certificate) -> bytes:
        """The chain that the holder of a certificate serves, PEM."""
        return certificate.pem.encode() + self.ca_pem

    @property
    def _ca(self) -> x509.Certificate:
        return chain.certificates(self.ca_pem)[0]

    def _issue(
        self, key: ec.EllipticCurvePublicKey, grant: Grant, now: datetime, lifetime: timedelta, generation: int = 0
    ) -> Certificate:
        signed = sign(key, grant, now=now, lifetime=lifetime, ca=self._ca, ca_key=self._ca_key)
        return Certificate(
            serial=chain.serial_hex(signed),
            identity=str(grant.identity),
            generation=generation,
            key_id=envelope.key_id(key),
            pem=pem_of(signed).decode(),
            not_before=signed.not_valid_before_utc,
            not_after=signed.not_valid_after_utc,
        )


def is_due(certificate: Certificate, now: datetime) -> bool:
    """Whether a certificate should be renewed: a third of its life, or less, is left."""
    return _is_late(certificate.not_before, certificate.not_after, now)


def new_request() -> tuple[bytes, bytes]:
    """A fresh key and a request to certify it, both PEM: for an operator whose key the controller shall never see."""
    key = new_key()
    return key_pem(key), signing_request(key)


def verify_chain(leaf_pem: bytes, ca_pem: bytes, *, at: datetime) -> Identity:
    """Whom a chain speaks for, with nothing but the authority's certificate; see `fireline_wire.chain`.

    Raises:
        ChainError: it is not by this authority, was not valid then, or carries no Fireline identity.
    """
    return chain.verify_chain(leaf_pem, ca_pem, at=at)


def create(folder: Path, *, operator: str, now: datetime) -> Authority:
    """Make an authority; the folder appears whole or not at all.

    Raises:
        ConfigError: the folder is there already, or the operator's name is not one.
        StoreError: it can't be written.
    """
    try:
        grant = operator_grant(operator)
    except ValueError as error:
        raise ConfigError(f"operator: {error}") from None
    folders.write_new(folder, _new_files(grant, now))
    return load(folder)


def load(folder: Path) -> Authority:
    """Open an authority.

    Raises:
        StoreError: it is not whole; the message names each file that is missing, unreadable, open to others, or
            does not match the rest.
    """
    pairs = folders.read(folder, _ROLES)
    ca_pem = pairs["ca"].chain_pem
    controller, operator = (
        Credentials(key_pem(pairs[name].key), pairs[name].chain_pem, ca_pem) for name in ("controller", "operator")
    )
    return Authority(
        folder=folder,
        ca_pem=ca_pem,
        controller=controller,
        operator=operator,
        journal_key=pairs["journal"].key,
        journal_chain_pem=pairs["journal"].chain_pem,
        _ca_key=pairs["ca"].key,
    )


def renew(authority: Authority, now: datetime) -> Authority:
    """Give the controller, the operator and the journal new certificates for the keys they have, where one is due.

    Returns the same object while none is due.

    Raises:
        StoreError: a new certificate can't be written.
    """
    journal = Credentials(key_pem(authority.journal_key), authority.journal_chain_pem, authority.ca_pem)
    grants = {"controller": CONTROLLER, "operator": operator_grant(authority.operator_name), "journal": JOURNAL}
    held = {"controller": authority.controller, "operator": authority.operator, "journal": journal}
    fresh = {name: _renewed(authority, held[name], grants[name], now) for name in held}
    changed = {name: new for name, new in fresh.items() if new is not held[name]}
    for name, credentials in changed.items():
        folders.replace(authority.folder / f"{name}.pem", credentials.chain_pem)
    if not changed:
        return authority
    return replace(
        authority,
        controller=fresh["controller"],
        operator=fresh["operator"],
        journal_chain_pem=fresh["journal"].chain_pem,
    )


def _renewed(authority: Authority, held: Credentials, grant: Grant, now: datetime) -> Credentials:
    leaf = chain.certificates(held.chain_pem)[0]
    if not _is_late(leaf.not_valid_before_utc, leaf.not_valid_after_utc, now):
        return held
    fresh = authority._issue(chain.public_key_of(leaf), grant, now, OWN_LIFETIME)
    return replace(held, chain_pem=authority.chain_of(fresh))


def _is_late(begins: datetime, ends: datetime, now: datetime) -> bool:
    return now >= ends - (ends - begins) / 3


def _new_files(operator: Grant, now: datetime) -> dict[str, bytes]:
    ca_key = new_key()
    ca = self_signed(ca_key, now)
    files = {"ca.key": key_pem(ca_key), "ca.pem": pem_of(ca)}
    for name, grant in (("controller", CONTROLLER), ("operator", operator), ("journal", JOURNAL)):
        key = new_key()
        leaf = sign(key.public_key(), grant, now=now, lifetime=OWN_LIFETIME, ca=ca, ca_key=ca_key)
        files |= {f"{name}.key": key_pem(key), f"{name}.pem": pem_of(leaf) + pem_of(ca)}
    return files
