"""The agent's settings: one TOML file, every limit a named field with its unit, unknown keys refused.

Leaves to others: what the controller may ask of this host (policy).
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

from fireline_agent.errors import ConfigError

DEFAULT_CONFIG: Final = Path("/etc/fireline/agent.toml")


@dataclass(frozen=True)
class Config:
    """How one agent runs. The defaults suit a production host; the `collector_` limits are ceilings of every order."""

    # Where the agent listens, as ADDRESS:PORT; an IPv6 address stands in brackets.
    listen: str = "0.0.0.0:7700"
    # Keys, ledger and spool live here; 0700, on a disk that survives a restart.
    state: Path = Path("/var/lib/fireline-agent")
    # What this host allows, whatever the controller asks. A missing file means the defaults.
    policy: Path = Path("/etc/fireline/policy.toml")
    # Where the Docker Engine answers, if there is one.
    docker_socket: Path = Path("/var/run/docker.sock")
    # debug, info, warning or error.
    log_level: str = "info"

    # Sealed evidence that waits for the controller, all captures together.
    spool_limit_bytes: int = 8 << 30
    # Free space that a capture leaves alone: the disk being examined is never filled.
    spool_reserve_bytes: int = 512 << 20
    # Disk that is held while there is plenty, and given to captures when only the reserve is free. 0: none.
    spool_aside_bytes: int = 64 << 20
    # How long a sealed capture waits to be fetched.
    spool_keep_s: int = 7 * 24 * 3600

    # Captures at once. Captures, transfers and other commands have places of their own: none waits for another (I9).
    capture_slots: int = 2
    # Transfers of evidence at once.
    transfer_slots: int = 8
    # Other commands at once.
    command_slots: int = 64
    # A whole capture, whatever the caller's time-out.
    capture_deadline_s: int = 900
    # A fetch whose reader takes nothing for so long is ended.
    transfer_idle_s: int = 60
    # After SIGTERM: how long running captures may go on before they are cut short and sealed as partial.
    drain_s: int = 20
    # Request ids that are remembered; the oldest are forgotten first.
    ledger_entries: int = 10_000

    # Percent of one core for one collector, children included; this and the next ones are ceilings of every order.
    collector_cpu_percent: int = 100
    # Memory of one collector, children included.
    collector_memory_bytes: int = 512 << 20
    # All artifacts of one collector.
    collector_output_bytes: int = 2 << 30
    # One collector, from its start to its last byte.
    collector_deadline_s: int = 120
    # Processes and threads of one collector.
    collector_pids: int = 64
    # Share of the disk's time, 1 to 1000; 100 is the normal one.
    collector_io_weight: int = 50

    # Actions at once, plans among them. They wait for nothing else, and nothing for them (I9).
    action_slots: int = 8
    # One action, from its start to its proof, whatever the caller's time-out.
    action_deadline_s: int = 3600
    # Memory of one action, children included.
    action_memory_bytes: int = 512 << 20
    # How long the record of an action is kept that its undo needs.
    action_keep_s: int = 90 * 24 * 3600

    def __post_init__(self) -> None:
        _check_listen(self.listen)
        for path in (self.state, self.policy, self.docker_socket):
            if not path.is_absolute():
                raise ConfigError(f"{path}: wanted an absolute path")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise ConfigError(f"log_level: wanted debug, info, warning or error, found {self.log_level!r}")
        for f in fields(self):
            if f.type is int and getattr(self, f.name) < (0 if f.name in _MAY_BE_ZERO else 1):
                raise ConfigError(f"{f.name}: wanted at least 1, found {getattr(self, f.name)}")
        if self.collector_io_weight > 1000:
            raise ConfigError(f"collector_io_weight: wanted 1 to 1000, found {self.collector_io_weight}")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The settings in a file.

        Raises:
            ConfigError: the file can't be read, is no TOML, has an unknown key, or a value of the wrong type or range.
        """
        return cls(**typed(path, read_toml(path), {f.name: f.type for f in fields(cls)}))

    @property
    def keys(self) -> Path:
        """This host's key and certificates."""
        return self.state / "keys"

    @property
    def spool(self) -> Path:
        """Where captures are kept until the controller has them."""
        return self.state / "spool"

    @property
    def remediations(self) -> Path:
        """The records of what actions did here."""
        return self.state / "remediations"


_MAY_BE_ZERO: Final = frozenset({"spool_reserve_bytes", "spool_aside_bytes", "drain_s"})


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a mapping.

    Raises:
        ConfigError: it can't be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def typed(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a file, each of the wanted type; texts become paths where a path is wanted.

    Raises:
        ConfigError: an unknown key, with the nearest right one, or a value of another type.
    """
    return {key: _value(path, key, value, _kind(path, key, wanted)) for key, value in found.items()}


def _kind(path: Path, key: str, wanted: Mapping[str, Any]) -> Any:
    if key not in wanted:
        raise ConfigError(f"{path}: unknown key {key!r}; {_nearest(key, wanted)}")
    return wanted[key]


def _nearest(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"


def _value(path: Path, key: str, value: object, kind: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind == tuple[str, ...] and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if type(value) is not kind:
        wanted = {int: "a whole number", str: "a text", Path: "a path as text"}.get(kind, "a list of texts")
        raise ConfigError(f"{path}: {key}: wanted {wanted}, found {value!r}")
    return value


def _check_listen(listen: str) -> None:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ConfigError(f"listen: wanted ADDRESS:PORT, found {listen!r}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ConfigError(f"listen: an IPv6 address stands in brackets, as in [::]:7700, found {listen!r}")
