"""What is stopped for an order, on the disk: the processes or containers, and until when.

The kernel has no lease for what is frozen or paused. So a small process of its own session, outside the agent's
service, lets it go when the time is over and nobody committed (lease_child); it lives on when the agent is killed.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from fireline_agent.hands.process import run_module
from fireline_agent.isolation.means import MeansError
from fireline_wire import durable

_CHILD: Final = "fireline_agent.isolation.lease_child"
_CHILD_S: Final = 10.0
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Member:
    """A process that was stopped: when it started (ticks since boot) tells it from a later one of its pid."""

    pid: int
    start_ticks: int
    origin: str


@dataclass(frozen=True)
class Hold:
    """What is stopped. `until` is of the monotonic clock of this boot; None for ever."""

    boot_id: str
    until: float | None
    members: tuple[Member, ...] = ()
    containers: tuple[str, ...] = ()
    socket: str = ""
    root: Member | None = field(default=None)

    @property
    def left_ms(self) -> int | None:
        """What is left of the lease; None for ever."""
        return None if self.until is None else max(0, int((self.until - time.monotonic()) * 1000))

    @property
    def is_of_this_boot(self) -> bool:
        """Whether its processes can be there."""
        return self.boot_id == boot_id()

    def to_json(self) -> bytes:
        """As it is written."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """Back from `to_json`.

        Raises:
            ValueError: it is none.
        """
        try:
            document: dict[str, Any] = json.loads(raw)
            document["members"] = tuple(Member(**member) for member in document["members"])
            document["containers"] = tuple(document["containers"])
            document["root"] = Member(**document["root"]) if document["root"] else None
            return cls(**document)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no hold: {type(error).__name__}") from None


def until(left_ms: int | None) -> float | None:
    """When a lease that starts now is over."""
    return None if left_ms is None else time.monotonic() + left_ms / 1000


def boot_id() -> str:
    """What tells this boot from others."""
    return _BOOT.read_text().strip()


def load(folder: Path, name: str) -> Hold | None:
    """What is stopped for the order of this name."""
    try:
        return Hold.from_json((folder / f"{name}.hold").read_bytes())
    except (OSError, ValueError):
        return None


def save(folder: Path, name: str, hold: Hold) -> None:
    """Write it before anything is stopped.

    Raises:
        MeansError: it can't be written.
    """
    try:
        durable.replace(folder / f"{name}.hold", hold.to_json())
    except OSError as error:
        raise MeansError(f"{folder}: {error.strerror}") from None


def forget(folder: Path, name: str) -> None:
    """Nothing is stopped any more."""
    (folder / f"{name}.hold").unlink(missing_ok=True)


def guard(folder: Path, name: str) -> None:
    """Start the process that lets go when the lease is over; one that runs already is enough.

    Raises:
        MeansError: it can't be started.
    """
    try:
        run_module(_CHILD, str(folder), name, given=b"", timeout_s=_CHILD_S)
    except OSError as error:
        raise MeansError(f"the lease can't be kept: {error}") from None
