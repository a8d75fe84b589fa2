"""T1 and T2 beside a real Docker Engine: what a container does by nature raises no alarm, what it shouldn't does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fireline_agent.capture import executables, hidden_processes, processes, sockets
from fireline_agent.capture.collector import Context
from tests.engine import LiveEngine, eventually, live_engine, missing_tools
from tests.unit.sink import MemorySink

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(bool(missing_tools()), reason=f"needs {', '.join(missing_tools())}"),
]

# A program that is replaced while it runs, as an upgrade inside a container does; and one that listens.
_UPGRADED = (
    "cp /bin/busybox /busybox-srv; cp /bin/busybox /new; /busybox-srv sleep 60 & sleep 1; mv /new /busybox-srv; wait"
)
_DROPPED = "mkdir -p /tmp; cp /bin/busybox /tmp/sleep; /tmp/sleep 61 & sleep 1; rm /tmp/sleep; wait"
_LISTENS = "nc -l -p 7020"


@pytest.fixture(scope="module")
def engine() -> Iterator[LiveEngine]:
    """A Docker Engine of the tests' own."""
    with live_engine() as running:
        yield running


def _collected(module: object) -> MemorySink:
    sink = MemorySink()
    module.collect(Context(), sink)  # type: ignore[attr-defined]  # a collector's module
    return sink


def _container_pids(container: str) -> list[int]:
    """The processes of a container by the host's numbers, whose control group names it."""
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cgroup") if container.encode() in _read(path)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_containers_listener_is_its_own_affair(engine: LiveEngine) -> None:
    """Its socket is told with the container's id, and is no listener in a foreign namespace."""
    container = engine.run("flt-listens", _LISTENS)

    def listening() -> list[dict[str, object]]:
        sink.artifacts.clear()
        sink.findings.clear()
        sockets.collect(Context(), sink)
        records = sink.artifacts["network/sockets.jsonl"].records()
        return [r for r in records if r.get("container") == container and r["state"] == "LISTEN"]

    sink = MemorySink()
    eventually(lambda: bool(listening()), within_s=10, what="the container listens")

    [record] = listening()
    assert record["local_port"] == 7020
    assert [f for f in sink.found("listener-in-foreign-netns") if "7020" in f.summary] == []
    rooms = sink.artifacts["network/namespaces.jsonl"].records()
    [room] = [room for room in rooms if room["namespace"] == record["namespace"]]
    assert room["containers"] == [container]


def test_an_upgrade_inside_a_container_is_a_notice_and_a_dropper_is_not(engine: LiveEngine) -> None:
    """Both run a deleted file; the container's own root tells which path holds a successor."""
    upgraded, dropped = engine.run("flt-upgraded", _UPGRADED), engine.run("flt-dropped", _DROPPED)

    def found() -> dict[str, tuple[str, str]]:
        sink = _collected(executables)
        records = {r["pid"]: r for r in sink.artifacts["executables/index.jsonl"].records()}
        told = {f.subject.split()[1]: (f.severity, f.summary) for f in sink.found("deleted-executable")}
        return {str(r["container"]): told[str(pid)] for pid, r in records.items() if str(pid) in told}

    eventually(lambda: {upgraded, dropped} <= found().keys(), within_s=10, what="both programs are deleted")

    severity, summary = found()[upgraded]
    assert severity == "notice"
    assert "another file has its place" in summary
    assert found()[dropped] == ("critical", "runs /tmp/sleep (deleted), from a folder for temporary files")


def test_a_containers_processes_are_told_with_it_and_none_is_hidden(engine: LiveEngine) -> None:
    """Processes of another pid namespace carry their container's id and both numbers."""
    container = engine.run("flt-plain", "exec sleep 60")
    eventually(lambda: bool(_container_pids(container)), within_s=10, what="the container runs")

    told = [
        r for r in _collected(processes).artifacts["processes/processes.jsonl"].records() if r["container"] == container
    ]

    assert [record["pids_in_namespaces"][-1] for record in told] == [1]
    assert _collected(hidden_processes).found("hidden-process") == []
