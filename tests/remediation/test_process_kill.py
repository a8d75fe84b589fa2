"""system.process_kill: which processes are meant, which are never ended, and that the whole tree goes."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fireline_agent.hands.process import is_running
from fireline_agent.remediation.action import ActionError
from fireline_agent.remediation.system.process_kill import ACTION, plan
from tests.lab import eventually
from tests.remediation.rehearsal import Rehearsal

ALL = {"pid": None, "command": None, "older_than": 0, "grace": 1}


def _row(pid: int, ppid: int, name: str, age_s: int = 100, *, is_kernel: bool = False) -> dict[str, Any]:
    return {
        "pid": pid, "ppid": ppid, "started": pid * 10, "name": name, "program": name, "age_s": age_s,
        "is_kernel": is_kernel, "is_door": name == "sshd",
    }  # fmt: skip


FACTS = {
    "processes": [
        _row(1, 0, "init"), _row(2, 0, "kthreadd", is_kernel=True), _row(3, 2, "kworker/0:1", is_kernel=True),
        _row(10, 1, "agent"), _row(11, 10, "python"), _row(20, 1, "sshd"), _row(21, 20, "bash"),
        _row(30, 1, "nginx"), _row(31, 30, "nginx"), _row(32, 31, "cgi", 5), _row(40, 1, "nginx", 5),
        _row(50, 1, "tmux"), _row(51, 50, "sshd"),
    ],
    "own": [11, 10, 1],
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "roots", "count"),
    [
        ({"pid": 32}, [32], 1),
        ({"pid": 30}, [30], 3),
        ({"command": "nginx"}, [30, 40], 4),
        ({"command": "nginx", "older_than": 50}, [30], 3),
        ({"command": "bash"}, [21], 1),
        ({"command": "none"}, [], 0),
    ],
)
def test_a_tree_is_planned_by_its_root(given: dict[str, Any], roots: list[int], count: int) -> None:
    """A process that is below another chosen one goes with that; a command that does not run is nothing to do."""
    made = plan(FACTS, {**ALL, **given})

    assert [change.data["pid"] for change in made.changes] == roots
    assert made.result["count"] == count


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"command": "init"}, "the first process"),
        ({"pid": 3}, "a kernel thread"),
        ({"pid": 10}, "the agent"),
        ({"command": "python"}, "the agent"),
        ({"pid": 20}, "a door"),
        ({"pid": 50}, r"process 51 \(sshd, a descendant of 50\) is a door"),
        ({"pid": 99}, "there is no process 99"),
        ({"pid": 30, "command": "apache2"}, "process 30 is nginx"),
        ({"pid": 32, "older_than": 50}, "process 32 is cgi, 5 s old"),
        ({}, "wanted a pid or a command"),
    ],
)
def test_what_must_live_is_never_ended(given: dict[str, Any], words: str) -> None:
    """Nor is one ended that is not what was asked for; the message says why."""
    with pytest.raises(ActionError, match=words):
        plan(FACTS, {**ALL, **given})


_STUBBORN = "import signal,subprocess,sys,time; signal.signal(15,signal.SIG_IGN); "
_PARENT = (
    _STUBBORN
    + f"p=subprocess.Popen([sys.executable,'-c',{_STUBBORN + 'time.sleep(60)'!r}]); print(p.pid,flush=True); p.wait()"
)


@pytest.fixture
def stubborn() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process and its child, both deaf to TERM."""
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


def test_a_deaf_tree_is_killed_after_its_grace(stubborn: tuple[subprocess.Popen[str], int]) -> None:
    """Parent and child, which does not outlive it as an orphan."""
    process, child = stubborn
    rehearsal = Rehearsal(ACTION, {"pid": process.pid, "grace": 0})

    applied = rehearsal.apply()

    assert applied.verified.is_good, applied.verified.sentence
    assert set(applied.done[0].kept["pids"]) == {process.pid, child}
    assert process.wait(5) == -9
    eventually(lambda: not is_running(child), within_s=5, what="the child to be gone")


def test_one_that_ended_by_itself_is_no_failure(stubborn: tuple[subprocess.Popen[str], int]) -> None:
    """Nothing else that has its number by then is touched."""
    process, _ = stubborn
    rehearsal = Rehearsal(ACTION, {"pid": process.pid, "grace": 0})
    change = rehearsal.plan().changes[0]
    process.kill()
    process.wait(5)

    assert ACTION.do(rehearsal.tools, change, rehearsal.params) == {"pids": []}  # type: ignore[misc]  # it has one


def test_what_only_calls_itself_a_door_is_ended() -> None:
    """An intruder's process that took the name of sshd, with a secret among its arguments, which no plan shows."""
    code = "import ctypes,time; ctypes.CDLL(None).prctl(15, b'sshd'); print('named', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, "--password=hunter2"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        rehearsal = Rehearsal(ACTION, {"pid": process.pid, "command": "sshd", "grace": 1})

        planned = rehearsal.plan()
        applied = rehearsal.apply(planned)

        assert "hunter2" not in repr((planned, applied))
        assert planned.result["processes"][0]["program"] == sys.executable
        assert applied.verified.is_good, applied.verified.sentence
        assert process.wait(5) == -15
