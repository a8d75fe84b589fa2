"""The program itself: its command line, its log, its word to the service manager."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fireline_agent import __version__
from fireline_wire.token import JoinToken
from tests.integration.agent.agents import ROOT, Agent, agent

PROGRAM = (sys.executable, "-m", "fireline_agent.main")


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=30, check=False)


def test_the_version_is_the_distributions() -> None:
    """One number in two places would drift without this."""
    written = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)

    assert written is not None
    assert written[1] == __version__
    assert _run("--version").stdout == f"fireline-agent {__version__}\n"


def test_the_version_needs_nothing_heavy() -> None:
    """It must answer in a base install, and at once: no gRPC, no certificates, no Docker."""
    code = "import sys, fireline_agent.main as m\ntry: m.main(['--version'])\nfinally: print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert not {"grpc", "cryptography", "docker", "psutil"} & set(re.findall(r"'(\w+)'", loaded))


def test_an_idle_agent_holds_no_heavy_library() -> None:
    """What serving needs is gRPC; certificates, signatures and Docker are for child processes."""
    code = "import sys, fireline_agent.server.serving; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert not {"cryptography", "securesystemslib", "docker", "psutil"} & set(re.findall(r"'(\w+)'", loaded))


def test_check_config_names_what_is_wrong(tmp_path: Path) -> None:
    """Exit 2 and the nearest right key; exit 0 and every setting when all is well."""
    path = tmp_path / "agent.toml"
    path.write_text(f'listn = "x:1"\nstate = "{tmp_path}"\n')
    wrong = _run("check-config", "--config", str(path))
    path.write_text(f'listen = "x:1"\npolicy = "{tmp_path}/none.toml"\n')
    right = _run("check-config", "--config", str(path))

    assert (wrong.returncode, wrong.stderr) == (
        2,
        f"fireline-agent: {path}: unknown key 'listn'; did you mean 'listen'?\n",
    )
    assert right.returncode == 0
    assert "config.listen = x:1\n" in right.stdout
    assert "policy.collectors = ('*',)\n" in right.stdout


def test_a_host_that_has_not_joined_is_told_how(tmp_path: Path) -> None:
    """Exit 2 with the command to run."""
    path = tmp_path / "agent.toml"
    path.write_text(f'state = "{tmp_path}"\npolicy = "{tmp_path}/none.toml"\n')

    found = _run("run", "--config", str(path))

    assert found.returncode == 2
    assert "this host has not joined; run `fireline-agent join --token TOKEN`" in found.stderr


@pytest.mark.parametrize(
    ("token", "status", "words"),
    [
        ("fl1.cut", 4, "the enrolment token was cut or altered: copy it whole\n"),
        ("hello", 4, "that is no enrolment token: wanted one word that begins with fl1.\n"),
        ("", 1, "127.0.0.1:1 refused the connection: is `fireline serve` running there?\n"),
    ],
)
def test_a_host_that_does_not_join_says_whether_it_was_turned_away(
    tmp_path: Path, token: str, status: int, words: str
) -> None:
    """Exit 4 for a refusal, 1 for what may work later; a token that is none leaves no folder behind."""
    path = tmp_path / "agent.toml"
    path.write_text(f'state = "{tmp_path}/state"\n')

    found = _run(
        "join", "--config", str(path), "--token", token or JoinToken("web1", "127.0.0.1:1", "0" * 64, "s").text
    )

    assert (found.returncode, found.stderr) == (status, f"fireline-agent: {words}")
    assert (tmp_path / "state").exists() == (not token)


async def test_a_second_agent_on_the_port_is_an_error(tmp_path: Path) -> None:
    """And never a lottery over who answers the controller."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with agent(tmp_path / "a") as first:
        second = Agent.enrolled(tmp_path / "b")
        second.settings = {"listen": first.address}
        with pytest.raises(AssertionError, match="can't be listened on: taken, or not this host's"):
            await second.start()
        assert await second.end() == 2


@pytest.mark.parametrize("kind", ["path", "abstract"])
async def test_systemd_hears_that_it_is_ready_and_that_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """READY=1 once it serves, STOPPING=1 at SIGTERM; see sd_notify(3)."""
    name = f"fl-{os.getpid()}" if kind == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if kind == "abstract" else name)
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if kind == "abstract" else name)
        async with agent(tmp_path) as a:
            ready = await asyncio.to_thread(manager.recv, 4096)
            await a.stop(signal.SIGTERM)
            stopping = await asyncio.to_thread(manager.recv, 4096)

    assert ready.startswith(b"READY=1\nSTATUS=Serving on 127.0.0.1:")
    assert stopping == b"STOPPING=1"


async def test_every_line_of_the_log_is_json(tmp_path: Path) -> None:
    """Time, level, a constant message, and its fields."""
    async with agent(tmp_path) as a:
        await a.stop()

    serving = a.log[0]
    assert json.loads(json.dumps(serving))["message"] == "serving"
    assert serving["level"] == "info"
    assert serving["version"] == __version__
    assert [line["message"] for line in a.log] == ["serving", "told to stop"]
