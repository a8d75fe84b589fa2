"""Profiles: what the built-in ones order, and what a wrong one is told."""

import hashlib
import json
from pathlib import Path

import pytest

from fireline_agent.capture.collector import COLLECTORS as AGENT_COLLECTORS
from fireline_controller.model import ConfigError
from fireline_controller.profiles import CollectorLimits, load, loader, names


def test_initial_is_the_first_response_script_and_the_clocks() -> None:
    """`initial` captures clocks, disk, memory, all containers, and inspects the critical services."""
    profile = load("initial", critical_services=("compose:postgres", "label:tier=core", "name:gitea-*"))

    assert [order.name for order in profile.collectors] == [
        "clocks",
        "agent",
        "system",
        "memory",
        "filesystems",
        "docker_containers",
        "docker_engine",
    ]
    assert profile.collectors[5].params == {
        "parts": ["inspect"],
        "scope": "critical",
        "critical": ["compose:postgres", "label:tier=core", "name:gitea-*"],
    }
    assert profile.collectors[0].limits == CollectorLimits(50, 256 << 20, 50, 16 << 20, 5.0)
    assert profile.collectors[4].limits.deadline_s == 10.0


def test_volatile_runs_every_collector_in_order_of_volatility() -> None:
    """`volatile` runs all collectors, clocks first, then network, processes, kernel, containers.

    But those with a profile of their own (what an isolation left, what a database did, those of the disk), and the one
    that must be told which files to keep.
    """
    order = [collector.name for collector in load("volatile").collectors]

    own = ["disk_image", "isolation", "postgres_activity", "recent_files", "selected_files"]
    assert sorted([*order, *own]) == sorted(AGENT_COLLECTORS)
    assert [collector.name for collector in load("isolation").collectors] == ["isolation"]
    assert load("database").collectors[-1].name == "postgres_activity"
    marks = ["clocks", "sockets", "processes", "sessions", "docker_containers"]
    assert sorted(marks, key=order.index) == marks


def test_the_known_collectors_are_the_agents() -> None:
    """The loader refuses exactly what the agent of the same version would not know."""
    assert set(AGENT_COLLECTORS) == loader.COLLECTORS


def test_breach_is_volatile_and_then_the_disk() -> None:
    """`breach` runs what `volatile` does, in its order and with its limits, and looks at the files after all that."""
    *before, last = load("breach").collectors

    assert tuple(before) == load("volatile").collectors
    assert last.name == "recent_files"


@pytest.mark.parametrize("name", ["breach", "database", "image", "initial", "isolation", "volatile"])
def test_params_are_json(name: str) -> None:
    """Every built-in profile's params can go on the wire."""
    for order in load(name).collectors:
        assert json.loads(json.dumps(order.params)) == order.params


def test_a_profiles_hash_is_over_all_that_it_orders() -> None:
    """Anybody can compute it; one parameter more is another profile under the same name."""
    plain = loader.parse("name: x\ncollectors: [{name: clocks}, {name: processes}]\n", file="p")
    telling = loader.parse(
        "name: x\ncollectors: [{name: clocks}, {name: processes, params: {mask_secrets: false}}]\n", file="p"
    )
    limits = {"cpu_percent": 0, "deadline_s": 0, "io_weight": 0, "memory_bytes": 0, "output_bytes": 0}
    whole = {
        "collectors": [{"limits": limits, "name": name, "params": {}} for name in ("clocks", "processes")],
        "description": "",
        "name": "x",
    }

    canonical = json.dumps(whole, separators=(",", ":"), sort_keys=True).encode()
    assert plain.sha256 == hashlib.sha256(canonical).hexdigest()
    assert telling.sha256 != plain.sha256
    assert (plain.params, telling.params) == ({}, {"processes": {"mask_secrets": False}})


def test_a_folders_profile_wins_over_the_built_in_one(tmp_path: Path) -> None:
    """A user's `initial.yaml` replaces the built-in one; other names stay known."""
    (tmp_path / "initial.yaml").write_text("name: initial\ncollectors:\n  - name: clocks\n    params: {a: [1, x]}\n")
    (tmp_path / "disk.yaml").write_text("name: disk\ncollectors: [{name: filesystems}]\n")

    assert [(order.name, order.params) for order in load("initial", folders=[tmp_path]).collectors] == [
        ("clocks", {"a": [1, "x"]})
    ]
    assert names([tmp_path]) == ("breach", "database", "disk", "image", "initial", "isolation", "volatile")


BROKEN = {
    "name: x\ncolectors: []\n": "p.yaml:2: colectors: unknown key; did you mean 'collectors'?",
    "name: x\n": "p.yaml:1: 'collectors' is missing",
    "name: x\ncollectors: []\n": "p.yaml:2: collectors: wanted a list of collectors, at least one",
    "name: x\ncollectors:\n  - name: sokets\n": (
        "p.yaml:3: name: there is no collector 'sokets'; did you mean 'sockets'?"
    ),
    "name: x\ncollectors:\n  - name: dns\n  - name: dns\n": (
        "p.yaml:4: name: dns is listed twice: its artifacts would collide"
    ),
    "name: x\ncollectors:\n  - name: dns\n    limits:\n      dead_line: 3s\n": (
        "p.yaml:5: dead_line: unknown key; did you mean 'deadline'?"
    ),
    "name: x\ncollectors:\n  - name: dns\n    limits: {memory: 3}\n": (
        "p.yaml:4: memory: wanted a number with its unit, such as 512KiB, 64MiB or 1GiB; found '3'"
    ),
    "name: x\ncollectors:\n  - name: dns\n    limits: {deadline: 0s}\n": (
        "p.yaml:4: deadline: wanted a number with its unit, such as 500ms, 30s or 2m; found '0s'"
    ),
    "name: x\ncollectors:\n  - name: dns\n    limits: {cpu_percent: yes}\n": (
        "p.yaml:4: cpu_percent: wanted a whole number from 1 to 100000; found 'yes'"
    ),
    "name: x\ncollectors:\n  - name: dns\n    params: [1]\n": "p.yaml:4: params: wanted a mapping",
    "name: x\ncollectors:\n  - name: dns\n    params: {at: 2026-01-01}\n": (
        "p.yaml:4: params: '2026-01-01' is a YAML date: put it in quotes"
    ),
    "name: x\ncollectors:\n  - name: dns\n    params: {a: [.nan]}\n": (
        "p.yaml:4: params: wanted a finite number below 2 to the 53rd; found nan"
    ),
    "name: x\ncollectors:\n  - name: dns\n    params: {a: 9007199254740993}\n": (
        "p.yaml:4: params: wanted a finite number below 2 to the 53rd; found 9007199254740993"
    ),
    'name: x\ncollectors:\n  - name: dns\n    params: {a: "\\ud800"}\n': (
        "p.yaml:4: params: wanted a text without lone surrogates; found '\\ud800'"
    ),
    'name: x\ndescription: "\\ud800"\ncollectors: [{name: dns}]\n': (
        "p.yaml:2: description: wanted a text without lone surrogates; found '\\ud800'"
    ),
    "name: [1]\ncollectors:\n  - name: dns\n": "p.yaml:1: name: wanted text; found [",
    "name: x\nname: y\n": "p.yaml:2: name: given twice",
    "": "p.yaml:1: wanted a mapping with name, description, limits, collectors",
    "name: x\ncollectors: [\n": "p.yaml:3: not YAML: ",
    "name: !!python/object:os.system x\ncollectors: [{name: dns}]": "p.yaml:1: name: wanted text; found 'x'",
}


@pytest.mark.parametrize(("text", "message"), BROKEN.items())
def test_a_broken_profile_is_told_where_and_what(text: str, message: str) -> None:
    """A mistake is named with file, line, key and what was wanted."""
    with pytest.raises(ConfigError) as raised:
        loader.parse(text, file="p.yaml")

    assert str(raised.value).startswith(message)


def test_an_unknown_profile_names_the_nearest() -> None:
    """A misspelt profile is answered with the one that was probably meant; a path is no name."""
    with pytest.raises(ConfigError, match=r"there is no profile 'volatil'; did you mean 'volatile'\?"):
        load("volatil")
    with pytest.raises(ConfigError, match=r"there is no profile '\.\./x'"):
        load("../x")


def test_a_file_that_calls_itself_otherwise_is_refused(tmp_path: Path) -> None:
    """The record must say which profile ran, so file and name agree."""
    (tmp_path / "a.yaml").write_text("name: b\ncollectors: [{name: dns}]\n")

    with pytest.raises(ConfigError, match="calls itself 'b', its file says 'a': make them agree"):
        load("a", folders=[tmp_path])


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"#" * (loader.MAX_PROFILE_BYTES + 1)])
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, raw: bytes) -> None:
    """Binary or endless files are refused before they are parsed."""
    (tmp_path / "a.yaml").write_bytes(raw)

    with pytest.raises(ConfigError, match=r"not UTF-8 text|this is no profile"):
        load("a", folders=[tmp_path])


@pytest.mark.parametrize("selector", ["postgres", "label:tier", "compose:", "name:", "image:x"])
def test_a_critical_service_must_say_how_it_is_matched(selector: str) -> None:
    """A selector without its kind could match anything or nothing: it is refused with the three ways."""
    with pytest.raises(ConfigError, match="write label:KEY=VALUE, compose:SERVICE or name:GLOB"):
        load("initial", critical_services=(selector,))
