"""The fake agent as a process of its own, which a test can stop and kill."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fireline_wire.tls import Credentials
from tests.fakes.agent import FakeAgent


@dataclass(frozen=True)
class AgentProcess:
    """A serving agent: where, and as which process."""

    address: str
    pid: int


@contextmanager
def serving(credentials: Credentials) -> Iterator[AgentProcess]:
    """Serve while the block lasts."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        parts = (credentials.key_pem, credentials.chain_pem, credentials.ca_pem)
        process.stdin.write(json.dumps([part.decode() for part in parts]) + "\n")
        process.stdin.flush()
        try:
            yield AgentProcess(process.stdout.readline().strip(), process.pid)
        finally:
            process.kill()


async def _serve() -> None:
    key, chain, ca = (part.encode() for part in json.loads(sys.stdin.readline()))
    async with FakeAgent(Credentials(key, chain, ca)).serving() as agent:
        print(agent.address, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
