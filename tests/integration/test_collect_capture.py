"""T0 to T2 as a capture runs them: bound, watched, sealed; and what was planted stands out in the manifest."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fireline_agent.capture.collector import COLLECTORS
from fireline_agent.capture.order import CollectorOrder
from fireline_agent.hands import namespaces
from tests.integration.agent import captures

_TIERS = (
    "clocks", "agent", "system", "memory", "filesystems", "sockets", "conntrack", "network", "firewall", "dns",
    "processes", "hidden_processes", "executables",
)  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """A program that was deleted while it runs, and what its bytes were."""

    pid: int
    program: Path
    content: bytes


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[Planted]:
    """What an intruder leaves: a deleted program, and a listener in a network namespace of its own."""
    program, name = tmp_path / "dropper", f"flt-{os.getpid()}-capture"
    shutil.copy("/bin/sleep", program)
    content = program.read_bytes()
    process = subprocess.Popen([program, "60"])
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        program.unlink()
        with namespaces.entered(f"/run/netns/{name}"):
            server = socket.create_server(("0.0.0.0", 7010))
        with server:
            yield Planted(process.pid, program, content)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
        process.kill()
        process.wait()


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")
async def test_a_real_capture_finds_what_was_planted(tmp_path: Path, planted: Planted) -> None:
    """Every collector ends well under its limits; a deleted program and a listener in a foreign namespace are told."""
    async with captures.host(tmp_path) as host:
        # The capture's agent must be another process than this one, or the listener would be its own and left out.
        evidence = await host.capture(*map(_ordered, _TIERS), agent_pid=planted.pid)

    assert {(run.name, run.status, run.detail) for run in evidence.manifest.collectors} == {
        (tier, "ok", "") for tier in _TIERS
    }
    told = {(finding.code, finding.severity) for finding in evidence.manifest.findings}
    assert {("deleted-executable", "critical"), ("listener-in-foreign-netns", "warning")} <= told
    copies = [a for a in evidence.manifest.artifacts if a.facts.get("exe") == f"{planted.program} (deleted)"]
    assert [evidence.data(copy.name) for copy in copies] == [planted.content]
    assert copies[0].name.encode() in evidence.data("executables/index.jsonl")


def _ordered(name: str) -> CollectorOrder:
    return CollectorOrder(name, COLLECTORS[name], {}, captures.LIMITS)
