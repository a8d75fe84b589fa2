"""Why no connection came about, found out by a second look: ourselves first, then name, TCP, TLS, and what follows it.

gRPC says UNAVAILABLE for a dead host, a refused port, a certificate that either side rejects and our own lack of file
descriptors. An operator must do something else in each case, so each has its own reason.
"""

import asyncio
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, TypeAlias

from cryptography import x509

from fireline_controller.hosts import descriptors, values
from fireline_controller.hosts.channels import Destination
from fireline_controller.model import HostError, Unreachable
from fireline_wire import tls

# X509_V_ERR_… of OpenSSL's x509_vfy.h.
_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_WRONG_NAME: Final = 62

# Address family and address, as the socket module has them.
_Place: TypeAlias = tuple[int, Any]

_ALERT: Final = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_ALERT_(\w+)\Z")
_STAMP: Final = "%Y-%m-%d %H:%M:%SZ"


class Prober:
    """Takes the second look, with our own certificate."""

    def __init__(self, credentials: Callable[[], tls.Credentials], now: Callable[[], datetime]) -> None:
        self._credentials = credentials
        self._now = now
        self._context: tuple[tls.Credentials, ssl.SSLContext] | None = None

    async def look(self, destination: Destination, *, within_s: float) -> HostError | None:
        """Why the host can't be reached, or None when a connection comes about now.

        Raises:
            ControllerExhausted: the controller has no file descriptor left.
        """
        descriptors.require_free()
        try:
            return await self._look(destination, asyncio.get_running_loop().time() + within_s)
        except OSError as error:
            if descriptors.is_exhaustion(error):
                raise descriptors.exhausted() from None
            raise

    async def _look(self, destination: Destination, deadline: float) -> HostError | None:
        try:
            async with asyncio.timeout_at(deadline):
                place = await _resolve(destination.address)
        except TimeoutError:
            return _unreachable(destination, values.NAME_UNKNOWN, "the name can't be resolved: no answer from the DNS")
        except (socket.gaierror, UnicodeError) as error:
            return _unreachable(destination, values.NAME_UNKNOWN, f"the name can't be resolved ({error})")
        return await self._look_at_tcp(destination, place, deadline)

    async def _look_at_tcp(self, destination: Destination, place: _Place, deadline: float) -> HostError | None:
        try:
            async with asyncio.timeout_at(deadline):
                connection = await _connect(place)
        except TimeoutError:
            return _unreachable(destination, values.NO_ANSWER, "no answer: the host is down or its network drops us")
        except ConnectionRefusedError:
            return _unreachable(destination, values.REFUSED, "refused: the host is up and no agent listens there")
        except OSError as error:
            if descriptors.is_exhaustion(error):
                raise
            return _unreachable(destination, values.NO_ANSWER, f"no way there: {error.strerror or error}")
        return await self._look_at_tls(destination, connection, deadline)

    async def _look_at_tls(
        self, destination: Destination, connection: socket.socket, deadline: float
    ) -> HostError | None:
        try:
            async with (
                asyncio.timeout_at(deadline),
                _handshake(connection, self._trusting(), destination.dns) as reader,
            ):
                answer = await _first_byte(reader)
        except TimeoutError:
            return _unreachable(
                destination, values.MUTE, "accepts connections and stays mute: the agent is frozen or overloaded"
            )
        except ssl.SSLCertVerificationError as error:
            return await self._about_certificate(destination, error)
        except ssl.SSLError as error:
            return _about_alert(destination, error)
        except OSError as error:
            if descriptors.is_exhaustion(error):
                raise
            return _unreachable(destination, values.BROKEN, "it ended the connection in the middle of the handshake")
        return None if answer else _closed(destination, "it closed the connection after our certificate")

    async def _about_certificate(self, destination: Destination, error: ssl.SSLCertVerificationError) -> HostError:
        served = await _served_certificate(destination)
        now = self._now()
        if error.verify_code in (_EXPIRED, _NOT_YET_VALID) and served is not None:
            begins, ends = served.not_valid_before_utc, served.not_valid_after_utc
            what = f"expired {ends:{_STAMP}}" if now > ends else f"is not valid before {begins:{_STAMP}}"
            return _unreachable(
                destination,
                values.TLS_EXPIRED,
                f"its certificate {what} (now {now:{_STAMP}}): enrol the host again, or set its clock or ours",
            )
        if error.verify_code == _WRONG_NAME:
            found = ", ".join(_names(served)) or "no name"
            return _unreachable(
                destination,
                values.TLS_WRONG_NAME,
                f"its certificate is for {found}, wanted {destination.dns}: another host, or a former enrolment of it",
            )
        return _unreachable(
            destination, values.TLS_UNTRUSTED, f"its certificate is not by our authority ({error.verify_message})"
        )

    def _trusting(self) -> ssl.SSLContext:
        """Our certificate and our authority, in a context that is made once for each certificate of ours."""
        credentials = self._credentials()
        if self._context is None or self._context[0] is not credentials:
            self._context = (credentials, _context(credentials))
        return self._context[1]


async def _resolve(address: str) -> _Place:
    name, _, port = address.rpartition(":")
    found = await asyncio.get_running_loop().getaddrinfo(name.strip("[]"), port, type=socket.SOCK_STREAM)
    family, _, _, _, where = found[0]
    return family, where


async def _connect(place: _Place) -> socket.socket:
    family, where = place
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, where)
    except BaseException:
        connection.close()
        raise
    return connection


async def _first_byte(reader: asyncio.StreamReader) -> bytes:
    """What a server says first, HTTP/2's settings; nothing when it closes. In TLS 1.3 it judges our certificate now."""
    try:
        return await reader.read(1)
    except ConnectionError:
        return b""


@asynccontextmanager
async def _handshake(
    connection: socket.socket, context: ssl.SSLContext, name: str
) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection(sock=connection, ssl=context, server_hostname=name)
    try:
        yield reader
    finally:
        writer.transport.abort()


async def _served_certificate(destination: Destination) -> x509.Certificate | None:
    """The certificate that is served there, unverified, for the message only. Nothing of ours is shown for it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(1):
            _, writer = await asyncio.open_connection(
                sock=await _connect(await _resolve(destination.address)), ssl=context, server_hostname=destination.dns
            )
    except (OSError, TimeoutError):
        return None
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der)
    except ValueError:
        return None
    finally:
        writer.transport.abort()


def _names(certificate: x509.Certificate | None) -> list[str]:
    if certificate is None:
        return []
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [sanitised(name)[:200] for name in names.get_values_for_type(x509.DNSName)][:5]


def _about_alert(destination: Destination, error: ssl.SSLError) -> HostError:
    alert = _ALERT.match(error.reason or "")
    if alert is None:
        return _unreachable(destination, values.NO_TLS, f"what answers there speaks no TLS 1.3 ({error.reason})")
    return _closed(destination, f"alert {alert[1].lower().replace('_', ' ')}")


def _closed(destination: Destination, how: str) -> HostError:
    return _unreachable(
        destination,
        values.TLS_REJECTED_US,
        f"it rejects our certificate ({sanitised(how)}): it trusts another authority, or holds ours for expired",
    )


def _context(credentials: tls.Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata=credentials.ca_pem.decode("ascii"))
    # Python's ssl reads keys from files only: one in memory, so that no key lies on a disk.
    descriptor = os.memfd_create("fireline-key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, credentials.key_pem + b"\n" + credentials.chain_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context


def sanitised(text: str) -> str:
    """gRPC's and OpenSSL's texts can carry bytes of the peer's: one line, printable, of bounded length."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:300])


def _unreachable(destination: Destination, reason: str, what: str) -> Unreachable:
    return Unreachable(
        f"{destination.host} at {destination.address}: {what}",
        reason=reason,
        retry_helps=reason in (values.REFUSED, values.NO_ANSWER, values.MUTE, values.NAME_UNKNOWN, values.BROKEN),
    )
