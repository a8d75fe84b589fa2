"""The container collectors over an engine that says what a test wants."""

import json
import struct
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fireline_agent.capture import containers, docker_containers, docker_engine
from fireline_agent.capture.collector import Absent, Context, OutputLimit
from fireline_agent.capture.containers import Selector
from fireline_agent.hands.docker import EngineError
from fireline_agent.hands.roots import Roots
from tests.fakes import docker_engine as fake
from tests.unit.sink import MemorySink

WEB, DB, OLD = "a" * 64, "b" * 64, "c" * 64
NOW = datetime(2026, 1, 1, tzinfo=UTC)

LISTED: list[dict[str, Any]] = [
    {
        "Id": WEB,
        "Names": ["/shop-web-1"],
        "State": "restarting",
        "Status": "Restarting (1) 5 seconds ago",
        "Image": "shop/web:1",
        "Labels": {"com.docker.compose.project": "shop", "com.docker.compose.service": "web", "api.token": "t"},
    },
    {
        "Id": DB,
        "Names": ["/shop-db-1"],
        "State": "running",
        "Status": "Up 3 hours",
        "Image": "postgres:15",
        "Labels": {
            "com.docker.compose.project": "shop",
            "com.docker.compose.service": "db",
            "com.docker.compose.project.working_dir": "/srv/shop",
            "com.docker.compose.project.config_files": "/srv/shop/a.yml,/srv/shop/b.yml",
        },
    },
    {"Id": OLD, "Names": ["/tidy"], "State": "exited", "Status": "Exited (0) 3 days ago", "Image": "busybox"},
]

INSPECTED = {
    WEB: {
        "Id": WEB,
        "State": {"Status": "restarting", "Restarting": True, "ExitCode": 1, "Error": "boom\x1b[2J"},
        "RestartCount": 17,
        "Config": {"Env": ["DB_PASSWORD=hunter2", "LANG=C"], "Tty": False},
        "HostConfig": {},
    },
    DB: {
        "Id": DB,
        "State": {
            "Status": "running",
            "OOMKilled": True,
            "Health": {"Status": "unhealthy", "Log": [{"Output": "old"}, {"Output": "no\nroute"}]},
        },
        "Config": {"Env": ["POSTGRES_PASSWORD=hunter2"], "Tty": True},
        "HostConfig": {"Memory": 64 << 20, "PidMode": "host"},
        "Mounts": [{"Type": "bind", "Source": "/var/run/docker.sock", "RW": False}],
    },
    OLD: {"Id": OLD, "State": {"Status": "exited", "Dead": True, "Error": "device busy"}},
}


def frame(stream: int, payload: bytes) -> bytes:
    """A piece of a multiplexed log."""
    return struct.pack(">B3xI", stream, len(payload)) + payload


ROUTES: dict[str, Any] = {
    "/containers/json": LISTED,
    **{f"/containers/{container}/json": answer for container, answer in INSPECTED.items()},
    f"/containers/{DB}/stats": {"memory_stats": {"usage": 7}},
    f"/containers/{DB}/top": {"Titles": ["PID"], "Processes": [["1"]]},
    f"/containers/{WEB}/changes": [{"Path": "/tmp/x", "Kind": 1}],
    f"/containers/{DB}/changes": b"null",
    f"/containers/{OLD}/changes": [],
    f"/containers/{WEB}/logs": frame(1, b"out 1\n") + frame(2, b"err\n") + frame(1, b"out 2\n"),
    f"/containers/{DB}/logs": b"tty says this\n",
    f"/containers/{OLD}/logs": b"",
}


def collect(
    tmp_path: Path, params: Mapping[str, Any], routes: Mapping[str, Any] = ROUTES, *, collector: Any = docker_containers
) -> MemorySink:
    """Run a collector against a fake engine."""
    sink = MemorySink()
    with fake.serve(tmp_path / "s", routes):
        collector.collect(Context(params=params, roots=Roots(docker_socket=tmp_path / "s")), sink)
    return sink


def test_all_parts_of_all_containers(tmp_path: Path) -> None:
    """By default every container is listed and looked into, and only running ones are asked for what runs."""
    sink = collect(tmp_path, {})

    listed = sink.artifacts["docker/containers.jsonl"]
    assert [record["Names"] for record in listed.records()] == [["/shop-web-1"], ["/shop-db-1"], ["/tidy"]]
    assert listed.facts == {
        "containers": 3,
        "states": {"exited": 1, "restarting": 1, "running": 1},
        "unusable": 0,
        "critical_not_here": [],
    }
    assert [record["name"] for record in sink.artifacts["docker/inspect.jsonl"].records()] == [
        "shop-web-1",
        "shop-db-1",
        "tidy",
    ]
    assert sink.artifacts["docker/stats.jsonl"].records() == [
        {"container": DB, "name": "shop-db-1", "stats": {"memory_stats": {"usage": 7}}}
    ]
    assert [record["changes"] for record in sink.artifacts["docker/changes.jsonl"].records()] == [
        [{"Path": "/tmp/x", "Kind": 1}],
        [],
        [],
    ]
    logs = {name: bytes(found.data) for name, found in sink.artifacts.items() if "/logs/" in name}
    assert logs == {
        f"docker/logs/{WEB}.stdout.log": b"out 1\nout 2\n",
        f"docker/logs/{WEB}.stderr.log": b"err\n",
        f"docker/logs/{DB}.stdout.log": b"tty says this\n",
    }


def test_secrets_are_masked_unless_ordered(tmp_path: Path) -> None:
    """Passwords in environments and labels stay out of evidence by default."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    kept_out = collect(tmp_path / "a", {})
    ordered = collect(tmp_path / "b", {"mask_secrets": False})

    for name in ("docker/inspect.jsonl", "docker/containers.jsonl"):
        assert b"hunter2" not in kept_out.artifacts[name].data
    assert kept_out.artifacts["docker/inspect.jsonl"].records()[0]["inspect"]["Config"]["Env"] == [
        "DB_PASSWORD=[masked]",
        "LANG=C",
    ]
    assert kept_out.artifacts["docker/containers.jsonl"].records()[0]["Labels"]["api.token"] == "[masked]"
    assert b"hunter2" in ordered.artifacts["docker/inspect.jsonl"].data


def test_compose_projects_are_mapped_to_services(tmp_path: Path) -> None:
    """Each project names its files and the containers of each service."""
    (record,) = collect(tmp_path, {"parts": []}).artifacts["docker/compose.jsonl"].records()

    assert record["project"] == "shop"
    assert sorted(record["services"]) == ["db", "web"]
    assert record["services"]["db"] == [{"id": DB, "name": "shop-db-1", "state": "running", "image": "postgres:15"}]


def test_critical_scope_looks_into_critical_and_failing_ones(tmp_path: Path) -> None:
    """The critical services are looked into and so is what fails; healthy others are only listed."""
    sink = collect(tmp_path, {"parts": ["inspect"], "scope": "critical", "critical": ["name:tidy", "compose:cache"]})

    inspected = [record["name"] for record in sink.artifacts["docker/inspect.jsonl"].records()]
    assert inspected == ["shop-web-1", "tidy"]
    assert sink.artifacts["docker/containers.jsonl"].facts["critical_not_here"] == ["compose:cache"]
    assert [record["critical"] for record in sink.artifacts["docker/containers.jsonl"].records()] == [
        [],
        [],
        ["name:tidy"],
    ]
    assert [finding.summary for finding in sink.found("critical-service-down")] == [
        "tidy is critical (name:tidy) and not running: exited"
    ]


def test_critical_scope_without_critical_services_means_all(tmp_path: Path) -> None:
    """Where nobody said what is critical, everything may be."""
    sink = collect(tmp_path, {"parts": [], "scope": "critical"})

    assert len(sink.artifacts["docker/inspect.jsonl"].records()) == 3


def test_what_fails_and_what_is_risky_stands_out(tmp_path: Path) -> None:
    """Each failing state and each dangerous setting is a finding in words for an operator."""
    sink = collect(tmp_path, {"parts": []})

    assert {(finding.severity, finding.code): finding.summary for finding in sink.findings} == {
        ("critical", "container-crash-looping"): (
            "shop-web-1 crashes and is started again: 17 restarts, last exit code 1: boom\\x1b[2J"
        ),
        ("warning", "container-unhealthy"): "shop-db-1 fails its health check: no\\x0aroute",
        ("warning", "container-oom-killed"): "shop-db-1 was killed for want of memory (limit 64 MiB)",
        ("warning", "container-risky-settings"): (
            "shop-db-1 shares the host's pid namespace; holds the container engine's socket /var/run/docker.sock"
        ),
        ("warning", "container-dead"): "tidy is dead: it could not be removed: device busy",
    }


@pytest.mark.parametrize(
    ("restarts", "age", "wanted"),
    [(3, timedelta(minutes=5), True), (2, timedelta(minutes=5), False), (30, timedelta(days=9), False)],
)
def test_a_loop_is_many_restarts_and_a_fresh_start(restarts: int, age: timedelta, wanted: bool) -> None:
    """Thirty restarts over a year are no loop; three within the last minutes are."""
    started = (NOW - age).isoformat().replace("+00:00", ".123456789Z")
    inspected = {"RestartCount": restarts, "State": {"StartedAt": started, "Running": True}}

    assert containers.is_crash_looping(inspected, now=NOW) is wanted


RISKS: dict[str, tuple[dict[str, Any], list[tuple[str, bool]]]] = {
    "privileged": ({"HostConfig": {"Privileged": True}}, [("privileged", True)]),
    "root capability": ({"HostConfig": {"CapAdd": ["CAP_SYS_ADMIN", "net_raw"]}}, [("cap-add", True)]),
    "lesser capability": ({"HostConfig": {"CapAdd": ["NET_ADMIN"]}}, [("cap-add", False)]),
    "device": ({"HostConfig": {"Devices": [{"PathOnHost": "/dev/sda"}, 7]}}, [("device", False)]),
    "network": ({"HostConfig": {"NetworkMode": "host"}}, [("network-host", False)]),
    "unconfined": (
        {"HostConfig": {"SecurityOpt": ["seccomp=unconfined", "label=disable", "no-new-privileges"]}},
        [("unconfined", False)],
    ),
    "root bind": ({"Mounts": [{"Type": "bind", "Source": "/", "RW": False}]}, [("host-bind", True)]),
    "etc read-only": ({"Mounts": [{"Type": "bind", "Source": "/etc/", "RW": False}]}, [("host-bind", False)]),
    "plain bind": ({"Mounts": [{"Type": "bind", "Source": "/srv/data", "RW": True}]}, []),
    "volume": ({"Mounts": [{"Type": "volume", "Source": "/", "RW": True}, "junk"]}, []),
    "shapeless": ({"HostConfig": [], "Mounts": {"a": 1}}, []),
}


@pytest.mark.parametrize(("inspected", "wanted"), RISKS.values(), ids=list(RISKS))
def test_risky_settings_are_told(inspected: dict[str, Any], wanted: list[tuple[str, bool]]) -> None:
    """Each setting that weakens the wall to the host is named, with whether any wall is left."""
    assert [(risk.code, risk.is_root) for risk in containers.risks(inspected)] == wanted


@pytest.mark.parametrize(
    ("spelled", "wanted"),
    [
        ("compose:db", ["shop-db-1"]),
        ("name:shop-*", ["shop-web-1", "shop-db-1"]),
        ("label:com.docker.compose.service=web", ["shop-web-1"]),
        ("label:com.docker.compose.service=", []),
        ("name:db", []),
    ],
)
def test_selectors_match_by_label_service_and_name(spelled: str, wanted: list[str]) -> None:
    """A critical service is found by label, compose service or name pattern, in any stack."""
    selector = Selector.parse(spelled)

    assert [containers.title(entry) for entry in LISTED if selector.matches(entry)] == wanted


def test_a_part_that_fails_loses_no_other(tmp_path: Path) -> None:
    """Garbage about one container is recorded in its place, the rest is kept, and the collector ends as failed."""
    sink = MemorySink()
    routes = ROUTES | {f"/containers/{WEB}/json": b"\xff", f"/containers/{DB}/logs": (500, {"message": "no"})}
    with (
        fake.serve(tmp_path / "s", routes),
        pytest.raises(EngineError, match="inspect aaaaaaaaaaaa: wanted the engine"),
    ):
        docker_containers.collect(Context(roots=Roots(docker_socket=tmp_path / "s")), sink)

    records = sink.artifacts["docker/inspect.jsonl"].records()
    assert "error" in records[0]
    assert [record["name"] for record in records[1:]] == ["shop-db-1", "tidy"]
    assert f"docker/logs/{WEB}.stdout.log" in sink.artifacts
    assert sink.found("container-oom-killed")


def test_a_vanished_container_is_no_failure(tmp_path: Path) -> None:
    """A container that ends between list and question is recorded as gone; the collector ends well."""
    routes = {path: answer for path, answer in ROUTES.items() if WEB not in path}

    sink = collect(tmp_path, {}, routes)

    assert "the engine answered 404: no such thing" in sink.artifacts["docker/inspect.jsonl"].records()[0]["error"]


def test_logs_keep_the_newest_bytes(tmp_path: Path) -> None:
    """A flood of log lines is cut to the newest, and the artifact says how much is left out."""
    flood = b"".join(frame(1, b"%06d\n" % number) for number in range(5000))
    sink = collect(tmp_path, {"parts": ["logs"], "log_bytes": 700}, ROUTES | {f"/containers/{WEB}/logs": flood})

    artifact = sink.artifacts[f"docker/logs/{WEB}.stdout.log"]
    assert bytes(artifact.data) == b"".join(b"%06d\n" % number for number in range(4900, 5000))
    assert artifact.facts == {
        "container": WEB,
        "name": "shop-web-1",
        "stream": "stdout",
        "left_out_bytes": 4900 * 7,
    }


def test_a_broken_log_keeps_what_came(tmp_path: Path) -> None:
    """Bytes that are no log frames end that log with the error beside it; what came before is kept."""
    sink = MemorySink()
    routes = ROUTES | {f"/containers/{WEB}/logs": frame(1, b"before\n") + b"<html>...."}
    with fake.serve(tmp_path / "s", routes), pytest.raises(EngineError, match="wanted a frame of stream"):
        docker_containers.collect(Context(roots=Roots(docker_socket=tmp_path / "s")), sink)

    artifact = sink.artifacts[f"docker/logs/{WEB}.stdout.log"]
    assert bytes(artifact.data) == b"before\n"
    assert "wanted a frame of stream 0, 1 or 2, found 60" in artifact.facts["error"]
    assert bytes(sink.artifacts[f"docker/logs/{DB}.stdout.log"].data) == b"tty says this\n"


@pytest.mark.parametrize(
    "listed",
    [
        [{"Id": "../../etc/passwd", "Names": ["/x"]}, "junk", None, {"Id": 7}, {}],
        [{"Id": WEB, "Names": "x", "Labels": [], "State": {"a": 1}, "Status": None}],
        [{"Id": WEB, "Names": ["/\ud800\n\x1b[2J" + "n" * 9000], "State": "\ud800" * 99}] * 3,
    ],
)
def test_a_lying_list_harms_nothing(tmp_path: Path, listed: list[Any]) -> None:
    """Ids that are paths, fields of the wrong type, doubles and terminal escapes: no error, nothing unprintable."""
    routes = {"/containers/json": listed, f"/containers/{WEB}/json": {"State": {"Dead": True, "Health": "x"}}}
    sink = collect(tmp_path, {"critical": ["name:*"]}, routes)

    for finding in sink.findings:
        assert (finding.subject + finding.summary).isprintable()
        assert len(finding.summary) < 500
    assert len(json.dumps(sink.artifacts["docker/containers.jsonl"].facts)) < 2000


def test_thousands_of_containers_are_cut_with_a_word(tmp_path: Path) -> None:
    """An engine that lists more than a capture can hold is cut at the limit, and that is a finding."""
    count = docker_containers.MAX_CONTAINERS + 1
    listed = [{"Id": f"{number:064x}", "Names": ["/n"], "State": "running"} for number in range(count)]
    sink = collect(tmp_path, {"parts": []}, {"/containers/json": listed})

    assert sink.found("containers-left-out")[0].summary == "1001 containers to look into; only the first 1000 were"
    assert len(sink.artifacts["docker/containers.jsonl"].records()) == 1001


def test_the_output_limit_ends_the_collector(tmp_path: Path) -> None:
    """The sink's limit is not taken for a fault of the engine."""
    sink = MemorySink(limit_bytes=100)
    with fake.serve(tmp_path / "s", ROUTES), pytest.raises(OutputLimit):
        docker_containers.collect(Context(roots=Roots(docker_socket=tmp_path / "s")), sink)


@pytest.mark.parametrize("collector", [docker_containers, docker_engine])
def test_no_docker_is_absent(tmp_path: Path, collector: Any) -> None:
    """A host without Docker is told so: nothing failed."""
    sink = MemorySink()
    with pytest.raises(Absent, match=r"no Docker Engine: .* is not there"):
        collector.collect(Context(roots=Roots(docker_socket=tmp_path / "s")), sink)
    assert sink.findings == []


@pytest.mark.parametrize("collector", [docker_containers, docker_engine])
def test_a_dead_engine_is_a_finding(tmp_path: Path, collector: Any) -> None:
    """A host whose engine should answer and does not has a problem that an operator must see."""
    fake.refusing(tmp_path / "s")
    sink = MemorySink()
    with pytest.raises(EngineError, match="is the engine running"):
        collector.collect(Context(roots=Roots(docker_socket=tmp_path / "s")), sink)
    assert [(finding.severity, finding.code) for finding in sink.findings] == [
        ("critical", "docker-engine-not-answering")
    ]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"part": []}, "unknown collector parameter 'part': did you mean 'parts'?"),
        (
            {"parts": ["log"]},
            "collector parameter 'parts': wanted some of inspect, stats, top, changes, logs, found 'log'",
        ),
        ({"parts": "logs"}, "collector parameter 'parts': wanted a list of words, found 'logs'"),
        ({"scope": "most"}, "collector parameter 'scope': wanted all or critical, found 'most'"),
        ({"critical": ["postgres"]}, "critical service 'postgres' is not understood: write label:KEY=VALUE, compose"),
        ({"log_bytes": 1 << 40}, "collector parameter 'log_bytes': wanted a number above 0, at most 67108864, found"),
    ],
)
def test_wrong_params_are_refused(params: dict[str, Any], message: str) -> None:
    """A wrong order is refused by name before the engine is asked anything."""
    with pytest.raises(ValueError) as raised:
        docker_containers.collect(Context(params=params), MemorySink())
    assert str(raised.value).startswith(message)


NETWORK = "d" * 64
ENGINE: dict[str, Any] = {
    "/info": {"Containers": 3, "Warnings": ["WARNING: API is accessible on http://0.0.0.0:2375 without encryption."]},
    "/events": b'{"Type": "container", "Action": "die", "time": 1}\n{"Type": "image", "Action": "pull", "time": 2}\n',
    "/networks": [{"Id": NETWORK, "Name": "shop"}, {"Id": "junk"}],
    f"/networks/{NETWORK}": {"Id": NETWORK, "Name": "shop", "Containers": {DB: {"Name": "shop-db-1"}}},
    "/volumes": {"Volumes": [{"Name": "data", "Options": {"password": "hunter2"}}], "Warnings": None},
    "/images/json": [{"Id": "sha256:1", "RepoTags": ["postgres:15"]}],
}


def test_the_engine_is_captured_whole(tmp_path: Path) -> None:
    """Version, settings, events, networks, volumes and images are kept; an open API stands out."""
    sink = collect(tmp_path, {}, ENGINE, collector=docker_engine)

    assert sorted(sink.artifacts) == [
        "docker/events.jsonl",
        "docker/images.jsonl",
        "docker/info.json",
        "docker/networks.jsonl",
        "docker/version.json",
        "docker/volumes.jsonl",
    ]
    assert sink.artifacts["docker/version.json"].document() == fake.VERSION
    assert [record["Action"] for record in sink.artifacts["docker/events.jsonl"].records()] == ["die", "pull"]
    assert sink.artifacts["docker/networks.jsonl"].records()[0]["Containers"] == {DB: {"Name": "shop-db-1"}}
    assert sink.artifacts["docker/volumes.jsonl"].records() == [{"Name": "data", "Options": {"password": "[masked]"}}]
    assert [(finding.severity, finding.code) for finding in sink.findings] == [("critical", "docker-api-exposed")]


def test_an_old_engine_is_asked_in_its_own_way(tmp_path: Path) -> None:
    """Engines before API 1.41 know no one-shot statistics; they are asked without, and answer a second later."""
    sink = collect(tmp_path, {"parts": ["stats"]}, ROUTES | {"/version": {"ApiVersion": "1.40"}})

    assert sink.artifacts["docker/stats.jsonl"].records()[0]["stats"] == {"memory_stats": {"usage": 7}}


def test_only_the_parts_ordered_are_asked(tmp_path: Path) -> None:
    """The first minute's profile asks for a summary and nothing more."""
    with fake.serve(tmp_path / "s", ENGINE) as asked:
        context = Context(params={"parts": ["version", "info"]}, roots=Roots(docker_socket=tmp_path / "s"))
        docker_engine.collect(context, MemorySink())

    assert asked == ["/version", "/version", "/info"]


def test_a_broken_part_of_the_engine_loses_no_other(tmp_path: Path) -> None:
    """Events that are no JSON are a failure of the events alone."""
    sink = MemorySink()
    with fake.serve(tmp_path / "s", ENGINE | {"/events": b"{]\n"}), pytest.raises(EngineError, match="events: wanted"):
        docker_engine.collect(Context(roots=Roots(docker_socket=tmp_path / "s")), sink)

    assert {"docker/networks.jsonl", "docker/volumes.jsonl", "docker/images.jsonl"} <= set(sink.artifacts)
