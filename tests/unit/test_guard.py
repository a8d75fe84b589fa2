"""What the guard reads out of a certificate, and that it fails closed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from fireline_controller.pki.signing import new_key
from fireline_wire import guard
from fireline_wire.identity import Identity, Role

NOW = datetime(2026, 5, 2, tzinfo=UTC)


def certificate(*uris: str, serial: int = 0xABC) -> bytes:
    """A certificate with these URIs, PEM."""
    key, name = new_key(), x509.Name([])
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=serial,
        not_valid_before=NOW,
        not_valid_after=NOW + timedelta(days=1),
    )
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_a_peer_is_its_identity_and_its_serial_number() -> None:
    """Lower-case hexadecimal without leading zeros."""
    found = guard.peer_from_pem(certificate("spiffe://fireline/controller/hq"))

    assert found == guard.Peer(Identity(Role.CONTROLLER, "hq"), "abc")


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("spiffe://fireline/controller/hq", "spiffe://fireline/agent/web-1"),
        ("spiffe://elsewhere/controller/hq",),
        ("spiffe://fireline/root/hq",),
        ("spiffe://fireline/controller/",),
        ("spiffe://fireline/controller/hq/extra",),
        ("spiffe://fireline/controller/HQ",),
    ],
)
def test_a_certificate_without_exactly_one_identity_is_nobodys(uris: tuple[str, ...]) -> None:
    """None, two, of another domain, with another role, or with a name that is not one."""
    with pytest.raises(ValueError, match="certificate abc does not carry one Fireline identity"):
        guard.peer_from_pem(certificate(*uris))


async def test_a_handler_that_can_not_be_cut_off_is_not_served() -> None:
    """A plain function would run in a thread, out of the deny-list's reach."""
    handler: Any = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    details: Any = type("Details", (), {"method": "/test/Ping", "invocation_metadata": ()})()

    async def continuation(_: Any) -> Any:
        return handler

    with pytest.raises(TypeError, match="/test/Ping is not served by an async function, so it can't be cut off"):
        await guard.RoleGuard({Role.CONTROLLER}, guard.DenyList()).intercept_service(continuation, details)
