"""The Witness service: what this host sees of another one, so that an isolation is proved from outside."""

import asyncio
import errno
import ipaddress
import socket
import time
from typing import Final

from fireline_agent.errors import RefusedError
from fireline_agent.policy import Policy
from fireline_agent.server.edge import Context, Places, unary
from fireline_wire.v1 import isolation_pb2, isolation_pb2_grpc

_WITHIN_MS: Final = 800
_MAX_WITHIN_MS: Final = 30_000
_MAX_PLACES: Final = 256  # addresses times ports: a look is no port scan
_TRY_S: Final = 0.25  # one attempt; a lost SYN is sent again by the kernel only after a second
_PAUSE_S: Final = 0.05
_UNREACHABLE: Final = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EACCES, errno.EPERM}
)


class WitnessService(isolation_pb2_grpc.WitnessServicer):
    """Looks at other hosts."""

    def __init__(self, *, policy: Policy, places: Places) -> None:
        self._policy = policy
        self._places = places

    @unary
    async def Look(self, request: isolation_pb2.LookRequest, _context: Context) -> isolation_pb2.LookReply:
        """Try every address and port at once."""
        self._policy.require_service("Witness")
        addresses, ports = _checked(request)
        within_s = min(request.within_ms or _WITHIN_MS, _MAX_WITHIN_MS) / 1000
        with self._places.taken():
            async with asyncio.TaskGroup() as tasks:
                looks = [tasks.create_task(_look(a, p, within_s)) for a in addresses for p in ports]
            return isolation_pb2.LookReply(seen=[look.result() for look in looks])


def _checked(request: isolation_pb2.LookRequest) -> tuple[list[str], list[int]]:
    addresses, ports = list(request.addresses), list(request.ports)
    if not addresses or not ports or len(addresses) * len(ports) > _MAX_PLACES:
        raise RefusedError("invalid_request", f"addresses, ports: wanted 1 to {_MAX_PLACES} pairs of them")
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise RefusedError("invalid_request", f"addresses: {address[:100]!r} is no literal address") from None
    if any(not 0 < port < 65536 for port in ports):
        raise RefusedError("invalid_request", "ports: wanted 1 to 65535")
    return addresses, ports


async def _look(address: str, port: int, within_s: float) -> isolation_pb2.Seen:
    if _is_own(address, port):  # two hosts may both have 172.17.0.1: here it says nothing about the other one
        return isolation_pb2.Seen(address=address, port=port, how=isolation_pb2.Seen.HOW_UNREACHABLE)
    until = time.monotonic() + within_s
    how = isolation_pb2.Seen.HOW_SILENT
    while (left_s := until - time.monotonic()) > 0:
        how = await _try(address, port, min(_TRY_S, left_s))
        if how in (isolation_pb2.Seen.HOW_CONNECTED, isolation_pb2.Seen.HOW_REFUSED):
            break
        await asyncio.sleep(min(_PAUSE_S, max(0.0, until - time.monotonic())))
    return isolation_pb2.Seen(address=address, port=port, how=how)


def _is_own(address: str, port: int) -> bool:
    """A socket that is connected over UDP has its address chosen by the kernel, and sends nothing (udp(7))."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connected:
            connected.connect((address, port))
            return bool(connected.getsockname()[0] == address)
    except OSError:
        return False


async def _try(address: str, port: int, within_s: float) -> "isolation_pb2.Seen.How.ValueType":
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as knocking:
            knocking.setblocking(False)
            async with asyncio.timeout(within_s):
                await asyncio.get_running_loop().sock_connect(knocking, (address, port))
    except TimeoutError:
        return isolation_pb2.Seen.HOW_SILENT
    except OSError as error:
        if error.errno == errno.ECONNREFUSED:
            return isolation_pb2.Seen.HOW_REFUSED
        return isolation_pb2.Seen.HOW_UNREACHABLE if error.errno in _UNREACHABLE else isolation_pb2.Seen.HOW_SILENT
    return isolation_pb2.Seen.HOW_CONNECTED
