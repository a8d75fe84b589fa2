"""The container collectors against a real Docker Engine of their own, with containers in every kind of trouble."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fireline_agent.capture import docker_containers, docker_engine
from fireline_agent.capture.collector import Context
from fireline_agent.hands.roots import Roots
from tests.engine import LiveEngine, eventually, live_engine, missing_tools
from tests.unit.sink import MemorySink

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(bool(missing_tools()), reason=f"no engine of our own here: lacks {', '.join(missing_tools())}"),
    pytest.mark.timeout(120),
]

LABELS = {
    "com.docker.compose.project": "shop",
    "com.docker.compose.service": "web",
    "com.docker.compose.project.working_dir": "/srv/shop",
    "com.docker.compose.project.config_files": "/srv/shop/docker-compose.yml",
    "tier": "critical",
}


@pytest.fixture(scope="module")
def engine() -> Iterator[LiveEngine]:
    """A real engine with one container of each kind, each in the state that it is made for."""
    with live_engine() as live:
        live.run(
            "web",
            "echo to stdout; echo to stderr >&2; touch /tmp/left-behind; sleep 1000",
            create={"labels": LABELS, "environment": {"DB_PASSWORD": "hunter2", "LANG": "C"}},
        )
        live.run("ended", "exit 3", create={"labels": {"tier": "critical"}})
        live.run("looping", "exit 1", restart_policy={"Name": "always"})
        check = {"test": ["CMD", "false"], "interval": 10**9, "retries": 1, "timeout": 10**9}
        live.run("sick", "sleep 1000", create={"healthcheck": check})
        live.run(
            "powerful",
            "sleep 1000",
            pid_mode="host",
            network_mode="host",
            cap_add=["SYS_PTRACE"],
            security_opt=["seccomp=unconfined"],
            binds={"/": {"bind": "/host", "mode": "ro"}, str(live.socket): {"bind": "/docker.sock", "mode": "rw"}},
        )
        live.run("hungry", "tail /dev/zero", mem_limit="16m", memswap_limit="16m")
        _wait_for_trouble(live)
        yield live


def _wait_for_trouble(live: LiveEngine) -> None:
    def state(name: str) -> dict[str, Any]:
        found: dict[str, Any] = live.client.inspect_container(name)
        return {"RestartCount": found["RestartCount"], **found["State"]}

    eventually(lambda: state("looping")["RestartCount"] >= 3, within_s=30, what="three restarts")
    eventually(lambda: state("ended")["Status"] == "exited", within_s=10, what="ended has ended")
    eventually(lambda: state("sick")["Health"]["Status"] == "unhealthy", within_s=20, what="the check fails")
    eventually(lambda: state("hungry")["Status"] == "exited", within_s=20, what="hungry is out of memory")


def collect(engine: LiveEngine, collector: Any, **params: Any) -> MemorySink:
    """Run a collector against the real engine."""
    sink = MemorySink()
    collector.collect(Context(params=params, roots=Roots(docker_socket=engine.socket)), sink)
    return sink


def test_everything_is_captured_within_a_second_or_two(engine: LiveEngine) -> None:
    """All parts of all containers of a small host are captured, quickly."""
    started = time.monotonic()
    sink = collect(engine, docker_containers)

    assert time.monotonic() - started < 5
    listed = {record["Names"][0]: record for record in sink.artifacts["docker/containers.jsonl"].records()}
    assert sorted(listed) == ["/ended", "/hungry", "/looping", "/powerful", "/sick", "/web"]
    web = listed["/web"]["Id"]
    logs = {name: bytes(found.data) for name, found in sink.artifacts.items() if web in name}
    assert b"to stdout\n" in logs[f"docker/logs/{web}.stdout.log"]
    assert b"to stderr\n" in logs[f"docker/logs/{web}.stderr.log"]
    tops = {record["name"]: record.get("top") for record in sink.artifacts["docker/top.jsonl"].records()}
    assert any("sleep 1000" in " ".join(process) for process in tops["web"]["Processes"])
    changes = {record["name"]: record["changes"] for record in sink.artifacts["docker/changes.jsonl"].records()}
    assert "/tmp/left-behind" in {change["Path"] for change in changes["web"]}
    stats = {record["name"]: record.get("stats") for record in sink.artifacts["docker/stats.jsonl"].records()}
    assert stats["web"]["memory_stats"]["usage"] > 0


def test_secrets_stay_out(engine: LiveEngine) -> None:
    """The password in a container's environment is in no artifact."""
    sink = collect(engine, docker_containers)

    assert not [name for name, artifact in sink.artifacts.items() if b"hunter2" in artifact.data]
    inspected = {record["name"]: record["inspect"] for record in sink.artifacts["docker/inspect.jsonl"].records()}
    assert "DB_PASSWORD=[masked]" in inspected["web"]["Config"]["Env"]


def test_each_trouble_is_found(engine: LiveEngine) -> None:
    """A crash loop, a failing check, want of memory, risky settings and a critical service that is down stand out."""
    sink = collect(engine, docker_containers, parts=[], critical=["label:tier=critical"])

    found = {(finding.code, finding.subject): finding.summary for finding in sink.findings}
    assert found["container-crash-looping", "looping"].startswith("looping crashes and is started again: ")
    assert ("container-unhealthy", "sick") in found
    assert found["container-oom-killed", "hungry"] == "hungry was killed for want of memory (limit 16 MiB)"
    assert found["critical-service-down", "ended"] == (
        "ended is critical (label:tier=critical) and not running: exited"
    )
    risky = found["container-risky-settings", "powerful"]
    for words in ("SYS_PTRACE", "host's pid namespace", "host's network namespace", "seccomp=unconfined", "host's / "):
        assert words in risky
    assert "docker.sock" in risky
    assert not [key for key in found if key[1] == "web"]


def test_the_first_minute_looks_at_critical_and_failing_ones(engine: LiveEngine) -> None:
    """The `initial` profile's order lists all and inspects the critical services and what fails."""
    sink = collect(engine, docker_containers, parts=["inspect"], scope="critical", critical=["compose:web"])

    inspected = {record["name"] for record in sink.artifacts["docker/inspect.jsonl"].records()}
    assert {"web", "looping", "sick", "hungry", "ended"} <= inspected
    (project,) = sink.artifacts["docker/compose.jsonl"].records()
    assert (project["project"], list(project["services"])) == ("shop", ["web"])


def test_the_engine_itself_is_captured(engine: LiveEngine) -> None:
    """Version, settings, the day's events, networks, volumes and images of a real engine."""
    engine.client.create_volume("data", driver_opts={"type": "tmpfs", "device": "tmpfs"})
    sink = collect(engine, docker_engine)

    assert sink.artifacts["docker/version.json"].document()["ApiVersion"] == engine.client.api_version
    assert sink.artifacts["docker/info.json"].document()["Containers"] == 6
    events = [record["Action"] for record in sink.artifacts["docker/events.jsonl"].records()]
    assert "die" in events
    networks = {record["Name"]: record for record in sink.artifacts["docker/networks.jsonl"].records()}
    assert {found["Name"] for found in networks["bridge"]["Containers"].values()} >= {"web", "sick"}
    assert "data" in {record["Name"] for record in sink.artifacts["docker/volumes.jsonl"].records()}
    assert len(sink.artifacts["docker/images.jsonl"].records()) == 1


def test_an_engine_dies_with_a_killed_test_run() -> None:
    """kill -9 of the test run takes its engine and containers along; the next run sweeps its folder and cgroups."""
    code = (
        "from tests.engine import live_engine\n"
        "with live_engine() as live:\n"
        "    live.run('left', 'sleep 1000')\n"
        "    print(live.socket.parent, flush=True); input()\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdin is not None
    folder = Path(run.stdout.readline().strip())
    assert Path(folder, "docker.sock").is_socket()
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    run.stdin.close()
    run.stdout.close()
    with live_engine():
        left = list(Path("/sys/fs/cgroup").glob(f"*/{folder.name}"))

    assert not folder.exists()
    assert left == []
