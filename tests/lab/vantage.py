"""A place on the network that tests speak from: sockets are opened in its namespace, by whoever runs the test.

No process has to run there, so a hundred conversations between places cost no start of a program.
"""

import ctypes
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fireline_agent.hands.namespaces import entered
from tests.lab.errors import LabError

_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Vantage:
    """One network namespace, known by a path that opens it, and its addresses there."""

    name: str
    netns: Path
    address: str
    address6: str

    def socket(self, family: int, kind: int, protocol: int = 0, *, uid: int = 0) -> socket.socket:
        """A socket there, which that user opened as far as the kernel's firewall is concerned."""
        with entered(str(self.netns)):
            # `meta skuid` matches the file's fsuid: nft_meta_get_eval_skugid in net/netfilter/nft_meta.c. It is the
            # thread's alone, and what opening a socket needs stays with root.
            _libc.setfsuid(uid)
            try:
                return socket.socket(family, kind, protocol)
            finally:
                _libc.setfsuid(0)

    def run(self, argv: Sequence[str], *, text: str = "", within_s: float = 20) -> str:
        """Run one of the machine's tools in the namespace, and nothing else of the host.

        Raises:
            LabError: it failed; the message carries its last words.
        """
        with entered(str(self.netns)):
            done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=within_s, check=False)
        if done.returncode:
            raise LabError(f"{self.name}: {' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout
