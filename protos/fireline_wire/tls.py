"""Mutual TLS credentials for gRPC servers and channels, with certificates that change while the server runs.

Leaves to others: where keys and certificates come from (the controller's pki, the agent's keys) and which peers may
call what (guard). Keys are ECDSA P-256: gRPC's TLS client does not offer Ed25519.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

import grpc

# How long new handshakes wait before a changed certificate is in use. gRPC (ssl_security_connector.cc, add_handshakers)
# asks for the configuration under a lock but uses it without: it may free the former one while a handshake that has
# just passed the lock is about to take hold of it, and the process dies (SIGSEGV). A pause inside the lock lets those
# take hold first. tests/faults/changing_source.py dies without it.
_SETTLE_S: Final = 0.05


@dataclass(frozen=True)
class Credentials:
    """One end's key, its chain (leaf first, then the authority) and the authority it trusts, all PEM."""

    key_pem: bytes = field(repr=False)
    chain_pem: bytes
    ca_pem: bytes


def server_credentials(source: Callable[[], Credentials]) -> grpc.ServerCredentials:
    """Server credentials that demand a client certificate and follow the source at each new handshake.

    The source is called on gRPC's threads and must be quick; while nothing changed it must return the same object,
    since each new object is a new certificate. Live connections go on with the certificate they began with. Make one
    for each port.
    """
    return _following(source, client_certificate=True)


def enrollment_server_credentials(source: Callable[[], Credentials]) -> grpc.ServerCredentials:
    """The same, without asking for a client certificate: for hosts that have none yet."""
    return _following(source, client_certificate=False)


def joining_channel_credentials(ca_pem: bytes) -> grpc.ChannelCredentials:
    """Channel credentials of a host that has no certificate yet, and trusts this authority only."""
    return grpc.ssl_channel_credentials(ca_pem)


def channel_credentials(credentials: Credentials) -> grpc.ChannelCredentials:
    """Channel credentials; a channel keeps them for life, so a renewed certificate needs a new channel."""
    return grpc.ssl_channel_credentials(credentials.ca_pem, credentials.key_pem, credentials.chain_pem)


# What the stubs think a fetcher is; the real one may return None for "unchanged".
_Fetcher = Callable[[], grpc.ServerCertificateConfiguration]


def _following(source: Callable[[], Credentials], *, client_certificate: bool) -> grpc.ServerCredentials:
    served = source()
    return grpc.dynamic_ssl_server_credentials(
        _configuration(served), cast(_Fetcher, _Changes(source, served)), client_certificate
    )


class _Changes:
    """Called by gRPC before each handshake: the new configuration once for each change, None otherwise.

    None matters: it leaves what is in use alone, so the pause is paid once for each change.
    """

    def __init__(self, source: Callable[[], Credentials], served: Credentials) -> None:
        self._source = source
        self._served = served

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        current = self._source()
        if current is self._served:
            return None
        self._served = current
        time.sleep(_SETTLE_S)
        return _configuration(current)


def _configuration(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(credentials.key_pem, credentials.chain_pem)], root_certificates=credentials.ca_pem
    )
