"""Real agents, joined as a user's are, asked from the command line."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.fleet import Fleet


@contextmanager
def fleet(agents: int) -> Iterator[Fleet]:
    """So many hosts of the lab with an agent each, and a daemon."""
    with Fleet(agents) as made:
        made.fireline("host", "ping", "--target", "all", "--yes")  # connections stand
        yield made


def ping_s(made: Fleet) -> float:
    """Seconds from the start of the command line to its end."""
    began = time.perf_counter()
    made.fireline("host", "ping", "--target", "all", "--yes")
    return time.perf_counter() - began
