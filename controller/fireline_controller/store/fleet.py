"""Verbs for the fleet: hosts, their certificates, one-time tokens."""

from datetime import datetime
from typing import Final

from sqlalchemy import select, update

from fireline_controller.model import Certificate, Host, NotFound, PolicyError, Token
from fireline_controller.store import schema
from fireline_controller.store.verbs import Verbs, columns_of, value_of
from fireline_wire.identity import Identity, Role

# The beginning of every operator's identity, and of no other's.
_OPERATORS: Final = str(Identity(Role.OPERATOR, "x")).removesuffix("x")


class FleetVerbs(Verbs):
    """Hosts, certificates and tokens."""

    def put_host(self, host: Host) -> None:
        """Keep a host, in place of one with the same name."""
        self._put(schema.hosts, columns_of(host))
        self._count("fleet")

    def fleet_version(self) -> int:
        """A number that grows whenever a host is kept."""
        return self._counted("fleet")

    def host(self, name: str) -> Host:
        """The host with this name, a removed one too.

        Raises:
            NotFound: no host ever had this name.
        """
        row = self._connection.execute(select(schema.hosts).where(schema.hosts.c.name == name)).one_or_none()
        if row is None:
            raise NotFound(f"host {name!r} is not known; `fireline host list` shows the hosts that are")
        return value_of(Host, row)

    def hosts(self, *, include_removed: bool = False) -> tuple[Host, ...]:
        """All hosts, by name."""
        query = select(schema.hosts)
        if not include_removed:
            query = query.where(schema.hosts.c.removed.is_(False))
        # Sorted here: databases differ in their collations.
        return tuple(sorted((value_of(Host, r) for r in self._connection.execute(query)), key=lambda h: h.name))

    def put_certificate(self, certificate: Certificate) -> None:
        """Keep a certificate that was issued."""
        self._put(schema.certificates, columns_of(certificate))

    def certificate(self, serial: str) -> Certificate:
        """The certificate with this serial number.

        Raises:
            NotFound: none was issued.
        """
        query = select(schema.certificates).where(schema.certificates.c.serial == serial)
        row = self._connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"certificate {serial!r} is not known: this authority did not issue it")
        return value_of(Certificate, row)

    def certificate_by_key(self, key_id: str) -> Certificate:
        """The certificate of the key with this id; of several, the one that holds longest.

        Raises:
            NotFound: none was issued for this key.
        """
        table = schema.certificates
        query = select(table).where(table.c.key_id == key_id).order_by(table.c.not_after.desc()).limit(1)
        row = self._connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"key {key_id[:16]!r} is not known: this authority certified no such key")
        return value_of(Certificate, row)

    def certificates(self, identity: str = "") -> tuple[Certificate, ...]:
        """All certificates, or those of one identity; by generation, then by the time from which they hold."""
        table = schema.certificates
        query = select(table).order_by(table.c.generation, table.c.not_before, table.c.serial)
        if identity:
            query = query.where(table.c.identity == identity)
        return tuple(value_of(Certificate, row) for row in self._connection.execute(query))

    def operator_certificates(self) -> tuple[Certificate, ...]:
        """The certificates of operators that are not revoked, expired ones too, by the time from which they hold."""
        table = schema.certificates
        is_operators = table.c.identity.startswith(_OPERATORS, autoescape=True)
        query = select(table).where(is_operators, table.c.revoked_at.is_(None))
        rows = self._connection.execute(query.order_by(table.c.not_before, table.c.serial))
        return tuple(value_of(Certificate, row) for row in rows)

    def revoke(self, serial: str, at: datetime) -> Certificate:
        """Put a certificate on the deny-list for ever; one that is there already keeps its time.

        Raises:
            NotFound: no such certificate was issued.
        """
        table = schema.certificates
        query = update(table).where(table.c.serial == serial, table.c.revoked_at.is_(None)).values(revoked_at=at)
        if self._connection.execute(query).rowcount:
            self._count("deny_list")
        return self.certificate(serial)

    def denied(self) -> tuple[int, frozenset[str]]:
        """The deny-list: a version that grows with each change, and the serial numbers on it."""
        table = schema.certificates
        serials = self._connection.execute(select(table.c.serial).where(table.c.revoked_at.is_not(None))).scalars()
        return self._counted("deny_list"), frozenset(serials)

    def put_token(self, token: Token) -> None:
        """Keep a token that was made."""
        self._put(schema.tokens, columns_of(token))

    def spend_token(self, secret_sha256: str, now: datetime) -> Token:
        """Spend a token: of any number of callers at once, one gets it.

        Raises:
            PolicyError: reason token_forged, token_used or token_expired.
        """
        table = schema.tokens
        row = self._connection.execute(select(table).where(table.c.secret_sha256 == secret_sha256)).one_or_none()
        if row is None:
            raise PolicyError("enrolment token was not made by this controller, or was altered", reason="token_forged")
        token = value_of(Token, row)
        if token.spent_at is not None:
            raise PolicyError(
                f"enrolment token for {token.host} was used at {token.spent_at:%Y-%m-%d %H:%M:%S} UTC;"
                f" make a new one with `fireline enroll token --host {token.host}`",
                reason="token_used",
            )
        if now >= token.expires_at:
            raise PolicyError(
                f"enrolment token for {token.host} expired at {token.expires_at:%Y-%m-%d %H:%M:%S} UTC (now"
                f" {now:%Y-%m-%d %H:%M:%S}); make a new one with `fireline enroll token --host {token.host}`",
                reason="token_expired",
            )
        query = update(table).where(table.c.secret_sha256 == secret_sha256).values(spent_at=now)
        self._connection.execute(query)
        return Token(**{**columns_of(token), "spent_at": now})

    def next_fence_token(self) -> int:
        """A number greater than every one given out before."""
        return self._count("fence_token")

    def _count(self, name: str) -> int:
        table = schema.counters
        query = update(table).where(table.c.name == name).values(value=table.c.value + 1).returning(table.c.value)
        return int(self._connection.execute(query).scalar_one())

    def _counted(self, name: str) -> int:
        table = schema.counters
        return int(self._connection.execute(select(table.c.value).where(table.c.name == name)).scalar_one())
