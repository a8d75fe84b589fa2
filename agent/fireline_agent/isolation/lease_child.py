"""Keeps the lease of what is frozen or paused, in a process of its own session: see holds.

Arguments: the folder and the name of the hold. It goes into the background at once, so that it outlives the agent.
"""

import fcntl
import os
import sys
import time
from pathlib import Path
from typing import Final

from fireline_agent.hands import freezer
from fireline_agent.isolation import holds
from fireline_agent.isolation.stopping import let_go

_PAUSE_S: Final = 0.2


def main() -> None:
    """Leave the agent behind and wait."""
    if os.fork() != 0:
        return
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    with freezer.outside_service():
        _keep(Path(sys.argv[1]), sys.argv[2])


def _keep(folder: Path, name: str) -> None:
    with (folder / f"{name}.guard").open("wb") as alone:
        try:
            fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another keeps it
        while (hold := holds.load(folder, name)) is not None and hold.left_ms is not None and hold.is_of_this_boot:
            if hold.left_ms == 0:
                _end(folder, name)
                return
            time.sleep(min(_PAUSE_S, hold.left_ms / 1000))


def _end(folder: Path, name: str) -> None:
    """Under the lock of every change: a commit that came first has ended the lease."""
    with (folder / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        hold = holds.load(folder, name)
        if hold is not None and hold.left_ms == 0:
            let_go(folder, name, hold)


if __name__ == "__main__":
    main()
