"""What this host allows, whatever the controller asks: services, collectors, actions and paths.

The file belongs to the host's own administrator; the agent reads it at start and the controller can't change it.
Leaves to others: who the caller is (the server's guard).
"""

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Self

from fireline_agent.config import read_toml, typed
from fireline_agent.errors import ConfigError, RefusedError

_SERVICES: Final = ("Host", "Capture", "Isolation", "Remediation", "Witness")
_RISKS: Final = ("risk:read", "risk:reversible", "risk:disruptive", "risk:destructive")


@dataclass(frozen=True)
class Policy:
    """The host's own rules. Names of collectors may be shell patterns; `*` allows every one."""

    # Host can't be left out. Isolation cuts this host off on a signed order; Remediation runs actions on it; Witness
    # looks at other hosts' ports.
    services: tuple[str, ...] = _SERVICES
    # Collectors that may run, as shell patterns.
    collectors: tuple[str, ...] = ("*",)
    # Folders that a command may name to be read, with all below them. What a collector reads by its nature, such as
    # /proc, is allowed or forbidden with the collector.
    paths: tuple[str, ...] = ("/",)
    # Actions that may run: names as shell patterns, or all of a risk, as `risk:reversible`. What destroys data must be
    # allowed here, by name or as `risk:destructive`.
    actions: tuple[str, ...] = _RISKS[:3]
    # Actions that never run, in the same form; these win.
    deny_actions: tuple[str, ...] = ()
    # Folders below which actions may change files. Never the agent's own state and settings.
    writable: tuple[str, ...] = ("/",)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.services) - set(_SERVICES))
        if unknown:
            raise ConfigError(f"services: unknown service {unknown[0]!r}; known are {', '.join(_SERVICES)}")
        if "Host" not in self.services:
            raise ConfigError("services: Host can't be left out: without it the host's certificate can't be renewed")
        for key in ("paths", "writable"):
            _check_folders(key, getattr(self, key))
        for key in ("actions", "deny_actions"):
            _check_patterns(key, getattr(self, key))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The rules in a file; the defaults where there is none.

        Raises:
            ConfigError: the file is there and can't be used; the agent must not start with looser rules than meant.
        """
        if not path.exists():
            return cls()
        return cls(**typed(path, read_toml(path), {f.name: f.type for f in fields(cls)}))

    def require_service(self, service: str) -> None:
        """Let the call of a service pass.

        Raises:
            RefusedError: policy_denied.
        """
        if service not in self.services:
            raise RefusedError("policy_denied", f"this host's policy does not allow the service {service}")

    def allows_collector(self, name: str) -> bool:
        """Whether this host lets the collector run."""
        return any(fnmatchcase(name, pattern) for pattern in self.collectors)

    def denial(self, collector: str, params: Mapping[str, Any]) -> str:
        """Why this host does not run the collector with these parameters; empty where it does."""
        if not self.allows_collector(collector):
            return f"this host's policy does not allow the collector {collector}"
        for path in _paths(params.values()):
            if not any(is_below(path, allowed) for allowed in self.paths):
                return f"this host's policy does not allow {collector} to read {path}"
        return ""

    def allows_action(self, name: str, risk: str) -> bool:
        """Whether this host lets the action run."""
        return _matches(name, risk, self.actions) and not _matches(name, risk, self.deny_actions)

    def require_action(self, name: str, risk: str) -> None:
        """Let an action pass.

        Raises:
            RefusedError: policy_denied.
        """
        if not self.allows_action(name, risk):
            raise RefusedError(
                "policy_denied",
                f"this host's policy does not allow the action {name} ({risk}); its administrator can, by `actions`",
            )

    def allows_writing(self, path: str) -> bool:
        """Whether actions may change files at this path or below it."""
        return any(is_below(path, folder) for folder in self.writable)


def _check_folders(key: str, paths: Iterable[str]) -> None:
    for path in paths:
        if not path.startswith("/") or posixpath.normpath(path) != path:
            raise ConfigError(f"{key}: wanted absolute paths without '..' or a final '/', found {path!r}")


def _check_patterns(key: str, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        if pattern.startswith("risk:") and pattern not in _RISKS:
            raise ConfigError(f"{key}: unknown risk {pattern!r}; known are {', '.join(_RISKS)}")


def _matches(name: str, risk: str, patterns: Iterable[str]) -> bool:
    return any(pattern == f"risk:{risk}" or fnmatchcase(name, pattern) for pattern in patterns)


def _paths(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str) and value.startswith("/"):
            yield value
        elif isinstance(value, Mapping):
            yield from _paths(value.values())
        elif isinstance(value, list | tuple):
            yield from _paths(value)


def is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies in it, by their spelling."""
    # Normalised first, so that /allowed/../secret and //secret count as what they are.
    normal = posixpath.normpath(f"/{path.lstrip('/')}")
    return folder == "/" or normal == folder or normal.startswith(f"{folder}/")
