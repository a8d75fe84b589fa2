"""What a host's network can be given beside its one wire carries bytes."""

import socket
from collections.abc import Iterator

import pytest

from tests.lab import LOOPBACK, Host, Lab, LabError, Unsupported, Vantage, eventually
from tests.lab.annexes import Tunnel

pytestmark = pytest.mark.netns
V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture(scope="module")
def bare() -> Iterator[Lab]:
    """One host, without an agent."""
    with Lab(1) as made:
        yield made


def talk(client: Vantage, server: Vantage, family: int) -> bool:
    """Whether a byte comes through a connection, at once and over this family."""
    address = server.address if family == V4 else server.address6
    with server.socket(family, socket.SOCK_STREAM) as listener, client.socket(family, socket.SOCK_STREAM) as caller:
        listener.bind((address, 0))
        listener.listen()
        caller.settimeout(5)
        caller.connect(listener.getsockname()[:2])
        accepted, _ = listener.accept()
        with accepted:
            caller.sendall(b"x")
            return accepted.recv(1) == b"x"


@pytest.mark.parametrize("family", [V4, V6])
def test_hosts_outsider_and_controller_reach_each_other(bare: Lab, family: int) -> None:
    """Over IPv4 and IPv6, each way, without waiting for addresses to settle."""
    host, outsider = bare["h1"].vantage, bare.outsider()

    for one, other in ((host, outsider), (host, bare.controller), (outsider, bare.controller)):
        assert talk(one, other, family)
        assert talk(other, one, family)


@pytest.mark.parametrize("family", [V4, V6])
def test_a_second_uplink_and_a_guest(uplink: tuple[Vantage, Vantage], guest: Vantage, bare: Lab, family: int) -> None:
    """The second wire ends at a place of its own; a guest on the first one has an address of its own."""
    near, far = uplink

    assert talk(near, far, family)
    assert talk(far, near, family)
    assert talk(bare.outsider(), guest, family)


@pytest.fixture(scope="module")
def uplink(bare: Lab) -> tuple[Vantage, Vantage]:
    """Both ends of the host's second wire."""
    return bare["h1"].second_uplink()


@pytest.fixture(scope="module")
def guest(bare: Lab) -> Vantage:
    """A macvlan child of the host's first wire."""
    return bare["h1"].guest("macvlan")


def test_a_tunnel(bare: Lab) -> None:
    """What the host sends to the far end is read there, and the device goes with its owner."""
    host: Host = bare["h1"]
    with host.tunnel() as tunnel, host.vantage.socket(V4, socket.SOCK_DGRAM) as speaker:
        speaker.sendto(b"through the tunnel", (tunnel.far, 9))
        eventually(lambda: b"through the tunnel" in _read(tunnel), within_s=5, what="the datagram")

    assert "tun0" not in host.run(["ip", "link"])


def test_a_kind_that_the_kernel_lacks_leaves_nothing(bare: Lab) -> None:
    """The error is the kernel's own word, and no process is left."""
    host: Host = bare["h1"]
    before = host.run(["pgrep", "-c", "sleep"])

    with pytest.raises(LabError, match="type nonsense"):
        host.guest("nonsense")
    eventually(lambda: host.run(["pgrep", "-c", "sleep"]) == before, within_s=5, what="the guest to be gone")


def test_a_socket_can_belong_to_another_user(bare: Lab) -> None:
    """The firewall of the host sees the user."""
    host = bare["h1"].vantage
    host.run(["nft", "-f", "-"], text=COUNT_NOBODY)
    with host.socket(V4, socket.SOCK_DGRAM, uid=65534) as nobody, host.socket(V4, socket.SOCK_DGRAM) as root:
        for speaker in (nobody, root, root):
            speaker.sendto(b"x", (bare.controller_address, 9))

    assert "packets 1 " in host.run(["nft", "list", "table", "inet", "seen"])
    host.run(["nft", "delete", "table", "inet", "seen"])


def test_a_loopback_lab_has_no_network_of_its_own() -> None:
    """It says so."""
    with Lab(1, backend=LOOPBACK) as lab:
        with pytest.raises(Unsupported, match="run as root for namespaces"):
            lab.outsider()
        with pytest.raises(Unsupported, match="h1: a loopback host can't have another uplink"):
            lab["h1"].second_uplink()


def _read(tunnel: Tunnel) -> bytes:
    try:
        return tunnel.recv(2048)
    except BlockingIOError:
        return b""


COUNT_NOBODY = """
table inet seen {
  chain out {
    type filter hook output priority 0;
    meta skuid 65534 counter
  }
}
"""
