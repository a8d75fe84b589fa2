"""This machine as a vantage of its own: its addresses, the one that a host sees it at, and what answers over TCP."""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from fireline_controller.hosts import descriptors
from fireline_controller.isolation import How, Sight

# One attempt; a lost SYN is sent again by the kernel only after a second (RFC 6298, section 2.1).
_ATTEMPT_S: Final = 0.4
_AT_ONCE: Final = 256  # sockets


def machine_id(root: Path = Path("/")) -> str:
    """This machine's id (machine-id(5)), empty where it has none."""
    with suppress(OSError, UnicodeDecodeError):
        return (root / "etc/machine-id").read_text().strip()
    return ""


def own_addresses() -> frozenset[str]:
    """Every address of this machine's interfaces, loopback ones included, without zones."""
    found = (a for addresses in psutil.net_if_addrs().values() for a in addresses)
    families = (socket.AF_INET, socket.AF_INET6)
    return frozenset(_short(a.address.partition("%")[0]) for a in found if a.family in families)


@dataclass(frozen=True)
class Way:
    """The two ends of a connection to a host, literal: this machine's address, the host's, and the port there."""

    local: str
    remote: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether it stays on this machine; what answers there may be a tunnel to somewhere else."""
        return ipaddress.ip_address(self.remote).is_loopback


async def way_to(address: str) -> Way | None:
    """How this machine reaches ADDRESS:PORT; nothing without a way there.

    A socket that is connected over UDP has its address chosen by the kernel and sends nothing (udp(7)).
    """
    name, _, port = address.rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name.strip("[]"), port, type=socket.SOCK_DGRAM)
        family, _, _, _, where = found[0]
        with socket.socket(family, socket.SOCK_DGRAM) as connected:
            connected.connect(where)
            ends = [str(end[0]).partition("%")[0] for end in (connected.getsockname(), connected.getpeername())]
    except (OSError, UnicodeError):
        return None
    return Way(_short(ends[0]), _short(ends[1]), int(where[1]))


async def look(addresses: Sequence[str], ports: Sequence[int], *, within_s: float) -> tuple[Sight, ...]:
    """What answers over TCP: exactly one sight for each address and port, each tried until the time is over.

    There is no way to another host at an address that this machine has too, as those of container bridges are; a
    loopback one may be a tunnel's.

    Raises:
        ControllerExhausted: this process has no file descriptor left.
    """
    until = asyncio.get_running_loop().time() + within_s
    places = asyncio.Semaphore(_AT_ONCE)
    own = {own for own in own_addresses() if not ipaddress.ip_address(own).is_loopback}

    async def at(address: str, port: int) -> Sight:
        if address in own:
            return Sight(address, port, How.UNREACHABLE)
        async with places:
            return Sight(address, port, await _seen(address, port, until))

    return tuple(await asyncio.gather(*(at(address, port) for address in addresses for port in ports)))


async def _seen(address: str, port: int, until: float) -> How:
    how = await _tried(address, port)
    while how is How.SILENT and asyncio.get_running_loop().time() < until:
        how = await _tried(address, port)
    return how


async def _tried(address: str, port: int) -> How:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as attempt:
            attempt.setblocking(False)
            async with asyncio.timeout(_ATTEMPT_S):
                await asyncio.get_running_loop().sock_connect(attempt, (address, port))
    except TimeoutError:
        return How.SILENT
    except (ConnectionRefusedError, ConnectionResetError):
        return How.REFUSED
    except OSError as error:
        if descriptors.is_exhaustion(error):
            raise descriptors.exhausted() from None
        return How.SILENT if error.errno == errno.ETIMEDOUT else How.UNREACHABLE
    return How.CONNECTED


def _short(address: str) -> str:
    return str(ipaddress.ip_address(address))
