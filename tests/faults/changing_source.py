"""A program that may crash: hundreds connect at once and each handshake shows another certificate.

The argument is the pause before a changed certificate, in seconds: with 0 it dies of SIGSEGV, 3 runs of 3. A tenth of
the product's own pause is what the test gives it, or 1,500 changes would take more than a minute.
"""

import asyncio
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc

from fireline_controller import pki
from fireline_wire import tls
from fireline_wire.identity import agent_dns
from tests.fakes.fleet_keys import certified_agent, new_authority

CONNECTIONS, AT_ONCE = 1500, 400


async def _echo(request: bytes, _: object) -> bytes:
    return request


async def _connect(address: str, authority: pki.Authority, places: asyncio.Semaphore) -> None:
    options = (("grpc.ssl_target_name_override", agent_dns("web-1", 1)), ("grpc.use_local_subchannel_pool", 1))
    credentials = tls.channel_credentials(authority.controller)
    async with places, grpc.aio.secure_channel(address, credentials, options=options) as channel:
        ping: Any = channel.unary_unary("/test/Ping")
        await ping(b"", timeout=60)


async def main(work: Path) -> None:
    """Serve two certificates in turn until all have connected."""
    authority = new_authority(work / "authority")
    pair = [certified_agent(authority)[0] for _ in range(2)]
    turn = itertools.cycle(pair)
    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(_echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Ping": handler}),))
    port = server.add_secure_port("127.0.0.1:0", tls.server_credentials(lambda: next(turn)))
    await server.start()
    places = asyncio.Semaphore(AT_ONCE)
    await asyncio.gather(*(_connect(f"127.0.0.1:{port}", authority, places) for _ in range(CONNECTIONS)))
    await server.stop(0)
    print(f"connections {CONNECTIONS}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        tls._SETTLE_S = float(sys.argv[1])  # type: ignore[misc] # the one thing that this program tries
        asyncio.run(main(Path(made)))
