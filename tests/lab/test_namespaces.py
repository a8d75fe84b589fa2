"""Each fault is seen to work, and to be gone after it was healed."""

import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Host, Lab, LabError, eventually

pytestmark = pytest.mark.netns


@pytest.fixture
def host(lab: Lab) -> Iterator[Host]:
    """A host whose agent answers, before the test and after it."""
    found = lab["h1"]
    found.start_agent()
    eventually(lambda: answers(found), within_s=10, what="the agent to answer")
    yield found
    found.thaw()
    found.heal()
    found.disk_free()
    found.start_agent()
    eventually(lambda: answers(found), within_s=10, what="the agent to answer after the test")


def clocks(host: Host, *, timeout_s: float = 1.0) -> tuple[float, float]:
    """The agent's wall clock and monotonic clock, asked over the network."""
    with socket.create_connection((host.address, 7700), timeout_s) as peer:
        wall, monotonic = peer.recv(200).split()
        return float(wall), float(monotonic)


def answers(host: Host, *, timeout_s: float = 1.0) -> bool:
    """Whether the agent answers the controller's side."""
    try:
        clocks(host, timeout_s=timeout_s)
    except (OSError, ValueError):
        return False
    return True


def reaches(host: Host, other: Host) -> bool:
    """Whether one host gets an echo from another within a second."""
    return "1 received" in host.run(["ping", "-c", "1", "-W", "1", other.address], check=False)


def test_a_host_has_a_system_of_its_own(lab: Lab) -> None:
    """Name, processes, network, root, machine id and control group are the host's."""
    names = [host.run(["hostname"]).strip() for host in lab]
    ids = {host.run(["cat", "/etc/machine-id"]).strip() for host in lab}
    namespaces = {namespace(host, kind) for host in lab for kind in ("net", "mnt", "pid", "uts", "ipc", "cgroup")}

    assert names == ["h1", "h2", "h3"]
    assert len(ids) == 3
    assert len(namespaces) == 18
    assert namespaces.isdisjoint(str(link.readlink()) for link in Path("/proc/self/ns").iterdir())


def test_what_a_host_writes_stays_on_its_disk(lab: Lab) -> None:
    """A file written on one host is neither on the machine nor on another host."""
    lab["h1"].run(["bash", "-c", "echo seen > /etc/fireline-lab-mark"])

    assert lab["h1"].run(["cat", "/etc/fireline-lab-mark"]) == "seen\n"
    assert not Path("/etc/fireline-lab-mark").exists()
    assert lab["h2"].run(["ls", "/etc/fireline-lab-mark"], check=False) == ""


def test_a_host_cannot_reach_the_machine(lab: Lab) -> None:
    """No disk of the machine, no kernel setting of the machine, no write into the repository."""
    devices = lab["h1"].run(["ls", "/dev"]).split()
    repository = Path(__file__).resolve().parents[2]

    assert "vda" not in devices and "sda" not in devices
    with pytest.raises(LabError, match="Read-only file system"):
        lab["h1"].run(["bash", "-c", "echo 1 > /proc/sys/kernel/panic"])
    with pytest.raises(LabError, match="Read-only file system"):
        lab["h1"].run(["touch", f"{repository}/touched-by-a-lab-host"])


def test_an_own_ruleset_touches_nobody_else(lab: Lab) -> None:
    """A firewall table made on one host is on that host alone."""
    lab["h1"].run(["nft", "add", "table", "inet", "own"])

    assert "table inet own" in lab["h1"].run(["nft", "list", "tables"])
    assert "table inet own" not in lab["h2"].run(["nft", "list", "tables"])
    lab["h1"].run(["nft", "delete", "table", "inet", "own"])


def test_a_failed_command_says_where_and_why(lab: Lab) -> None:
    """The error names host, command, exit code and the last words."""
    with pytest.raises(LabError, match=r"h2: bash -c 'echo no; exit 7': exit 7: no"):
        lab["h2"].run(["bash", "-c", "echo no; exit 7"])


def test_a_command_that_hangs_is_ended(lab: Lab) -> None:
    """A time-out ends the command on the host too."""
    with pytest.raises(LabError, match=r"h2: sleep 4242: not done within 0\.3 s"):
        lab["h2"].run(["sleep", "4242"], within_s=0.3)

    eventually(lambda: "sleep 4242" not in lab["h2"].run(["ps", "ax"]), within_s=5, what="the command to be gone")


def test_power_cut_ends_everything_and_the_disk_stays(host: Host) -> None:
    """After a power cut nothing answers; a boot brings the same disk and starts the agent again."""
    host.run(["bash", "-c", "echo kept > /var/lib/kept; nft add table inet lost"])
    left = host.spawn(["sleep", "1000"])
    identity = host.run(["cat", "/etc/machine-id"])
    host.power_cut()

    assert not left.is_alive() and not host.is_up() and not answers(host, timeout_s=0.5)
    with pytest.raises(LabError, match=r"h1: the host is down; boot\(\) it"):
        host.run(["true"])
    host.boot()
    eventually(lambda: answers(host), within_s=10, what="the agent to answer")
    assert host.run(["cat", "/var/lib/kept", "/etc/machine-id"]) == f"kept\n{identity}"
    assert "lost" not in host.run(["nft", "list", "tables"])


def test_freeze_hangs_the_host_until_it_is_thawed(host: Host) -> None:
    """A frozen host takes connections and answers none."""
    host.freeze()

    with pytest.raises(TimeoutError):
        clocks(host, timeout_s=0.4)
    with pytest.raises(LabError, match="frozen"):
        host.run(["true"])
    host.thaw()
    assert answers(host)


def test_power_cut_works_on_a_frozen_host(host: Host) -> None:
    """A frozen host can lose its power like any other."""
    host.freeze()
    host.power_cut()

    assert not host.is_up()
    host.boot()


def test_partition_from_everybody(lab: Lab, host: Host) -> None:
    """A host cut off reaches nobody, nobody reaches it, and its carrier stays."""
    host.partition()

    assert not answers(host, timeout_s=0.4) and not reaches(host, lab["h2"])
    assert "LOWER_UP" in host.run(["ip", "link", "show", "eth0"])
    assert reaches(lab["h2"], lab["h3"])
    host.heal()
    assert answers(host) and reaches(host, lab["h2"])


def test_partition_from_the_controller_only(lab: Lab, host: Host) -> None:
    """A host cut off from the controller still reaches its peers."""
    host.partition("controller")

    assert not answers(host, timeout_s=0.4) and reaches(host, lab["h2"])


def test_partition_one_way(lab: Lab, host: Host) -> None:
    """With only the way in cut, what the host sends still arrives."""
    lab["h2"].run(["nft", "-f", "-"], text=COUNT_ECHOES)
    reaches(host, lab["h2"])  # neighbours are known before the cut
    host.partition(lab["h2"], ways="in")

    assert not reaches(host, lab["h2"])
    assert "packets 2 " in lab["h2"].run(["nft", "list", "table", "inet", "seen"])
    lab["h2"].run(["nft", "delete", "table", "inet", "seen"])


def test_a_partition_of_an_unknown_host_is_refused(host: Host) -> None:
    """The error names the hosts that there are."""
    with pytest.raises(LabError, match=r"no host 'h9' in this lab: there are \['h1', 'h2', 'h3'\]"):
        host.partition("h9")


def test_link_down_is_seen_by_the_host(host: Host) -> None:
    """A pulled cable takes the carrier away."""
    host.link(up=False)

    assert not answers(host, timeout_s=0.4)
    assert "NO-CARRIER" in host.run(["ip", "link", "show", "eth0"])
    host.link(up=True)
    eventually(lambda: answers(host), within_s=5, what="the agent to answer")


def test_impair_delays_both_ways(host: Host) -> None:
    """50 ms each way make a round trip of at least 100 ms, and healing takes them away."""
    host.impair(delay_ms=50, jitter_ms=5)
    slow = round_trip_ms(host)
    host.heal()

    assert 90 <= slow < 400
    assert round_trip_ms(host) < 40


def _hardware_address(host: Host) -> str:
    return host.run(["cat", "/sys/class/net/eth0/address"]).strip()


def test_impair_loses_frames(lab: Lab, host: Host) -> None:
    """Half of the frames lost each way leaves few echoes of 60."""
    # Each side knows the other's hardware address before: one in four questions for it would be answered.
    for one, other in ((host, lab["h2"]), (lab["h2"], host)):
        one.run(["ip", "neigh", "replace", other.address, "lladdr", _hardware_address(other), "dev", "eth0"])
    host.impair(loss_percent=50)
    received = int(
        host.run(["ping", "-q", "-c", "60", "-i", "0.01", "-W", "1", lab["h2"].address], check=False)
        .split(" received")[0]
        .split()[-1]
    )
    host.heal()

    assert 0 < received < 40


def test_bulk_passes_a_slow_wire_unharmed(lab: Lab, host: Host) -> None:
    """8 MiB through the relay arrive byte by byte, whatever the veth's offloads do."""
    host.impair(delay_ms=2)
    host.spawn(["python3", "-c", RECEIVE], log="/var/log/receive.log")
    eventually(lambda: "up" in log(host), within_s=10, what="the receiver to listen")
    sent = lab["h2"].run(["python3", "-c", SEND, host.address]).strip()

    eventually(lambda: sent in log(host), within_s=20, what="the bytes to arrive")


def test_disk_full_and_free(host: Host) -> None:
    """A full disk refuses the next bytes and shows no file for it; freed, it takes them."""
    host.disk_full()

    with pytest.raises(LabError, match=os.strerror(errno.ENOSPC)):
        host.run(["dd", "if=/dev/zero", "of=/var/lib/fill", "bs=64k", "count=16"])
    host.disk_free()
    host.run(["dd", "if=/dev/zero", "of=/var/lib/fill", "bs=64k", "count=16"])
    host.run(["rm", "/var/lib/fill"])


def test_skew_moves_the_wall_clock_of_the_agent_only(host: Host) -> None:
    """An hour back for the agent's wall clock; then a jump ahead without a restart; its monotonic clock stays true."""
    host.skew(-3600)
    eventually(lambda: answers(host), within_s=10, what="the agent to answer")
    wall, monotonic = clocks(host)
    before = host.agent
    host.skew(+120)

    assert -3605 < wall - time.time() < -3590
    assert abs(monotonic - time.monotonic()) < 5
    eventually(lambda: 110 < clocks(host)[0] - time.time() < 125, within_s=5, what="the clock to jump", every_s=0.1)
    assert host.agent == before
    assert abs(float(host.run(["date", "+%s"])) - time.time()) < 5
    host.skew(0)


def test_stop_and_continue_the_agent(host: Host) -> None:
    """A stopped agent's kernel takes connections, and nobody answers."""
    host.stop_agent()

    with pytest.raises(TimeoutError):
        clocks(host, timeout_s=0.4)
    host.cont_agent()
    assert answers(host)


def test_kill_the_agent(host: Host) -> None:
    """A killed agent's port is refused; killing it again says that it does not run."""
    host.kill_agent()

    with pytest.raises(ConnectionRefusedError):
        clocks(host)
    with pytest.raises(LabError, match="h1: the agent does not run"):
        host.kill_agent()


def namespace(host: Host, kind: str) -> str:
    """The identity of one of the host's namespaces."""
    return host.run(["readlink", f"/proc/self/ns/{kind}"]).strip()


def round_trip_ms(host: Host) -> float:
    """The best of a few round trips from the controller's side, connect and all."""
    times = []
    for _ in range(3):
        start = time.monotonic()
        with socket.create_connection((host.address, 7700), 5):
            times.append((time.monotonic() - start) * 1000)
    return min(times)


def log(host: Host) -> str:
    """What the receiver printed."""
    path = host.path("/var/log/receive.log")
    return path.read_text() if path.exists() else ""


COUNT_ECHOES = """
table inet seen {
  chain in {
    type filter hook input priority 0;
    icmp type echo-request counter
  }
}
"""

RECEIVE = """
import hashlib, socket
server = socket.create_server(("", 9000))
print("up", flush=True)
peer, _ = server.accept()
seen = hashlib.sha256()
while data := peer.recv(1 << 20):
    seen.update(data)
print(seen.hexdigest(), flush=True)
"""

SEND = """
import hashlib, socket, sys
data = bytes(range(256)) * 32768
socket.create_connection((sys.argv[1], 9000)).sendall(data)
print(hashlib.sha256(data).hexdigest())
"""
