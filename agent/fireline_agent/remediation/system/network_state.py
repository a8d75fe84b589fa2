"""What the network was before a restart, kept where a guard finds it that outlives us. No action.

The file is the promise: while it is there, its guard puts the state back at its deadline. Whoever takes the file away
first, by a rename, decides; the other finds it gone. Leaves to others: addresses and routes (iproute).
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands import iproute, process
from fireline_agent.hands.iproute import Ip, IpError
from fireline_agent.hands.roots import Roots
from fireline_agent.remediation.action import ActionError
from fireline_wire import durable

_FOLDER: Final = "run/fireline-network"  # a reboot makes the network anew, and forgets this too
_GUARD: Final = "fireline_agent.remediation.system.network_guard"
_START_S: Final = 10.0


@dataclass(frozen=True)
class Saved:
    """The state to be put back at a moment of CLOCK_MONOTONIC."""

    deadline_s: float
    state: Mapping[str, list[list[str]]]


def ip() -> Ip:
    """The ip program.

    Raises:
        ActionError: there is none.
    """
    found = iproute.find()
    if found is None:
        raise ActionError("ip: wanted the program of iproute2 in /usr/sbin, /sbin or /usr/bin", reason="unsupported")
    return found


def current() -> dict[str, list[list[str]]]:
    """Links, addresses and routes now.

    Raises:
        ActionError: they can't be read.
    """
    try:
        return ip().state()
    except IpError as error:
        raise ActionError(str(error)) from None


def path(roots: Roots, request_id: str) -> Path:
    """Where the state of one application is kept."""
    return roots.root / _FOLDER / f"{sha256(request_id.encode()).hexdigest()[:24]}.json"


def guard(place: Path, saved: Saved) -> None:
    """Keep the state and start its guard; returns once the guard waits.

    Raises:
        ActionError: it does not; nothing is kept.
    """
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.replace(place, json.dumps(asdict(saved)).encode())
        process.run_module(_GUARD, str(place), given=b"", timeout_s=_START_S)
    except OSError as error:
        with suppress(OSError):
            place.unlink(missing_ok=True)
        raise ActionError(f"the guard that would put the network back can't be started: {error}") from None


def load(place: Path) -> Saved | None:
    """What is kept; None once it was taken."""
    try:
        return Saved(**json.loads(place.read_bytes()))
    except FileNotFoundError:
        return None


def take(place: Path) -> bool:
    """Take the promise away; False where the other was first."""
    try:
        place.rename(place.with_suffix(".taken"))
    except FileNotFoundError:
        return False
    return True


def put_back(place: Path, saved: Saved) -> None:
    """Put the state back and write down what that did; for the guard."""
    try:
        added, failed = ip().put_back(saved.state)
    except (ActionError, IpError) as error:
        added, failed = [], [str(error)]
    durable.replace(_report(place), json.dumps({"added": added, "failed": failed}).encode())


def report(place: Path) -> Mapping[str, Any] | None:
    """What the guard did; None where it did nothing yet."""
    try:
        found: Mapping[str, Any] = json.loads(_report(place).read_bytes())
    except FileNotFoundError:
        return None
    return found


def clear(place: Path) -> None:
    """Forget all of it."""
    for left in (place.with_suffix(".taken"), _report(place)):
        left.unlink(missing_ok=True)
    with suppress(OSError):
        place.parent.rmdir()


def lacking(wanted: Mapping[str, list[list[str]]], now: Mapping[str, list[list[str]]]) -> list[str]:
    """What of the saved state is not there."""
    return [
        " ".join(words) for kind in ("links", "addresses", "routes") for words in wanted[kind] if words not in now[kind]
    ]


def monotonic_s() -> float:
    """The clock of deadlines; it is one for all processes of a boot."""
    return time.monotonic()


def _report(place: Path) -> Path:
    return place.with_suffix(".restored")
