"""What goes to a host and what comes back, as values.

What comes back was said by an agent: it is checked on the way in, but no more true for that.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol, TypeAlias

from fireline_controller.profiles import Profile

# Reasons of errors that no agent sends: what the controller found out by itself.
NAME_UNKNOWN: Final = "name_unknown"
REFUSED: Final = "refused"
NO_ANSWER: Final = "no_answer"
MUTE: Final = "mute"
NO_TLS: Final = "no_tls"
TLS_EXPIRED: Final = "tls_expired"
TLS_UNTRUSTED: Final = "tls_untrusted"
TLS_WRONG_NAME: Final = "tls_wrong_name"
TLS_REJECTED_US: Final = "tls_rejected_us"
BROKEN: Final = "broken"
SLOW: Final = "slow"
BAD_DATA: Final = "bad_data"


@dataclass(frozen=True)
class Command:
    """Who asks for what, and why: the context of every request that changes something. `deadline` is aware UTC."""

    request_id: str
    operation_id: str
    incident_id: str
    operator: str
    reason: str
    deadline: datetime
    fence_token: int
    dry_run: bool = False


@dataclass(frozen=True)
class CaptureOrder:
    """What to collect, with the clock offset measured just before (the host's minus ours) and our journal's head."""

    command: Command
    profile: Profile
    clock_offset_ns: int
    clock_round_trip_ns: int
    journal_seq: int
    journal_hash: str


@dataclass(frozen=True)
class CaptureAccepted:
    """The host has the order. Replayed: it had it before, and these are the news of that capture."""

    replayed: bool


@dataclass(frozen=True)
class CollectorStarted:
    """A collector began: the index-th, from 0, of count."""

    name: str
    index: int
    count: int


@dataclass(frozen=True)
class CollectorEnded:
    """A collector ended: status as in the manifest (`ok`, `failed`, `timed_out`, …)."""

    name: str
    status: str
    detail: str
    artifacts: int
    total_bytes: int
    wall_ms: int
    cpu_ms: int


@dataclass(frozen=True)
class CaptureSealed:
    """The capture is sealed on the host; the SHA-256 (hexadecimal) and size are of the manifest's envelope."""

    manifest_sha256: str
    manifest_bytes: int
    artifacts: int
    total_bytes: int
    partial: bool
    partial_reason: str


CaptureNews: TypeAlias = CaptureAccepted | CollectorStarted | CollectorEnded | CaptureSealed


@dataclass(frozen=True)
class PingAnswer:
    """The host's clock minus ours, with the round trip that bounds the error (RFC 5905)."""

    offset_ns: int
    round_trip_ns: int
    replayed: bool


@dataclass(frozen=True)
class HostDescription:
    """What a host says it is and lacks. Clock fields were measured by this call; times are aware UTC."""

    name: str
    agent_version: str
    boot_id: str
    machine_id: str
    kernel: str
    operating_system: str
    clock_offset_ns: int
    clock_round_trip_ns: int
    certificate_not_after: datetime
    collectors: tuple[str, ...]
    lacks: tuple[str, ...]
    cgroup: str
    deny_list_version: int
    fence_token: int
    spool_free_bytes: int
    isolation: str
    actions: tuple[str, ...] = ()


@dataclass(frozen=True)
class CancelAnswer:
    """Whether this call stopped something, and the pids that the kernel would not end."""

    stopped: bool
    unkillable_pids: tuple[int, ...]


@dataclass(frozen=True)
class InstalledCertificate:
    """The certificate that the host now serves."""

    serial: str
    not_after: datetime


@dataclass(frozen=True)
class HostEvent:
    """Something that happened on a watched host. `kind`: watching, capture_started, capture_ended, …"""

    at: datetime
    kind: str
    detail: str


class Range(Protocol):
    """Chunks of one artifact: `count` of them from index `first`."""

    @property
    def artifact(self) -> str:
        """The artifact's name."""

    @property
    def first(self) -> int:
        """Index of the first chunk."""

    @property
    def count(self) -> int:
        """How many chunks."""
