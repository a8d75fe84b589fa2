"""Certificates are renewed while hundreds connect; the server must not die (grpcio 1.85: SIGSEGV)."""

import asyncio
import sys

import pytest

from tests.faults.renewal_under_load import CONNECTIONS, RENEWALS


async def test_renewal_under_load_does_not_kill_the_server() -> None:
    """Every connection is served, across a dozen renewals of the key folder, and the process ends by itself."""
    out = await run("tests.faults.renewal_under_load")

    connections, certificates = (int(part.split()[1]) for part in out.split(", "))
    assert connections == CONNECTIONS
    assert certificates > RENEWALS // 2


@pytest.mark.slow
async def test_a_certificate_that_changes_at_each_handshake_does_not_kill_the_server() -> None:
    """The worst that a source can do, which without the pause in fireline_wire.tls is a certain crash."""
    assert await run("tests.faults.changing_source", "0.005") == "connections 1500\n"


async def run(program: str, *arguments: str) -> str:
    """What the program prints, once it ended well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        program,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 50)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()[-2000:]
    return out.decode()
