"""How old something is that may be removed. Leaves to others: what may be."""

import time
from datetime import UTC, datetime
from typing import Final

from fireline_agent.remediation.container.selection import moment
from fireline_wire.actions import Kind, Parameter, Result

AGE: Final = Parameter("age", Kind.DURATION, "only what is older", 86_400)
FREED: Final = (
    Result("count", Kind.INT, "what is removed"),
    Result("freed_bytes", Kind.SIZE, "what it takes on disk, as the engine says"),
)


def age_s(*times: str) -> int:
    """Seconds since the latest of the engine's times; 0, as young as can be, where it gave none that can be read."""
    known = [at for at in map(moment, times) if at is not None]
    return max(0, int((datetime.now(UTC) - max(known)).total_seconds())) if known else 0


def age_since(seconds: object) -> int:
    """Seconds since a time in seconds since 1970."""
    return max(0, int(time.time()) - seconds) if isinstance(seconds, int) and not isinstance(seconds, bool) else 0
