"""Isolation orders as this controller gives them: which addresses stay open, the one-time code, the signature."""

import base64
import secrets
from collections.abc import Callable
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fireline_controller.config import Settings
from fireline_controller.engine.values import IsolationWish
from fireline_controller.hosts import SignedOrder, vantage
from fireline_controller.isolation import Isolation, Phase
from fireline_controller.model import Host, Operation, PolicyError
from fireline_controller.pki import Authority
from fireline_wire import envelope
from fireline_wire.isolation import PAYLOAD_TYPE, IsolationOrder, Opening, Scope, code_sha256

_CODE_BYTES = 10  # 80 bits: 16 characters of base32 without padding


def new_code() -> str:
    """A one-time code for the console: four groups of four characters of base32 (RFC 4648, section 6)."""
    characters = base64.b32encode(secrets.token_bytes(_CODE_BYTES)).decode()
    return "-".join(characters[at : at + 4] for at in range(0, len(characters), 4))


class Orders:
    """Makes and signs orders."""

    def __init__(self, authority: Callable[[], Authority], settings: Settings) -> None:
        self._authority = authority
        self._settings = settings

    async def controllers(self, host: Host) -> tuple[str, ...]:
        """The addresses that must stay open on a host, literal: a name would be for the intruder there to resolve.

        Raises:
            PolicyError: there is none, so nobody could reach the host any more.
        """
        way = await vantage.way_to(host.address)
        own = () if way is None or way.is_loopback else (way.local,)
        found = tuple(dict.fromkeys((*self._settings.isolation.controllers, *own)))
        if not found:
            message = (
                f"{host.name} at {host.address}: no address of a controller to leave open;"
                " set isolation.controllers in fireline.toml"
            )
            raise PolicyError(message, reason="lockout")
        return found

    async def draft(self, host: Host, wish: IsolationWish, *, now: datetime, of: Operation | None = None) -> Isolation:
        """An order but for its fence token, which is drawn when it is put on record; for a plan it is of no operation.

        Raises:
            PolicyError: no address of a controller would stay open.
        """
        return Isolation(
            order_id=f"{of.id if of else 'plan'}.{host.name}",
            host=host.name,
            scope=str(wish.scope),
            phase=Phase.ARMING,
            operation_id=of.id if of else "",
            incident_id=of.incident_id if of else "",
            operator=of.operator if of else "",
            reason=of.reason if of else "",
            code=new_code(),
            controllers=await self.controllers(host),
            allowances=tuple(str(opening) for opening in wish.allowances),
            lease_s=wish.lease_s or self._settings.isolation.lease_s,
            fence_token=0,
            force=wish.force,
            unproved=wish.unproved,
            without_evidence=wish.now,
            ordered_at=now,
        )

    def sign(self, isolation: Isolation, issued_at: datetime) -> SignedOrder:
        """The order of an isolation as it is on record, signed with this controller's key as it is now."""
        order = IsolationOrder(
            order_id=isolation.order_id,
            host=isolation.host,
            scope=Scope.parse(isolation.scope),
            controllers=isolation.controllers,
            lease_s=isolation.lease_s,
            fence_token=isolation.fence_token,
            issued_at=f"{issued_at:%Y-%m-%dT%H:%M:%SZ}",
            code_sha256=code_sha256(isolation.code),
            allowances=tuple(Opening.parse(text) for text in isolation.allowances),
            operator=isolation.operator,
            incident_id=isolation.incident_id,
            reason=isolation.reason,
        )
        credentials = self._authority().controller
        key = load_pem_private_key(credentials.key_pem, None)
        if not isinstance(key, EllipticCurvePrivateKey):
            raise TypeError("the controller's key is not on an elliptic curve")
        return SignedOrder(envelope.seal(order.to_bytes(), PAYLOAD_TYPE, key), credentials.chain_pem)
