"""Certificates are renewed while hundreds connect; the server must not die (grpcio 1.85: SIGSEGV)."""

import asyncio
import sys

from tests.faults.renewal_under_load import CONNECTIONS, RENEWALS


async def test_renewal_under_load_does_not_kill_the_server() -> None:
    """Every connection is served, across a dozen renewals of the key folder, and the process ends by itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.faults.renewal_under_load",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 50)
    finally:
        if process.returncode is None:
            process.kill()

    assert process.returncode == 0, err.decode()[-2000:]
    connections, certificates = (int(part.split()[1]) for part in out.decode().split(", "))
    assert connections == CONNECTIONS
    assert certificates > RENEWALS // 2
