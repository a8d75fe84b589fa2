"""T1 on the real kernel: namespaces, links, rules and sockets made by the test, in namespaces of its own."""

import ctypes
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fireline_agent.capture import conntrack, firewall, network, sockets
from fireline_agent.capture.collector import Context
from fireline_agent.hands import namespaces
from fireline_agent.hands.netlink import NETLINK_ROUTE, attribute
from tests.unit.sink import MemorySink

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]

_LISTEN = "import socket,time; s=socket.create_server(('0.0.0.0', 7077)); print('up', flush=True); time.sleep(60)"


@contextmanager
def made_namespace(tag: str) -> Iterator[str]:
    """A network namespace kept by a mount in /run/netns, as `ip netns` and Docker keep theirs."""
    name = f"flt-{os.getpid()}-{tag}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said its first line, ended with the block."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def _inode(name: str) -> int:
    return Path("/run/netns", name).stat().st_ino


def _ip(name: str, *arguments: str) -> None:
    subprocess.run(["ip", "-n", name, *arguments], check=True)


def _collected(collect: Callable[[Context, MemorySink], None]) -> MemorySink:
    sink = MemorySink()
    collect(Context(), sink)
    return sink


def _of(sink: MemorySink, artifact: str, inode: int) -> list[dict[str, object]]:
    return [r for r in sink.artifacts[f"{artifact}.jsonl"].records() if r["namespace"] == inode]


def test_a_listener_in_a_namespace_that_only_a_mount_keeps() -> None:
    """No process lives there, only a socket whose owner is elsewhere: both are found, and told."""
    home = Path("/proc/self/ns/net").readlink()
    with made_namespace("mount") as name, ExitStack() as stack:
        with namespaces.entered(f"/run/netns/{name}"):
            server = stack.enter_context(socket.create_server(("0.0.0.0", 7001)))
        sink = _collected(sockets.collect)

        [record] = [r for r in _of(sink, "network/sockets", _inode(name)) if r["kind"] == "tcp"]
        assert (record["local_port"], record["state"]) == (7001, "LISTEN")
        assert [owner["pid"] for owner in record["owners"]] == [os.getpid()]  # type: ignore[attr-defined]  # JSON read back
        [finding] = [f for f in sink.found("listener-in-foreign-netns") if str(_inode(name)) in f.subject]
        assert finding.severity == "warning"
        assert f"(pid {os.getpid()})" in finding.subject
        assert finding.summary == (
            "listens on tcp 0.0.0.0:7001 in a network namespace that belongs to no container, "
            f"kept by /run/netns/{name}"
        )
        assert server.fileno() >= 0
    assert Path("/proc/self/ns/net").readlink() == home


def test_a_listener_in_a_namespace_that_only_a_process_keeps() -> None:
    """A namespace without a name is found through the process that lives in it."""
    with running("unshare", "--net", sys.executable, "-c", _LISTEN) as process:
        inode = Path(f"/proc/{process.pid}/ns/net").stat().st_ino
        sink = _collected(sockets.collect)

    [record] = [r for r in _of(sink, "network/sockets", inode) if r["kind"] == "tcp"]
    assert record["local_port"] == 7077
    [namespace] = _of(sink, "network/namespaces", inode)
    assert namespace["pids"] == [process.pid]
    assert [f for f in sink.found("listener-in-foreign-netns") if f"pid {process.pid}" in f.subject]


def test_a_namespace_that_only_an_open_file_keeps() -> None:
    """Neither process nor mount: a descriptor alone keeps it, and leads to it."""
    with ExitStack() as stack:
        with made_namespace("file") as name:
            file = stack.enter_context(Path("/run/netns", name).open())
            inode = os.fstat(file.fileno()).st_ino
            path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        sink = _collected(sockets.collect)

    [namespace] = _of(sink, "network/namespaces", inode)
    assert namespace["kept_by"] == [path]
    assert namespace["not_entered"] == ""


def test_ten_thousand_sockets() -> None:
    """All are read with their owner within two seconds, and told in one finding."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 12_000), hard))
    try:
        with made_namespace("many") as name, ExitStack() as stack:
            with namespaces.entered(f"/run/netns/{name}"):
                for n in range(10_000):
                    made = stack.enter_context(socket.socket(socket.AF_INET if n % 2 else socket.AF_INET6))
                    made.bind(("0.0.0.0" if n % 2 else "::", 10_000 + n))
                    made.listen(1)
            start = time.monotonic()
            sink = _collected(sockets.collect)
            took_s = time.monotonic() - start
            records = [r for r in _of(sink, "network/sockets", _inode(name)) if r["kind"] == "tcp"]
            inode = _inode(name)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert len(records) == 10_000
    assert {r["owners"][0]["pid"] for r in records} == {os.getpid()}  # type: ignore[index]  # JSON read back
    assert len({record["local_port"] for record in records}) == 10_000
    [finding] = [f for f in sink.found("listener-in-foreign-netns") if str(inode) in f.subject]
    assert "and 9997 more" in finding.summary
    assert took_s < 2


def test_every_kind_of_socket_is_seen() -> None:
    """tcp, udp, raw, unix, packet and netlink, whichever way this kernel shows each."""
    with made_namespace("kinds") as name, ExitStack() as stack:
        _ip(name, "link", "set", "lo", "up")
        with namespaces.entered(f"/run/netns/{name}"):
            server = stack.enter_context(socket.create_server(("::1", 7002), family=socket.AF_INET6))
            client = stack.enter_context(socket.create_connection(("::1", 7002)))
            for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
                made = stack.enter_context(socket.socket(socket.AF_INET, kind, 1 if kind == socket.SOCK_RAW else 0))
                made.bind(("127.0.0.1", 7003))
            unix = stack.enter_context(socket.socket(socket.AF_UNIX))
            unix.bind(b"\0flt-\xff\n")
            unix.listen()
            packet = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
            packet.bind(("lo", 0))
            netlink = stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE))
            netlink.bind((0, 0))
        sink = _collected(sockets.collect)
        inode = _inode(name)

    by_inode = {r["inode"]: r for r in _of(sink, "network/sockets", inode) if r["owners"]}
    assert {str(r["kind"]) for r in by_inode.values()} == {"tcp", "udp", "raw", "unix", "packet", "netlink"}
    states = sorted(str(r["state"]) for r in by_inode.values() if r["kind"] == "tcp")
    assert states[-1] == "LISTEN"
    assert "ESTABLISHED" in states
    [named] = [r for r in by_inode.values() if r["kind"] == "unix"]
    assert (named["name"], named["name_hex"]) == ("@flt-\\xff\n", b"@flt-\xff\n".hex())
    [finding] = [f for f in sink.found("packet-socket") if str(inode) in f.subject]
    assert finding.summary == "reads raw frames from interfaces [1]"
    assert server.fileno() == client.fileno() == -1


def test_links_routes_rules_and_neighbours_of_another_namespace() -> None:
    """Addresses, every routing table, policy rules and neighbours are read where they are."""
    with made_namespace("wire") as name:
        for line in (
            "link add flt0 type veth peer name flt1",
            "link set flt0 up",
            "link set flt1 up",
            "address add 198.18.7.1/24 dev flt0",
            "route add 198.18.9.0/24 via 198.18.7.2 table 777",
            "route add 198.18.8.0/24 nexthop via 198.18.7.2 weight 2 nexthop via 198.18.7.3",
            "rule add from 198.18.7.0/24 lookup 777 priority 99",
            "neighbour add 198.18.7.2 lladdr 02:00:00:00:00:02 dev flt0",
        ):
            _ip(name, *line.split())
        sink = _collected(network.collect)
        inode = _inode(name)

    links = {r["name"]: r for r in _of(sink, "network/links", inode)}
    assert links["flt0"]["kind"] == "veth"
    assert links["flt0"]["state"] == "up"
    assert "198.18.7.1" in [r["address"] for r in _of(sink, "network/addresses", inode)]
    [route] = [r for r in _of(sink, "network/routes", inode) if r["table"] == 777]
    assert (route["destination"], route["gateway"]) == ("198.18.9.0/24", "198.18.7.2")
    [several] = [r for r in _of(sink, "network/routes", inode) if r["destination"] == "198.18.8.0/24"]
    hops = [(hop["gateway"], hop["weight"]) for hop in several["next_hops"]]  # type: ignore[attr-defined]  # JSON read back
    assert hops == [("198.18.7.2", 2), ("198.18.7.3", 1)]
    [rule] = [r for r in _of(sink, "network/rules", inode) if r["priority"] == 99]
    assert (rule["source"], rule["table"]) == ("198.18.7.0/24", 777)
    [neighbour] = [r for r in _of(sink, "network/neighbours", inode) if r["address"] == "198.18.7.2"]
    assert (neighbour["link_address"], neighbour["state"]) == ("02:00:00:00:00:02", ["permanent"])
    assert [f for f in sink.findings if str(inode) in f.subject] == []


def test_a_sniffing_link_is_told_and_a_bridges_port_is_not() -> None:
    """A bridge makes its ports promiscuous; one more is a sniffer."""
    with made_namespace("sniff") as name:
        for line in (
            "link add br0 type bridge",
            "link add flt0 type veth peer name flt1",
            "link add flt2 type veth peer name flt3",
            "link set flt0 master br0 up",
            "link set flt2 promisc on up",
        ):
            _ip(name, *line.split())
        sink = _collected(network.collect)
        inode = _inode(name)

    told = [f.subject for f in sink.found("promiscuous-link") if str(inode) in f.subject]
    assert told == [f"flt2 in netns {inode}"]


def test_an_xdp_program_and_a_traffic_filter_are_told() -> None:
    """An eBPF program on a link is found with its number; tc filters are read with their link."""
    with made_namespace("xdp") as name:
        _ip(name, "link", "add", "flt0", "type", "veth", "peer", "name", "flt1")
        subprocess.run(["tc", "-n", name, "qdisc", "add", "dev", "flt1", "clsact"], check=True)
        filtered = "filter add dev flt1 ingress protocol ip u32 match ip dport 99 0xffff"
        subprocess.run(["tc", "-n", name, *filtered.split()], check=True)
        program = _xdp_program()
        try:
            with namespaces.entered(f"/run/netns/{name}"):
                _attach(program, socket.if_nametoindex("flt0"))
            sink = _collected(network.collect)
            inode = _inode(name)
        finally:
            os.close(program)

    [finding] = [f for f in sink.found("xdp-program") if str(inode) in f.subject]
    assert finding.subject == f"flt0 in netns {inode}"
    assert "sees every frame before the firewall does (generic mode)" in finding.summary
    filters = [r for r in _of(sink, "network/traffic", inode) if r["what"] == "filter"]
    assert {(r["kind"], r["place"]) for r in filters} == {("u32", "ingress")}


def test_a_namespaces_own_ruleset_is_told_by_two_views_and_stays() -> None:
    """libnftables' listing and the kernel's own dump hold every rule and element; nothing is changed by reading."""
    with made_namespace("nft") as name:
        rules = (
            "add table inet flt; add set inet flt bad { type ipv4_addr; elements = { 198.18.66.6 } };"
            "add chain inet flt in { type filter hook input priority 0; };"
            'add rule inet flt in ip saddr @bad counter drop comment "flt-mark"'
        )
        subprocess.run(["ip", "netns", "exec", name, "nft", rules], check=True)
        before = _listing(name)
        sink = _collected(firewall.collect)
        inode = _inode(name)
        after = _listing(name)

    [line] = _of(sink, "firewall/nftables", inode)
    assert line["tables"] == 1
    assert "flt-mark" in str(line["ruleset"])
    assert "198.18.66.6" in str(line["ruleset"])
    kernel = _of(sink, "firewall/nftables_kernel", inode)
    assert [r["what"] for r in kernel] == ["table", "chain", "rule", "set", "elements"]
    assert "c6124206" in str(kernel[-1]["attributes"])
    assert after == before


def test_legacy_iptables_are_read_without_making_a_table() -> None:
    """Entries are told with matches, target and counters; a namespace without tables gets none by being asked."""
    legacy = "/usr/sbin/iptables-legacy"
    if not Path(legacy).exists():
        pytest.skip("no iptables-legacy to set a rule with")
    with made_namespace("ipt") as name, made_namespace("bare") as bare:
        rule = "-A INPUT -p tcp --dport 99 -j DROP"
        subprocess.run(["ip", "netns", "exec", name, legacy, *rule.split()], check=True)
        sink = _collected(firewall.collect)
        inode = _inode(name)
        untouched = _of(sink, "firewall/iptables", _inode(bare))
        with namespaces.entered(f"/run/netns/{bare}"):
            tables = Path("/proc/thread-self/net/ip_tables_names").read_text()

    entries = _of(sink, "firewall/iptables", inode)
    [dropping] = [r for r in entries if r["matches"]]
    assert (dropping["table"], dropping["matches"], dropping["target"]) == ("filter", ["tcp"], "DROP")
    assert (untouched, tables) == ([], "")


def test_tracked_connections_of_another_namespace() -> None:
    """A flow that a rule there made the kernel track is told with both directions; an empty table is no failure."""
    with made_namespace("ct") as name, made_namespace("none") as empty, ExitStack() as stack:
        _ip(name, "link", "set", "lo", "up")
        rules = "add table ip flt; add chain ip flt in { type filter hook input priority 0; };"
        rules += "add rule ip flt in ct state established accept"
        subprocess.run(["ip", "netns", "exec", name, "nft", rules], check=True)
        with namespaces.entered(f"/run/netns/{name}"):
            server = stack.enter_context(socket.create_server(("127.0.0.1", 7004)))
            client = stack.enter_context(socket.create_connection(("127.0.0.1", 7004)))
        port = client.getsockname()[1]
        sink = _collected(conntrack.collect)
        inode, empty_inode = _inode(name), _inode(empty)
        assert server.fileno() > 0

    [flow] = [r for r in _of(sink, "network/conntrack", inode) if "original" in r]
    assert flow["original"] == {
        "source": "127.0.0.1",
        "destination": "127.0.0.1",
        "protocol": "tcp",
        "source_port": port,
        "destination_port": 7004,
    }
    assert flow["state"] == "ESTABLISHED"
    assert _of(sink, "network/conntrack", empty_inode) == [{"namespace": empty_inode, "flows": 0}]


def _listing(name: str) -> bytes:
    done = subprocess.run(["ip", "netns", "exec", name, "nft", "list", "ruleset"], check=True, capture_output=True)
    return done.stdout


def _xdp_program() -> int:
    """A program of two instructions that lets every frame pass, loaded with bpf(2)."""
    code = struct.pack("=BBhi", 0xB7, 0, 0, 2) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    instructions, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack("=IIQQIIQ", 6, 2, ctypes.addressof(instructions), ctypes.addressof(licence), 0, 0, 0)
    buffer = ctypes.create_string_buffer(attributes.ljust(120, b"\0"), 120)
    number = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
    descriptor = ctypes.CDLL(None, use_errno=True).syscall(number, 5, buffer, 120)
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    return int(descriptor)


def _attach(program: int, index: int) -> None:
    """RTM_SETLINK with IFLA_XDP, in generic mode, which every link has."""
    xdp = attribute(1, struct.pack("=i", program)) + attribute(3, struct.pack("=I", 2))
    body = struct.pack("=BBHiII", 0, 0, 0, index, 0, 0) + attribute(43 | 0x8000, xdp)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as door:
        door.send(struct.pack("=IHHII", 16 + len(body), 19, 0x1 | 0x4, 1, 0) + body)
        (number,) = struct.unpack_from("=i", door.recv(4096), 16)
    assert number == 0, os.strerror(-number)
