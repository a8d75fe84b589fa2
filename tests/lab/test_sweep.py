"""What a killed run leaves, the next one removes; what is in use, nobody touches."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import LOOPBACK, NETNS, Lab, Process, default_backend, state, sweep
from tests.lab.__main__ import main
from tests.lab.processes import marked

_MAKE = """
import sys, time
from tests.lab import Lab
lab = Lab(2, backend=sys.argv[1])
lab.up()
lab["h1"].spawn(["sleep", "4244"])
if sys.argv[1] == "netns":
    lab["h1"].impair(delay_ms=1)
    lab["h2"].freeze()
print(lab.tag, flush=True)
time.sleep(600)
"""


def traces(tag: str) -> list[str]:
    """Everything on this machine that carries a lab's tag."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    places = [Path("/run/netns"), Path("/sys/class/net"), *_groups(), state.base()]
    named = [str(path) for place in places if place.is_dir() for path in place.iterdir() if path.name.startswith(tag)]
    running = [str(process) for host in ("h1", "h2") for process in marked(f"{tag}/{host}")]
    return named + running + [mount for mount in mounts if tag in mount]


def _groups() -> list[Path]:
    """Where labs have their control groups; not looked for deeper, where those of others come and go."""
    root = Path("/sys/fs/cgroup")
    return [*root.glob("fireline-lab"), *root.glob("*/fireline-lab")]


def killed_run(backend: str) -> str:
    """Make a lab in another process, kill that process with signal 9, and return the lab's tag."""
    with subprocess.Popen([sys.executable, "-c", _MAKE, backend], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        tag = run.stdout.readline().strip()
        run.send_signal(signal.SIGKILL)
    return tag


@pytest.mark.parametrize("backend", [pytest.param(NETNS, marks=pytest.mark.netns), LOOPBACK])
def test_a_killed_run_is_swept_by_the_next(backend: str) -> None:
    """Mounts, namespaces, groups, wires, folders and processes of a killed run go when the next lab comes up."""
    if backend == NETNS and default_backend() != NETNS:
        pytest.skip("namespaces need root")
    tag = killed_run(backend)
    left = traces(tag)
    with Lab(1, backend=backend):
        pass

    assert left
    assert traces(tag) == []


def test_a_lab_in_use_is_not_swept() -> None:
    """The sweep leaves the labs of live owners alone, and those that are kept."""
    with Lab(1, backend=LOOPBACK) as lab:
        assert lab.tag not in sweep()
        assert state.load(lab.tag).is_owned()


def test_an_owner_of_another_boot_is_dead() -> None:
    """After a reboot of the machine a pid and its start time mean nothing."""
    with Lab(1, backend=LOOPBACK) as lab:
        found = state.load(lab.tag)
        found.boot_id = "another"

        assert not found.is_owned()


def test_half_made_state_is_swept() -> None:
    """A lab whose maker died before its first save has a folder and no state."""
    with state.locked():
        (state.base() / "flhalf").mkdir()

    assert "flhalf" in sweep()
    assert not (state.base() / "flhalf").exists()


def test_a_process_number_used_again_is_not_signalled() -> None:
    """A process is known by its start time too."""
    other = Process(os.getpid(), Process.of(os.getpid()).started - 1)

    assert not other.is_alive()
    assert not other.signal(0)


def test_a_lab_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """`up` leaves a lab that other commands use and `down` ends."""
    assert main(["up", "2", "--backend", LOOPBACK]) == 0
    tag = capsys.readouterr().out.split()[1]

    assert tag not in sweep()
    assert main(["run", "--lab", tag, "h2", "--", "echo", "hello"]) == 0
    assert capsys.readouterr().out == "hello\n"
    assert main(["fault", "--lab", tag, "h2", "partition"]) == 1
    assert "a loopback host can't be cut off" in capsys.readouterr().err
    assert main(["run", "--lab", tag, "h7"]) == 1
    assert f"no host 'h7' in lab {tag}: there are h1, h2" in capsys.readouterr().err
    assert main(["down", "--lab", tag]) == 0
    assert traces(tag) == []
