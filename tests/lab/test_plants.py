"""What is planted is there to be found."""

import pytest

from tests.lab import IMAGE, Host, Lab, Unsupported, engine, plants

pytestmark = pytest.mark.netns


def test_deleted_executable(lab: Lab) -> None:
    """A running, listening process whose program is gone from the disk."""
    plant = plants.deleted_executable(lab["h2"])

    assert (plant.finding, plant.host, plant.subject) == ("deleted-executable", "h2", "/tmp/.cache-update")
    assert "/tmp/.cache-update (deleted)" in lab["h2"].run(["bash", "-c", "ls -l /proc/[0-9]*/exe"])
    assert ":4444" in lab["h2"].run(["ss", "-ltn"])


def test_foreign_listener(lab: Lab) -> None:
    """A listener that the host's own network namespace does not show."""
    plant = plants.foreign_listener(lab["h2"])

    assert (plant.finding, plant.subject) == ("listener-in-foreign-netns", "31337")
    assert ":31337" not in lab["h2"].run(["ss", "-ltn"])
    assert len(set(lab["h2"].run(["bash", "-c", "readlink /proc/[0-9]*/ns/net"]).split())) == 2


def test_a_host_without_an_engine_has_no_crash_loop(lab: Lab) -> None:
    """What can't be planted is said, and the rest is planted."""
    planted, lacks = plants.plant_all(lab["h3"])

    assert [plant.finding for plant in planted] == ["deleted-executable", "listener-in-foreign-netns"]
    assert lacks == ("h3: no Docker Engine of its own; make the lab with engine=True",)


@pytest.mark.docker
def test_crash_loop(engine_lab: Lab) -> None:
    """A container that the engine starts again and again."""
    host = engine_lab["h1"]
    plant = plants.crash_loop(host)

    assert (plant.finding, plant.subject) == ("container-crash-looping", "checkout-worker")
    assert plants.restarts(host, "checkout-worker") >= plants.RESTARTS


@pytest.mark.docker
def test_an_engine_survives_a_power_cut(engine_lab: Lab) -> None:
    """Containers with a restart policy and the image come back with the host."""
    host = engine_lab["h1"]
    engine.docker(
        host, "run", "-d", "--pull", "never", "--name", "web", "--restart", "always", "-m", "64m", IMAGE, "sleep", "99"
    )
    host.power_cut()
    host.boot()

    assert engine.docker(host, "inspect", "--format", "{{.State.Running}}", "web") == "true"


@pytest.mark.docker
def test_a_loopback_lab_has_no_engine() -> None:
    """It says so instead of touching the machine's own."""
    with pytest.raises(Unsupported, match="can't have a Docker Engine of its own: run as root"):
        Lab(1, engine=True, backend="loopback").up()


def test_hosts_can_be_planted_from_the_command_line(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """`plant` names what it planted."""
    from tests.lab.__main__ import main

    assert main(["plant", "--lab", lab.tag, "h1"]) == 0
    assert "h1: deleted-but-running program: /tmp/.cache-update (finding deleted-executable)" in capsys.readouterr().out
    end(lab["h1"])


def end(host: Host) -> None:
    """Take the plants away."""
    host.power_cut()
    host.boot()
