"""Mutual TLS credentials for gRPC servers and channels, with certificates that change while the server runs.

Leaves to others: where keys and certificates come from (the controller's pki, the agent's keys) and which peers may
call what (guard). Keys are ECDSA P-256: gRPC's TLS client does not offer Ed25519.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

import grpc

# How long a server's handshakes wait before a changed certificate takes their place. gRPC frees the former handshaker
# factory while another handshake may be about to use it, and the process dies; it asks for the configuration under
# the same lock, so a pause here lets those that have passed the lock take hold of theirs first.
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
    return grpc.dynamic_ssl_server_credentials(
        _configuration(source()), cast(_Fetcher, _Changes(source)), require_client_authentication=True
    )


def enrollment_server_credentials(source: Callable[[], Credentials]) -> grpc.ServerCredentials:
    """The same, without asking for a client certificate: for hosts that have none yet."""
    return grpc.dynamic_ssl_server_credentials(_configuration(source()), cast(_Fetcher, _Changes(source)))


def joining_channel_credentials(ca_pem: bytes) -> grpc.ChannelCredentials:
    """Channel credentials of a host that has no certificate yet, and trusts this authority only."""
    return grpc.ssl_channel_credentials(ca_pem)


def channel_credentials(credentials: Credentials) -> grpc.ChannelCredentials:
    """Channel credentials; a channel keeps them for life, so a renewed certificate needs a new channel."""
    return grpc.ssl_channel_credentials(credentials.ca_pem, credentials.key_pem, credentials.chain_pem)


# What the stubs think a fetcher is; the real one may return None for "unchanged".
_Fetcher = Callable[[], grpc.ServerCertificateConfiguration]


class _Changes:
    """Called by gRPC before each handshake: the new configuration once for each change, None otherwise.

    None matters: a configuration on every handshake kills the process under load (SIGSEGV in grpcio 1.85).
    """

    def __init__(self, source: Callable[[], Credentials]) -> None:
        self._source = source
        self._served = source()

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
