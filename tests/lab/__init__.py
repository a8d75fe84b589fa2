"""Real hosts on one machine, for tests, the demo and people: `with Lab(3) as lab: lab["h1"].run(["hostname"])`.

Each host has its own address, root, disk, /dev, processes, nftables, control group and, if wanted, Docker Engine.
They share the machine's kernel and clock. Nothing of the machine outside is changed, and what a killed run left behind
is swept by the next. `python -m tests.lab --help` is the same by hand. Only tests and the demo import this.
"""

from tests.lab.engine import IMAGE
from tests.lab.errors import LabError, Unsupported
from tests.lab.host import AgentCommand, Host
from tests.lab.lab import LOOPBACK, NETNS, Lab, default_backend, sweep
from tests.lab.processes import Process, eventually
from tests.lab.vantage import Vantage

__all__ = [
    "IMAGE",
    "LOOPBACK",
    "NETNS",
    "AgentCommand",
    "Host",
    "Lab",
    "LabError",
    "Process",
    "Unsupported",
    "Vantage",
    "default_backend",
    "eventually",
    "sweep",
]
