"""What the actions on containers decide, on plain values: order, ages of failure, limits, and how one is made anew."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireline_agent.remediation.compose.copying import config_of, other_networks
from fireline_agent.remediation.container import limits, usage
from fireline_agent.remediation.container.failing import failing_s
from fireline_agent.remediation.container.ordering import dependencies_first
from fireline_agent.remediation.container.selection import Container, depends_on

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def service(name: str, *needs: str, project: str = "shop", number: int = 1) -> Container:
    """A container of a service."""
    return Container(f"{name}{number}", f"{name}-{number}", "running", project=project, service=name, needs=needs)


def order(*found: Container) -> list[str]:
    """Names in the order of starting."""
    return [container.name for container in dependencies_first(found)[0]]


def test_what_others_need_comes_first() -> None:
    """A chain and a fork; containers of one service stay together, by name."""
    found = (service("web", "api", number=2), service("web", "api"), service("api", "db", "cache"), service("cache"))

    assert order(*found, service("db")) == ["cache-1", "db-1", "api-1", "web-1", "web-2"]


def test_a_service_of_another_project_is_no_dependency() -> None:
    """The same name in two projects is two services."""
    assert order(service("web", "db"), service("db", project="blog")) == ["db-1", "web-1"]


def test_a_circle_is_cut_and_told() -> None:
    """Two services that need each other go by name, with a warning; what needs none of them is not held up."""
    found, warnings = dependencies_first([service("b", "a"), service("a", "b"), service("c")])

    assert [container.name for container in found] == ["c-1", "a-1", "b-1"]
    assert warnings == ["services a, b depend on each other in a circle"]


@given(st.dictionaries(st.sampled_from("abcdef"), st.frozensets(st.sampled_from("abcdef"), max_size=3), max_size=6))
def test_every_container_is_ordered_once(needs: dict[str, frozenset[str]]) -> None:
    """Whatever the dependencies, none is lost or doubled; without a circle each comes after what it needs."""
    found = [service(name, *sorted(wanted)) for name, wanted in needs.items()]
    ordered, warnings = dependencies_first(found)

    assert sorted(c.id for c in ordered) == sorted(c.id for c in found)
    place = {c.service: index for index, c in enumerate(ordered)}
    if not warnings:
        assert all(place[need] <= place[c.service] for c in ordered for need in c.needs if need in place)


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("", {}),
        ("db:service_healthy:false", {"db": "service_healthy"}),
        ("db:service_started:true, job:service_completed_successfully:false", {"db": "service_started",
         "job": "service_completed_successfully"}),
        ("db,cache", {"db": "", "cache": ""}),
    ],
)  # fmt: skip
def test_dependencies_are_read_from_compose_s_label(label: str, found: dict[str, str]) -> None:
    """Version 2 writes conditions; others write names alone."""
    assert depends_on(label) == found


def checks(*codes: int, streak: int, interval_s: float = 10) -> dict[str, Any]:
    """A container whose checks, ten seconds apart, ended so; the last began ten seconds ago."""
    first = NOW - timedelta(seconds=10 * len(codes))
    log = [{"Start": (first + timedelta(seconds=10 * i)).isoformat(), "ExitCode": code} for i, code in enumerate(codes)]
    return {
        "State": {"Health": {"Status": "unhealthy", "FailingStreak": streak, "Log": log}},
        "Config": {"Healthcheck": {"Interval": int(interval_s * 1e9)}},
    }


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ({}, 0),
        ({"State": {"Health": {"Log": "junk", "FailingStreak": "x"}}}, 0),
        (checks(0, 0, streak=0), 0),
        (checks(0, 1, 1, streak=2), 20),
        (checks(1, 0, 1, streak=1), 10),
        (checks(1, 1, 1, 1, 1, streak=5), 50),
        (checks(1, 1, 1, 1, 1, streak=30), 300),
        (checks(1, 1, 1, 1, 1, streak=7, interval_s=0), 50 + 2 * 30),
    ],
)
def test_how_long_a_check_has_failed(told: dict[str, Any], seconds: float) -> None:
    """From the first failure of the row; failures that the engine forgot are an interval apart."""
    assert failing_s(told, now=NOW) == seconds


FREE = dict.fromkeys(limits.KEYS, 0)


@pytest.mark.parametrize(
    ("asked", "before", "settings"),
    [
        ({"memory": 100}, FREE, {"Memory": 100, "MemorySwap": 100}),
        ({"memory": 100, "memory_swap": 150}, FREE, {"Memory": 100, "MemorySwap": 150}),
        ({"memory_swap": 150}, FREE, {"MemorySwap": 150}),
        ({"cpus": 1.5}, FREE, {"CpuPeriod": 100_000, "CpuQuota": 150_000}),
        ({"cpus": 1.5}, {**FREE, "CpuPeriod": 50_000}, {"CpuPeriod": 50_000, "CpuQuota": 75_000}),
        ({"cpus": 1.5}, {**FREE, "NanoCpus": 10**9}, {"NanoCpus": 1_500_000_000}),
        ({"pids": 7}, FREE, {"PidsLimit": 7}),
    ],
)
def test_a_wish_in_the_engine_s_words(asked: dict[str, Any], before: dict[str, int], settings: dict[str, int]) -> None:
    """Memory goes with swap, and CPU in the way in which the container has it."""
    params = {**dict.fromkeys(("memory", "memory_swap", "cpus", "pids")), **asked}

    assert limits.wanted(params, before) == settings


def test_the_way_back_is_where_it_came_from() -> None:
    """Former limits by their numbers, none as what the engine takes for none."""
    had = {**FREE, "Memory": 64, "MemorySwap": 128, "NanoCpus": 5, "PidsLimit": 9}
    changed = {"Memory": 1, "MemorySwap": 1, "NanoCpus": 1, "PidsLimit": 1}

    assert limits.way_back(changed, had) == [{"NanoCpus": 5, "PidsLimit": 9}, {"Memory": 64, "MemorySwap": 128}]
    assert limits.way_back({"CpuPeriod": 1, "CpuQuota": 1, "PidsLimit": 1}, FREE) == [
        {"CpuPeriod": 100_000, "CpuQuota": -1, "PidsLimit": -1}
    ]
    assert limits.way_back({"Memory": 1, "MemorySwap": 1}, FREE)[-1] == {"MemorySwap": -1}


def test_memory_is_counted_without_cache_that_can_go() -> None:
    """By version 1 of control groups and by version 2."""
    one = {"memory_stats": {"usage": 100, "stats": {"total_inactive_file": 30, "inactive_file": 1}}}
    two = {"memory_stats": {"usage": 100, "stats": {"inactive_file": 20}}}

    assert (usage.memory_bytes(one), usage.memory_bytes(two), usage.memory_bytes({})) == (70, 80, 0)


TOLD: dict[str, Any] = {
    "Id": "a" * 64,
    "Image": "sha256:old",
    "Config": {
        "Hostname": "a" * 12,
        "Image": "web:1",
        "Env": ["PATH=/bin", "DB=x"],
        "Cmd": ["serve"],
        "Entrypoint": ["/run"],
        "Labels": {"from": "image", "com.docker.compose.service": "web"},
        "ExposedPorts": {"80/tcp": {}, "81/tcp": {}},
        "Volumes": {"/data": {}},
    },
    "HostConfig": {"NetworkMode": "shop", "Binds": ["named:/named:rw"], "Memory": 5},
    "Mounts": [
        {"Type": "volume", "Name": "named", "Destination": "/named", "RW": True},
        {"Type": "volume", "Name": "f" * 64, "Destination": "/data", "RW": True},
        {"Type": "bind", "Source": "/etc", "Destination": "/etc", "RW": False},
    ],
    "NetworkSettings": {
        "Networks": {
            "back": {"Aliases": ["b"], "IPAMConfig": None},
            "shop": {"Aliases": ["web", "a" * 12], "IPAMConfig": {"IPv4Address": "198.18.0.9"}, "MacAddress": "02"},
        }
    },
}
IMAGE: dict[str, Any] = {
    "Config": {
        "Env": ["PATH=/bin"],
        "Cmd": ["serve"],
        "Entrypoint": ["/other"],
        "Labels": {"from": "image"},
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/data": {}},
    }
}


def test_one_made_anew_has_what_was_chosen_and_not_what_the_image_gave() -> None:
    """The new image gives its own command; what the container was made with stays, with its volumes and address."""
    config = config_of(TOLD, old_image=IMAGE, image="sha256:new")

    assert "Hostname" not in config
    assert "Cmd" not in config
    assert (config["Image"], config["Entrypoint"], config["Env"]) == ("sha256:new", ["/run"], ["DB=x"])
    assert config["Labels"] == {"com.docker.compose.service": "web", "fireline.replaces": "a" * 64}
    assert (config["ExposedPorts"], config["Volumes"]) == ({"81/tcp": {}}, {})
    assert config["HostConfig"]["Binds"] == ["named:/named:rw", f"{'f' * 64}:/data"]
    shop = {"IPAMConfig": {"IPv4Address": "198.18.0.9"}, "Aliases": ["web"]}
    assert config["NetworkingConfig"] == {"EndpointsConfig": {"shop": shop}}
    assert other_networks(TOLD) == {"back": {"Aliases": ["b"]}}


def test_one_on_the_host_s_network_joins_none() -> None:
    """Who shares another's network can't be put on one."""
    told = {**TOLD, "HostConfig": {"NetworkMode": "host"}}

    assert config_of(told, old_image=IMAGE, image="x")["NetworkingConfig"] == {"EndpointsConfig": {}}
    assert other_networks(told) == {}
