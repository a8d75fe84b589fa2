"""What a collector is: a function that reads one kind of state and writes artifacts into a sink.

A collector runs in a process of its own, under limits, in the host's mount namespace; it may block, fail, hang or
be killed, and never loses another's artifacts. Leaves to others: processes and limits (worker, runner), hashing
and files (spool), what is collected (the controller's profiles).
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from fireline_agent.hands.roots import Roots

# Collector name -> the module that has `VERSION: str` and `collect(context, sink)`. Modules are imported in the
# collecting process only, so the agent itself stays small.
COLLECTORS: Final[Mapping[str, str]] = {
    "agent": "fireline_agent.capture.agent",
    "bpf": "fireline_agent.capture.bpf",
    "clocks": "fireline_agent.capture.clocks",
    "conntrack": "fireline_agent.capture.conntrack",
    "dns": "fireline_agent.capture.dns",
    "disk_image": "fireline_agent.capture.disk_image",
    "docker_containers": "fireline_agent.capture.docker_containers",
    "docker_engine": "fireline_agent.capture.docker_engine",
    "executables": "fireline_agent.capture.executables",
    "filesystems": "fireline_agent.capture.filesystems",
    "firewall": "fireline_agent.capture.firewall",
    "hidden_processes": "fireline_agent.capture.hidden_processes",
    "isolation": "fireline_agent.capture.isolation",
    "kernel_log": "fireline_agent.capture.kernel_log",
    "memory": "fireline_agent.capture.memory",
    "modules": "fireline_agent.capture.modules",
    "network": "fireline_agent.capture.network",
    "postgres_activity": "fireline_agent.capture.postgres_activity",
    "processes": "fireline_agent.capture.processes",
    "recent_files": "fireline_agent.capture.recent_files",
    "selected_files": "fireline_agent.capture.selected_files",
    "sessions": "fireline_agent.capture.sessions",
    "sockets": "fireline_agent.capture.sockets",
    "sysctl": "fireline_agent.capture.sysctl",
    "system": "fireline_agent.capture.system",
}

# Collectors that ask a service of the host rather than its kernel: they don't wait for those before them in an order,
# nor those after them for them, so that a slow Docker Engine does not hold up what is more volatile.
BESIDE: Final = frozenset({"docker_containers", "docker_engine", "postgres_activity"})


class Absent(Exception):
    """What the collector reads is not on this host; the message says what was looked for and where."""


class OutputLimit(Exception):
    """The collector has written as many bytes as it may; what is there is kept, marked as truncated."""


@dataclass(frozen=True)
class Context:
    """What a collector is told. `params` is the order's JSON object, checked by the collector itself."""

    params: Mapping[str, Any] = field(default_factory=dict)
    roots: Roots = field(default_factory=Roots)
    # The host's clock minus the controller's, and the round trip of the measurement.
    clock_offset_ns: int = 0
    clock_round_trip_ns: int = 0
    # The agent's own process, whose footprint is recorded and whose sockets are marked as ours.
    agent_pid: int = 0
    # What the collector may write and for how long it may run, so that one that can't end within it says so at once.
    output_bytes: int = 1 << 40
    deadline_s: float = 86400.0


class ArtifactWriter(Protocol):
    """An artifact being written. `facts` may be filled until it is closed."""

    facts: dict[str, Any]

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            OutputLimit: the collector's output limit is reached; bytes up to the limit were kept.
        """

    def record(self, record: Mapping[str, Any]) -> None:
        """Append one JSON object as a line. See `text` for bytes that may be no UTF-8."""


class Sink(Protocol):
    """Where a collector puts what it finds."""

    def artifact(self, name: str, *, source: str, method: str) -> AbstractContextManager[ArtifactWriter]:
        """Open an artifact; it is kept, hashed and dated when the block ends, also when it ends by an exception.

        Args:
            name: lower-case path parts, such as `network/sockets.jsonl`; unique in the capture.
            source: what was read, such as `/proc/*/net/tcp`.
            method: how, such as `procfs`, `rtnetlink`, `docker-api`.
        """

    def finding(self, severity: str, code: str, subject: str, summary: str) -> None:
        """Note something that stands out: severity `critical`, `warning` or `notice`; code in kebab-case."""


def text(name: str, raw: bytes) -> dict[str, str]:
    r"""The record fields for bytes that should be text: `{name: text}`, and `name_hex` too when they are no UTF-8.

    Process names and paths may hold any byte. Invalid ones show as \xNN in the text; the exact bytes are in the
    hexadecimal field.
    """
    try:
        return {name: raw.decode()}
    except UnicodeDecodeError:
        return {name: raw.decode(errors="backslashreplace"), f"{name}_hex": raw.hex()}
