"""The lab's network: a bridge in a namespace of its own, a veth to each host, one to the controller, and its faults.

Addresses are of 198.18.0.0/15 and 2001:2::/48, which RFC 2544 and RFC 5180 keep for test beds. The bridge is not in the
machine's own namespace, because a Docker Engine there drops what is forwarded. Cuts are made in the switch, where a
host can't see them; a slow wire is a relay process between the host's port and the bridge.
"""

import ipaddress
import signal
import sys
from pathlib import Path

from tests.lab.cgroups import Group
from tests.lab.commands import do, ip
from tests.lab.errors import LabError
from tests.lab.processes import Process, launch
from tests.lab.state import HostState, LabState

CONTROLLER = "controller"
CONTROLLER_NUMBER = 254
OUTSIDER_NUMBER = 253
_NETNS = Path("/run/netns")


def taken_networks() -> set[int]:
    """The /24s of 198.18.0.0/15 that this machine already has a route to."""
    numbers = set()
    for line in do("ip", "-4", "route", "show", "table", "all").splitlines():
        word = next((w for w in line.split() if w.startswith(("198.18.", "198.19."))), "")
        if word:
            octets = word.partition("/")[0].split(".")
            numbers.add((int(octets[1]) - 18) * 256 + int(octets[2]))
    return numbers


def address(network: int, number: int) -> str:
    """The address of a host; the controller is number 254."""
    return f"198.{18 + network // 256}.{network % 256}.{number}"


def address6(network: int, number: int) -> str:
    """The IPv6 address of the same."""
    return str(ipaddress.IPv6Address(f"2001:2:0:{network:x}::{number:x}"))


class Wires:
    """The switch of one lab and all that is plugged into it."""

    def __init__(self, state: LabState) -> None:
        self._state = state
        self._switch = f"{state.tag}-switch"
        self._link = f"{state.tag}ctl"

    @property
    def controller_address(self) -> str:
        """Where hosts see the controller, which runs in the machine's own namespace."""
        return address(self._state.network, CONTROLLER_NUMBER)

    @property
    def controller_address6(self) -> str:
        """The same over IPv6."""
        return address6(self._state.network, CONTROLLER_NUMBER)

    def create(self) -> None:
        """Make the switch and the controller's wire."""
        do("ip", "netns", "add", self._switch)
        do("ip", "netns", "exec", self._switch, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        ip(self._switch, ["link set lo up", "link add br0 type bridge", "link set br0 up"])
        do("ip", "link", "add", self._link, "type", "veth", "peer", "name", "pctl", "netns", self._switch)
        ip(self._switch, ["link set pctl master br0 up"])
        do("ip", "addr", "add", f"{self.controller_address}/24", "dev", self._link)
        do("ip", "addr", "add", f"{self.controller_address6}/64", "dev", self._link, "nodad")
        do("ip", "link", "set", self._link, "up")

    def netns(self, host: HostState) -> str:
        """The name of a host's network namespace; another one at each boot, since the kernel deletes them late."""
        return f"{self._state.tag}-{host.name}-{host.boots}"

    def plug_in(self, host: HostState) -> None:
        """Make a host's network namespace and wire it."""
        self._plug(self.netns(host), host.number)

    def admit_outsider(self) -> str:
        """Wire a machine that is no host of the lab; returns its network namespace."""
        name = f"{self._state.tag}-outsider"
        if not (_NETNS / name).exists():
            self._plug(name, OUTSIDER_NUMBER)
        return name

    def _plug(self, name: str, number: int) -> None:
        here, here6, port = address(self._state.network, number), address6(self._state.network, number), f"p{number}"
        do("ip", "netns", "add", name)
        # The same hardware address at each boot, or the neighbours' caches would send to the former one.
        peer = f"peer name eth0 address {_hardware_address(here)} netns {name}"
        ip(self._switch, [f"link add {port} type veth {peer}", f"link set {port} master br0 up"])
        # Static and at once: waiting for duplicates would cost every boot a second.
        addresses = [f"addr add {here}/24 dev eth0", f"addr add {here6}/64 dev eth0 nodad"]
        ip(name, ["link set lo up", "link set eth0 up", *addresses])

    def unplug(self, host: HostState) -> None:
        """Take a host's wire and network namespace away, whatever is left of them."""
        self.restore(host)
        if (_NETNS / self.netns(host)).exists():
            # The wire goes first and at once; the kernel takes its time with a namespace.
            do("ip", "-n", self._switch, "link", "del", f"p{host.number}")
            do("ip", "netns", "del", self.netns(host))

    def link(self, host: HostState, up: bool) -> None:
        """Pull a host's cable, or put it back; the host sees its carrier go."""
        ip(self._switch, [f"link set p{host.number} {'up' if up else 'down'}"])

    def apply_cuts(self) -> None:
        """Make the switch drop exactly what `state.cuts` says, each a pair [from, to]; `*` is everybody."""
        rules = [
            f"add rule bridge cuts forward {_match('iif', a, self)}{_match('oif', b, self)}drop"
            for a, b in self._state.cuts
        ]
        table = ["add table bridge cuts", "delete table bridge cuts"]
        if rules:
            table += ["add table bridge cuts", "add chain bridge cuts forward { type filter hook forward priority 0; }"]
        do("ip", "netns", "exec", self._switch, "nft", "-f", "-", text="\n".join(table + rules) + "\n")

    def impair(self, host: HostState, *, delay_ms: float, jitter_ms: float, loss_percent: float, log: Path) -> Process:
        """Put a relay into a host's wire that holds frames back, both ways, and loses some."""
        self.restore(host)
        port, tap = f"p{host.number}", f"t{host.number}"
        argv = ["ip", "netns", "exec", self._switch, sys.executable, "-I", str(Path(__file__).with_name("relay.py"))]
        argv += [port, tap, str(delay_ms / 1000), str(jitter_ms / 1000), str(loss_percent / 100)]
        relay = launch(argv, log=log)
        Group(f"fireline-lab/{self._state.tag}/wires").admit(relay.pid)
        ip(self._switch, [f"link set {port} nomaster", f"link set {tap} master br0 up"])
        return relay

    def restore(self, host: HostState) -> None:
        """Take the relay out of a host's wire."""
        if host.relay is None:
            return
        host.relay.signal(signal.SIGKILL)
        host.relay.wait_gone(within_s=5)
        host.relay = None
        if (_NETNS / self.netns(host)).exists():
            ip(self._switch, [f"link set p{host.number} master br0"])

    def port_names(self, name: str) -> str:
        """Both names that a host's place at the bridge can have, for nft."""
        if name == CONTROLLER:
            return '"pctl"'
        number = next((host.number for host in self._state.hosts if host.name == name), None)
        if number is None:
            raise LabError(f"no host {name!r} in this lab: there are {[host.name for host in self._state.hosts]}")
        return f'{{ "p{number}", "t{number}" }}'


def remove(tag: str) -> None:
    """Remove every namespace and wire of a lab, by the tag that only it has."""
    found = _NETNS.iterdir() if _NETNS.is_dir() else ()
    for path in found:
        if path.name.startswith(f"{tag}-"):
            do("ip", "netns", "del", path.name)
    if Path(f"/sys/class/net/{tag}ctl").exists():
        _delete_link(f"{tag}ctl")


def _match(way: str, name: str, wires: Wires) -> str:
    return "" if name == "*" else f"{way}name {wires.port_names(name)} "


def _hardware_address(ip_address: str) -> str:
    octets = [int(octet) for octet in ip_address.split(".")]
    return "02:00:" + ":".join(f"{octet:02x}" for octet in octets)


def _delete_link(name: str) -> None:
    try:
        do("ip", "link", "del", name)
    except LabError:
        if Path(f"/sys/class/net/{name}").exists():  # else it went with its other end meanwhile
            raise
