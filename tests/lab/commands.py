"""The lab's door to the machine's own tools (ip, nft, mount)."""

import shutil
import subprocess
from collections.abc import Sequence

from tests.lab.errors import LabError, Unsupported


def do(*argv: str, text: str = "", within_s: float = 30) -> str:
    """Run a tool of the machine and return what it printed.

    Raises:
        LabError: it failed; the message carries its last words.
    """
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=within_s, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def need(*tools: str) -> None:
    """Check that the machine has these tools.

    Raises:
        Unsupported: one is missing; the message names it.
    """
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise Unsupported(f"this machine lacks {', '.join(missing)}: install it, or use the loopback backend")


def ip(namespace: str, lines: Sequence[str]) -> None:
    """Give `ip` a batch of lines inside a network namespace.

    Raises:
        LabError: a line was refused; the lines before it hold.
    """
    do("ip", "-n", namespace, "-batch", "-", text="\n".join(lines) + "\n")
