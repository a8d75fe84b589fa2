"""Puts the network back as it was, unless that is called off in time: a process of its own that outlives the agent.

Argument: the file of network_state. It goes into the background at once. No action.
"""

import os
import sys
import time
from pathlib import Path
from typing import Final

from fireline_agent.hands import cgroup, freezer
from fireline_agent.remediation.system import network_state

_PAUSE_S: Final = 0.2


def main() -> None:
    """Leave the agent behind and wait."""
    if os.fork() != 0:
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    cgroup.leave_version_1()
    with freezer.outside_service():
        _wait(Path(sys.argv[1]))


def _wait(place: Path) -> None:
    while (saved := network_state.load(place)) is not None:
        left_s = saved.deadline_s - network_state.monotonic_s()
        if left_s <= 0:
            if network_state.take(place):
                network_state.put_back(place, saved)
            return
        time.sleep(min(_PAUSE_S, left_s))


if __name__ == "__main__":
    main()
