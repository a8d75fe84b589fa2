"""Which containers are restarted unasked, and when nobody should: decided from looks at them over time.

Pure: no wire, no store, no clock, no chance of its own. The engine's shell (engine.recovering) looks, acts and keeps
the record; engine may import it.
"""

from fireline_controller.recovery.deciding import backoff, decide, ended
from fireline_controller.recovery.model import (
    Capped,
    Held,
    Look,
    Recovered,
    Restart,
    Rules,
    Seen,
    State,
    Tripped,
    Verdict,
)
from fireline_controller.recovery.windows import Window, parse_window

__all__ = [
    "Capped",
    "Held",
    "Look",
    "Recovered",
    "Restart",
    "Rules",
    "Seen",
    "State",
    "Tripped",
    "Verdict",
    "Window",
    "backoff",
    "decide",
    "ended",
    "parse_window",
]
