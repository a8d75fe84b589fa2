"""Loads a profile from YAML into values. A mistake is named with its file, its line, its key and the nearest right one.

Leaves to others: which profile an operation uses (engine).
"""

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

import rfc8785
import yaml

from fireline_controller.model import ConfigError

# What agents of this version can collect; the agent's own table is the truth, and a test holds the two together.
COLLECTORS: Final = frozenset(
    {
        "agent",
        "bpf",
        "clocks",
        "conntrack",
        "dns",
        "disk_image",
        "docker_containers",
        "docker_engine",
        "executables",
        "filesystems",
        "firewall",
        "hidden_processes",
        "isolation",
        "kernel_log",
        "memory",
        "modules",
        "network",
        "postgres_activity",
        "processes",
        "recent_files",
        "selected_files",
        "sessions",
        "sockets",
        "sysctl",
        "system",
    }
)
MAX_PROFILE_BYTES: Final = 1 << 20  # a profile is a page of text; this protects against a wrong path

_PROFILE_KEYS: Final = ("name", "description", "limits", "collectors")
_COLLECTOR_KEYS: Final = ("name", "params", "limits")
_LIMIT_KEYS: Final = ("cpu_percent", "memory", "io_weight", "output", "deadline")
_SIZE: Final = re.compile(r"(\d+)(B|KiB|MiB|GiB)\Z")
_SIZE_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)\Z")
_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0}
_SELECTOR: Final = re.compile(r"label:[^=\s]+=.*\Z|compose:\S+\Z|name:\S+\Z")


@dataclass(frozen=True)
class CollectorLimits:
    """What one collector may use, its children included; zero means the agent's own limit.

    `cpu_percent` is of one core, `io_weight` as in cgroup v2 (1 to 1000), `output_bytes` for all its artifacts.
    """

    cpu_percent: int = 0
    memory_bytes: int = 0
    io_weight: int = 0
    output_bytes: int = 0
    deadline_s: float = 0.0


@dataclass(frozen=True)
class CollectorOrder:
    """One collector to run. `params` are JSON values, checked by the collector itself."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    limits: CollectorLimits = CollectorLimits()


@dataclass(frozen=True)
class Profile:
    """A named list of collectors, in the order in which they run."""

    name: str
    description: str
    collectors: tuple[CollectorOrder, ...]

    @property
    def sha256(self) -> str:
        """SHA-256 over the whole profile as canonical JSON (RFC 8785): a name says little, a file may change."""
        return hashlib.sha256(rfc8785.dumps(asdict(self))).hexdigest()

    def with_params(self, given: Mapping[str, Any]) -> "Profile":
        """The profile with parameters beyond its own, `COLLECTOR.NAME` to a JSON value; the collectors check them.

        Raises:
            ConfigError: the profile has no such collector, or a value is nothing that can go on record.
        """
        added: dict[str, dict[str, Any]] = {}
        for key, value in given.items():
            collector, _, name = key.partition(".")
            known = [order.name for order in self.collectors]
            if collector not in known or not name:
                hint = _nearest(collector, known)
                raise ConfigError(f"parameter {key!r}: wanted COLLECTOR.NAME with a collector of {self.name}{hint}")
            try:
                rfc8785.dumps(value)
            except (rfc8785.CanonicalizationError, TypeError):
                raise ConfigError(f"parameter {key!r}: wanted a JSON value with exact numbers") from None
            added.setdefault(collector, {})[name] = value
        orders = (replace(o, params={**o.params, **added.get(o.name, {})}) for o in self.collectors)
        return replace(self, collectors=tuple(orders))

    @property
    def params(self) -> Mapping[str, Mapping[str, Any]]:
        """What the profile tells its collectors, by collector; those that are told nothing are left out."""
        return {order.name: dict(order.params) for order in self.collectors if order.params}


@dataclass(frozen=True)
class _Place:
    """Where in a file a value stands, for messages."""

    file: str
    line: int
    key: str = ""

    def error(self, problem: str) -> ConfigError:
        key = f" {self.key}:" if self.key else ""
        return ConfigError(f"{self.file}:{self.line}:{key} {problem}")


def names(folders: Sequence[Path] = ()) -> tuple[str, ...]:
    """The profiles that `load` knows, sorted: the built-in ones and those in the folders."""
    own = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    return tuple(sorted(own | set(_built_in())))


def load(name: str, *, folders: Sequence[Path] = (), critical_services: Sequence[str] = ()) -> Profile:
    """Load a profile: from the first folder that has `NAME.yaml`, or the built-in one.

    Args:
        name: the profile's name.
        folders: where the user's own profiles are; they win over the built-in ones.
        critical_services: `label:KEY=VALUE`, `compose:SERVICE` or `name:GLOB`, handed to `docker_containers`.

    Raises:
        ConfigError: there is no such profile, it is not valid, or a critical service is not spelled as above.
    """
    for selector in critical_services:
        if _SELECTOR.match(selector) is None:
            raise ConfigError(
                f"critical service {selector!r} is not understood: write label:KEY=VALUE, compose:SERVICE or name:GLOB"
            )
    file, text = _read(name, folders)
    profile = parse(text, file=file)
    if profile.name != name:
        raise ConfigError(f"{file}: the profile calls itself {profile.name!r}, its file says {name!r}: make them agree")
    return replace(profile, collectors=tuple(_with_critical(order, critical_services) for order in profile.collectors))


def parse(text: str, *, file: str) -> Profile:
    """Read a profile's text; `file` is for messages.

    Raises:
        ConfigError: with the file, the line, the key, and the nearest right key where one is unknown.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise _Place(file, line).error(f"not YAML: {getattr(error, 'problem', None) or error}") from None
    members = _members(node, _Place(file, 1), _PROFILE_KEYS, required=("name", "collectors"))
    defaults = _limits(members.get("limits"), file, CollectorLimits())
    return Profile(
        name=_string(members["name"], file, "name"),
        description=_string(members["description"], file, "description") if "description" in members else "",
        collectors=_collectors(members["collectors"], file, defaults),
    )


def _built_in() -> dict[str, str]:
    package = resources.files("fireline_controller.profiles")
    return {
        entry.name.removesuffix(".yaml"): entry.read_text("utf-8")
        for entry in package.iterdir()
        if entry.name.endswith(".yaml")
    }


def _read(name: str, folders: Sequence[Path]) -> tuple[str, str]:
    if name in names(folders):
        for folder in folders:
            path = folder / f"{name}.yaml"
            if path.is_file():
                return str(path), _read_file(path)
        return f"{name}.yaml (built in)", _built_in()[name]
    raise ConfigError(f"there is no profile {name!r}{_nearest(name, names(folders))}")


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_PROFILE_BYTES + 1)
        text = raw.decode()
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text at byte {error.start}") from None
    if len(raw) > MAX_PROFILE_BYTES:
        raise ConfigError(f"{path}: over {MAX_PROFILE_BYTES} bytes: this is no profile")
    return text


def _with_critical(order: CollectorOrder, critical_services: Sequence[str]) -> CollectorOrder:
    if order.name != "docker_containers" or not critical_services:
        return order
    return replace(order, params={**order.params, "critical": list(critical_services)})


def _collectors(node: yaml.Node, file: str, defaults: CollectorLimits) -> tuple[CollectorOrder, ...]:
    place = _place(node, file, "collectors")
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise place.error("wanted a list of collectors, at least one")
    orders = tuple(_order(member, file, defaults) for member in node.value)
    seen: set[str] = set()
    for member, order in zip(node.value, orders, strict=True):
        if order.name in seen:
            raise _place(member, file, "name").error(f"{order.name} is listed twice: its artifacts would collide")
        seen.add(order.name)
    return orders


def _order(node: yaml.Node, file: str, defaults: CollectorLimits) -> CollectorOrder:
    members = _members(node, _place(node, file), _COLLECTOR_KEYS, required=("name",))
    name = _string(members["name"], file, "name")
    if name not in COLLECTORS:
        place = _place(members["name"], file, "name")
        raise place.error(f"there is no collector {name!r}{_nearest(name, COLLECTORS)}")
    return CollectorOrder(name, _params(members.get("params"), file), _limits(members.get("limits"), file, defaults))


def _params(node: yaml.Node | None, file: str) -> Mapping[str, Any]:
    if node is None:
        return {}
    params = _json(node, file)
    if not isinstance(params, dict):
        raise _place(node, file, "params").error("wanted a mapping")
    return params


def _json(node: yaml.Node, file: str) -> Any:
    """A node as a JSON value: YAML's dates, sets and binaries have no place on the wire."""
    if isinstance(node, yaml.MappingNode):
        return {_string(key, file, "params"): _json(value, file) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_json(member, file) for member in node.value]
    value = _scalar(node)
    if value is None or isinstance(value, bool | int | float | str):
        _require_exact(value, _place(node, file, "params"))
        return value
    raise _place(node, file, "params").error(f"{node.value!r} is a YAML {type(value).__name__}: put it in quotes")


def _require_exact(value: float | str | None, place: _Place) -> None:
    """A profile goes on record as canonical JSON, which has no number or text that readers could take differently."""
    try:
        rfc8785.dumps(value)
    except rfc8785.CanonicalizationError:
        kind = "a text without lone surrogates" if isinstance(value, str) else "a finite number below 2 to the 53rd"
        raise place.error(f"wanted {kind}; found {value!r}") from None


def _limits(node: yaml.Node | None, file: str, defaults: CollectorLimits) -> CollectorLimits:
    if node is None:
        return defaults
    members = _members(node, _place(node, file, "limits"), _LIMIT_KEYS)
    limits = defaults
    for key, value in members.items():
        limits = replace(limits, **_limit(key, value, file))
    return limits


def _limit(key: str, node: yaml.Node, file: str) -> dict[str, Any]:
    if key == "cpu_percent":
        return {"cpu_percent": _whole(node, file, key, 1, 100_000)}
    if key == "io_weight":
        return {"io_weight": _whole(node, file, key, 1, 1000)}
    if key == "deadline":
        return {"deadline_s": _measure(node, file, key, _DURATION, _DURATION_UNITS, "such as 500ms, 30s or 2m")}
    size = _measure(node, file, key, _SIZE, _SIZE_UNITS, "such as 512KiB, 64MiB or 1GiB")
    return {f"{key}_bytes": int(size)}


def _measure(
    node: yaml.Node, file: str, key: str, pattern: re.Pattern[str], units: Mapping[str, float], wanted: str
) -> float:
    match = pattern.match(str(node.value))
    if match is None or not float(match[1]):
        raise _place(node, file, key).error(f"wanted a number with its unit, {wanted}; found {node.value!r}")
    return float(match[1]) * units[match[2]]


def _whole(node: yaml.Node, file: str, key: str, lowest: int, highest: int) -> int:
    value = _scalar(node)
    if type(value) is int and lowest <= value <= highest:
        return value
    raise _place(node, file, key).error(f"wanted a whole number from {lowest} to {highest}; found {node.value!r}")


def _string(node: yaml.Node, file: str, key: str) -> str:
    value = _scalar(node)
    if isinstance(value, str) and value:
        _require_exact(value, _place(node, file, key))
        return value
    raise _place(node, file, key).error(f"wanted text; found {node.value!r}")


def _members(
    node: yaml.Node | None, place: _Place, allowed: Sequence[str], *, required: Sequence[str] = ()
) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        raise place.error(f"wanted a mapping with {', '.join(allowed)}")
    members: dict[str, yaml.Node] = {}
    for key_node, value in node.value:
        key = str(key_node.value)
        where = _place(key_node, place.file, key)
        if key not in allowed:
            raise where.error(f"unknown key{_nearest(key, allowed)}")
        if key in members:
            raise where.error("given twice")
        members[key] = value
    for key in required:
        if key not in members:
            raise place.error(f"{key!r} is missing")
    return members


def _place(node: yaml.Node, file: str, key: str = "") -> _Place:
    return _Place(file, node.start_mark.line + 1, key)


def _scalar(node: yaml.Node) -> Any:
    """A scalar's value; the node itself for what is no scalar, has a foreign tag, or is a date that isn't one."""
    try:
        return yaml.SafeLoader("").construct_object(node) if isinstance(node, yaml.ScalarNode) else node
    except (yaml.YAMLError, ValueError):
        return node


def _nearest(word: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
