"""Where the host's own state is found. Leaves to others: what is read there."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Roots:
    """Where the host's state is read: the real places, or a golden tree in a test."""

    root: Path = Path("/")
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    docker_socket: Path = Path("/var/run/docker.sock")
    # The agent's own state folder.
    state: Path = Path("/var/lib/fireline-agent")
