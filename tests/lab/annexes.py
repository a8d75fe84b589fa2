"""What a lab host's network can be given beside its one wire: a second uplink, a guest on its wire, a tunnel.

Their addresses lie in the lab's own networks above those of hosts, so one host of a lab can have each.
"""

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from fireline_agent.hands.namespaces import entered
from tests.lab.commands import do, ip
from tests.lab.processes import Process
from tests.lab.vantage import Vantage
from tests.lab.wires import address, address6

_NEAR, _FAR, _GUEST, _TUNNEL_NEAR, _TUNNEL_FAR = 241, 242, 243, 245, 246
_NETNS = Path("/run/netns")

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


def second_uplink(host: Vantage, netns: str, network: int) -> tuple[Vantage, Vantage]:
    """Give a host `eth1`, wired to a place of its own that nothing else reaches; returns the near end and the far."""
    do("ip", "netns", "add", netns)
    host.run(["ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", netns])
    _join(host, "eth1", network, _NEAR, _FAR)
    ip(netns, ["link set lo up", "link set eth0 up"])
    far = Vantage("second uplink", _NETNS / netns, address(network, _FAR), address6(network, _FAR))
    _join(far, "eth0", network, _FAR, _NEAR)
    near = Vantage(f"{host.name} by eth1", host.netns, address(network, _NEAR), address6(network, _NEAR))
    return near, far


def guest(host: Vantage, holder: Process, network: int, kind: str) -> Vantage:
    """Put a child of the host's wire into the namespace of a process of the host, as container engines do.

    Args:
        host: whose wire.
        holder: the process, in a network namespace of its own.
        network: the lab's.
        kind: `macvlan` or `ipvlan`.

    Raises:
        LabError: the kernel has no such kind.
    """
    mode = "bridge" if kind == "macvlan" else "l2"
    host.run(["ip", "link", "add", "guest0", "link", "eth0", "type", kind, "mode", mode])
    host.run(["ip", "link", "set", "guest0", "netns", str(holder.pid), "name", "eth0"])
    here, here6 = address(network, _GUEST), address6(network, _GUEST)
    made = Vantage(kind, Path(f"/proc/{holder.pid}/ns/net"), here, here6)
    addresses = [f"addr add {here}/24 dev eth0", f"addr add {here6}/64 dev eth0 nodad"]
    made.run(["ip", "-batch", "-"], text="\n".join(["link set lo up", "link set eth0 up", *addresses]) + "\n")
    return made


@dataclass
class Tunnel:
    """A tun device of a host, and its far end in our hands: what the host sends there is read, and the reverse.

    A context manager: the device goes with it.
    """

    descriptor: int
    near: str
    far: str
    near6: str
    far6: str

    def fileno(self) -> int:
        """What can be polled."""
        return self.descriptor

    def recv(self, size: int, /) -> bytes:
        """The next packet that the host sent there.

        Raises:
            BlockingIOError: there is none yet.
        """
        return os.read(self.descriptor, size)

    def send(self, packet: bytes) -> None:
        """Let a packet come out of the tunnel."""
        os.write(self.descriptor, packet)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)


def tunnel(host: Vantage, network: int) -> Tunnel:
    """Give a host `tun0`, as a VPN does."""
    with entered(str(host.netns)):
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI))
    _join(host, "tun0", network, _TUNNEL_NEAR, _TUNNEL_FAR)
    near, far = (address(network, number) for number in (_TUNNEL_NEAR, _TUNNEL_FAR))
    near6, far6 = (address6(network, number) for number in (_TUNNEL_NEAR, _TUNNEL_FAR))
    return Tunnel(descriptor, near, far, near6, far6)


def _join(place: Vantage, link: str, network: int, near: int, far: int) -> None:
    """Address one end of a link between two."""
    lines = [
        f"link set {link} up",
        f"addr add {address(network, near)} peer {address(network, far)} dev {link}",
        f"addr add {address6(network, near)} peer {address6(network, far)} dev {link} nodad",
    ]
    place.run(["ip", "-batch", "-"], text="\n".join(lines) + "\n")
