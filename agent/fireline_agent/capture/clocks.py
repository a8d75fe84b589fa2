"""Collects the host's clocks at one moment, and how far they are from the controller's.

Every other time of the capture can be corrected by what is here. Leaves to others: measuring the offset (the
controller), correcting times (the incident's timeline).
"""

import json
import time
from typing import Any, Final

from fireline_agent.capture.collector import Context, Sink
from fireline_agent.capture.params import refuse_unknown

VERSION = "1"

_MAX_OFFSET_NS: Final = 1_000_000_000  # beyond a second, lines of two hosts' logs are told in the wrong order
_CLOCKS: Final = {
    "realtime_ns": time.CLOCK_REALTIME,
    "monotonic_ns": time.CLOCK_MONOTONIC,
    "boottime_ns": time.CLOCK_BOOTTIME,
    "tai_ns": time.CLOCK_TAI,
}


def collect(context: Context, sink: Sink) -> None:
    """Write `host/clocks.json`; see the module.

    Raises:
        ValueError: a parameter is unknown.
    """
    refuse_unknown(context.params)
    offset_ns, round_trip_ns = context.clock_offset_ns, context.clock_round_trip_ns
    document: dict[str, Any] = {
        "triple": _triple(),
        "controller_offset_ns": offset_ns,
        "controller_round_trip_ns": round_trip_ns,
        "offset_uncertainty_ns": round_trip_ns // 2,
    }
    with sink.artifact("host/clocks.json", source="clock_gettime", method="syscall") as out:
        out.write(json.dumps(document, indent=1).encode())
    # Half the round trip may be the network's fault: only what can't be is told.
    if abs(offset_ns) - round_trip_ns // 2 > _MAX_OFFSET_NS:
        direction = "ahead of" if offset_ns > 0 else "behind"
        summary = f"the host's clock is {abs(offset_ns) / 1e9:.3f} s {direction} the controller's"
        sink.finding("warning", "clock-offset", "clock", summary)


def _triple() -> dict[str, int]:
    """All clocks, read in the shortest of a few tries: the closer together, the better they belong to one moment."""
    return min((_read() for _ in range(5)), key=lambda clocks: clocks["spread_ns"])


def _read() -> dict[str, int]:
    start = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    clocks = {name: time.clock_gettime_ns(clock) for name, clock in _CLOCKS.items()}
    return clocks | {"spread_ns": time.clock_gettime_ns(time.CLOCK_MONOTONIC) - start}
