"""What the programs cost when nothing happens: the agent's memory and processor time at rest, and a bare `--help`."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
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


_BARE_SERVER = """
import asyncio, sys, grpc
from fireline_wire.v1 import host_pb2_grpc
async def main():
    key, chain, ca = (open(path, "rb").read() for path in sys.argv[1:])
    server = grpc.aio.server()
    server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)], ca, True))
    await server.start()
    print("serving", flush=True)
    await server.wait_for_termination()
asyncio.run(main())
"""


# The goal's bare Python told its memory itself, and so had imported what that takes.
_TELLING_PYTHON = "import json, os, time; input()"


@dataclass(frozen=True)
class AtRest:
    """Resident bytes, and the agent's share of a core.

    Of the agent, a bare gRPC server with mutual TLS, a Python that can tell its own memory, and one that only waits.
    """

    agent_bytes: int
    server_bytes: int
    telling_bytes: int
    python_bytes: int
    busy: float


def agent_at_rest(grounds: Grounds, *, seconds: float) -> AtRest:
    """Watch an agent to which nothing happens."""
    config = lay_agent(grounds, grounds.folder / "agent", total_bytes=1 << 20)
    with agent_process(config, grounds.folder / "agent.log") as pid:
        time.sleep(2)  # what it does once, after its start, is over
        before = _processor_s(pid)
        time.sleep(seconds)
        busy = (_processor_s(pid) - before) / seconds
        resident = _resident_bytes(pid)
    keys = [str(grounds.folder / name) for name in ("agents.key", "agents.pem", "ca.pem")]
    server = _resident_of([sys.executable, "-c", _BARE_SERVER, *keys], says=True)
    telling, waiting = (
        _resident_of([sys.executable, "-c", program], says=False) for program in (_TELLING_PYTHON, "input()")
    )
    return AtRest(resident, server, telling, waiting, busy)


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


def _resident_of(argv: Sequence[str], *, says: bool) -> int:
    """Resident bytes of a program that waits; `says`: it prints a line when it is ready to be looked at."""
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        if says:
            program.stdout.readline()
        else:
            time.sleep(0.3)
        resident = _resident_bytes(program.pid)
        program.kill()
    return resident


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _processor_s(pid: int) -> float:
    """Of all its threads, to the nanosecond where the kernel counts so (schedstat)."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9
