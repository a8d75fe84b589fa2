"""What the programs cost when nothing happens: the agent's memory and processor time at rest, and a bare `--help`."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.evidence import agent_process, lay_agent
from tests.bench.grounds import BIN, Grounds

_BARE_TYPER = """
import typer
app = typer.Typer()
@app.command()
def one(name: str) -> None: pass
@app.command()
def two(name: str) -> None: pass
app()
"""


def agent_at_rest(grounds: Grounds, *, seconds: float) -> tuple[float, float, float]:
    """The agent's resident bytes over a bare interpreter's, those bytes, and its share of one processor at rest."""
    config = lay_agent(grounds, grounds.folder / "agent", total_bytes=1 << 20)
    with agent_process(config, grounds.folder / "agent.log") as pid:
        time.sleep(2)  # what it does once, after its start, is over
        before = _processor_s(pid)
        time.sleep(seconds)
        busy = (_processor_s(pid) - before) / seconds
        resident = _resident_bytes(pid)
    return resident / _bare_python_bytes(), resident, busy


def help_s() -> float:
    """Seconds of `fireline --help`."""
    return _timed([str(BIN / "fireline"), "--help"])


def bare_help_s() -> float:
    """Seconds of `--help` of the smallest typer program with two commands."""
    return _timed([sys.executable, "-c", _BARE_TYPER, "--help"])


def _timed(argv: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True)
    return time.perf_counter() - began


def _bare_python_bytes() -> int:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bare:
        time.sleep(0.3)
        assert bare.stdin is not None
        resident = _resident_bytes(bare.pid)
        bare.stdin.write(b"\n")
    return resident


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _processor_s(pid: int) -> float:
    """Of all its threads, to the nanosecond where the kernel counts so (schedstat)."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9
