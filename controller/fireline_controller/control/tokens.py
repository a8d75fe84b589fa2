"""One-time enrolment tokens, made for an operator and on record before they are shown."""

import secrets
import socket
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from fireline_controller import config, enrollment
from fireline_controller.model import Entry, PolicyError, Token
from fireline_controller.pki import Authority
from fireline_controller.store import Store, Transaction

_SECRET_BYTES = 32


class Tokens:
    """Makes tokens."""

    def __init__(self, store: Store, authority: Authority, listen: config.Listen, now: Callable[[], datetime]) -> None:
        self._store = store
        self._authority = authority
        self._listen = listen
        self._now = now

    async def create(
        self, host: str, *, ttl: timedelta, labels: Mapping[str, str], controller_address: str, operator: str
    ) -> tuple[str, Token]:
        """A token's text and what is kept of it.

        Raises:
            PolicyError: the name, the labels or the time to live are not acceptable, or a host of this name is in the
                fleet, which is journaled like the refusal of its token would be.
        """
        now = self._now()
        address = controller_address or self._listen.advertise or _own_address(self._listen.enrollment)
        text, token = enrollment.make_token(
            host=host,
            labels=labels,
            created_by=operator,
            address=address,
            ca_sha256=self._authority.ca_sha256,
            secret=secrets.token_urlsafe(_SECRET_BYTES),
            now=now,
            ttl=ttl,
        )
        data = {"labels": dict(labels), "expires_at": token.expires_at.isoformat(), "controller": address}
        summary = f"token for {host} made, good for {int(ttl.total_seconds())} s"

        def record(tx: Transaction) -> None:
            enrollment.next_generation(tx, host)
            tx.put_token(token)
            tx.append(Entry("enrollment.token", operator, now, summary, host=host, data=data))

        try:
            await self._store.run(record)
        except PolicyError as error:
            refusal = {"reason": error.reason, "told_by": "controller"}
            refused = Entry(
                "enrollment.refused", operator, now, f"no token for {host}: {error}", host=host, data=refusal
            )
            await self._store.run(lambda tx: tx.append(refused))
            raise
        return text, token


def _own_address(listen: str) -> str:
    """Where hosts reach this machine: the listening address, or for "any" the one that this machine calls out from."""
    address, _, port = listen.rpartition(":")
    if address not in ("0.0.0.0", "[::]", ""):  # noqa: S104 - compared, not bound
        return listen
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket sends nothing; it makes the kernel choose the source address (udp(7)).
            probe.connect(("192.0.2.1", 9))
            return f"{probe.getsockname()[0]}:{port}"
        except OSError:
            return f"127.0.0.1:{port}"
