"""The lab without root: what it can do, it does; what it can't, it says."""

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.lab import LOOPBACK, Host, Lab, Unsupported, eventually, plants
from tests.lab.conftest import AGENT


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two loopback hosts."""
    with Lab(2, backend=LOOPBACK, agent=lambda host: ["python3", "-c", AGENT, host.address]) as made:
        yield made


def answers(host: Host) -> bool:
    """Whether the agent answers."""
    try:
        with socket.create_connection((host.address, 7700), 0.4) as peer:
            return peer.recv(200) != b""
    except OSError:
        return False


def test_each_host_has_an_address_and_a_folder(lab: Lab) -> None:
    """Hosts don't share addresses, and a file written on one is not on the other."""
    place = lab["h1"].write("/etc/fireline/agent.toml", b"[listen]\n")

    assert len({host.address for host in lab} | {lab.controller_address}) == 3
    assert lab["h1"].run(["cat", place]) == "[listen]\n"
    assert not lab["h2"].path("/etc/fireline/agent.toml").exists()


def test_an_agent_is_started_stopped_frozen_and_killed(lab: Lab) -> None:
    """The verbs on processes work as on a real host."""
    host = lab["h1"]
    host.start_agent()
    eventually(lambda: answers(host), within_s=10, what="the agent to answer")

    host.stop_agent()
    assert not answers(host)
    host.cont_agent()
    assert answers(host)
    host.freeze()
    assert not answers(host)
    host.thaw()
    assert answers(host)
    host.kill_agent()
    assert not answers(host)


def test_power_cut_and_boot(lab: Lab) -> None:
    """A power cut ends all of the host's processes, their children too; a boot starts the agent again."""
    host = lab["h2"]
    host.start_agent()
    eventually(lambda: answers(host), within_s=10, what="the agent to answer")
    left = host.spawn(["bash", "-c", "sleep 4243; true"])
    host.power_cut()

    assert not left.is_alive() and not answers(host)
    host.boot()
    eventually(lambda: answers(host), within_s=10, what="the agent to answer")


def test_what_it_cannot_do_is_said(lab: Lab) -> None:
    """Every verb that needs namespaces names them."""
    host = lab["h1"]
    verbs: list[Callable[[], None]] = [
        host.partition,
        lambda: host.link(up=False),
        lambda: host.impair(delay_ms=1),
        host.disk_full,
    ]
    for verb in verbs:
        with pytest.raises(Unsupported, match=r"h1: a loopback host can't .*; the namespace backend can"):
            verb()


def test_a_deleted_executable_can_be_planted(lab: Lab) -> None:
    """The intruder's program runs from a deleted file."""
    plant = plants.deleted_executable(lab["h1"])

    assert plant.subject.endswith("/tmp/.cache-update")
    assert plant.subject.startswith(str(lab["h1"].path("/")))
