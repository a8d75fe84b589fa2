"""A program that may crash: new connections without end to a server whose certificate is renewed meanwhile.

Prints how many connections were served and how many certificates they saw. Run by test_renewal_under_load.
"""

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc

from fireline_agent.keys import KeyFolder
from fireline_controller import pki
from fireline_wire import guard, tls
from fireline_wire.identity import Role, agent_dns
from tests.fakes.fleet_keys import certified_agent, new_authority

CONNECTIONS, AT_ONCE, RENEWALS = 600, 50, 12


class Load:
    """Connects again and again, and renews in between."""

    def __init__(self, authority: pki.Authority, folder: KeyFolder) -> None:
        self._authority = authority
        self._folder = folder
        self._places = asyncio.Semaphore(AT_ONCE)
        self._served = 0
        self._renewing = asyncio.Lock()

    async def run(self, address: str) -> None:
        """All connections; the renewals are spread over them."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._connect(address))

    async def _connect(self, address: str) -> None:
        options = (("grpc.ssl_target_name_override", agent_dns("web-1", 1)), ("grpc.use_local_subchannel_pool", 1))
        async with self._places:
            credentials = tls.channel_credentials(self._authority.controller)
            async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
                ping: Any = channel.unary_unary("/test/Ping")
                await ping(b"", timeout=30)
        self._served += 1
        if self._served % (CONNECTIONS // RENEWALS) == 0:
            async with self._renewing:
                await asyncio.to_thread(self._renew)

    def _renew(self) -> None:
        issued = self._authority.issue_agent(
            self._folder.prepare_renewal(),
            host="web-1",
            generation=1,
            now=datetime.now(UTC),
            lifetime=timedelta(days=7),
        )
        self._folder.install(self._authority.chain_of(issued))


async def _echo(request: bytes, _: object) -> bytes:
    return request


async def main(work: Path) -> None:
    """Serve, load, and say what was seen."""
    authority = new_authority(work / "authority")
    credentials, _ = certified_agent(authority)
    folder = KeyFolder.create(
        work / "keys", key_pem=credentials.key_pem, chain_pem=credentials.chain_pem, ca_pem=authority.ca_pem
    )
    seen = set[bytes]()

    def source() -> tls.Credentials:
        served = folder.credentials()
        seen.add(served.chain_pem)
        return served

    server = grpc.aio.server(interceptors=[guard.RoleGuard({Role.CONTROLLER}, guard.DenyList())])
    handler: Any = grpc.unary_unary_rpc_method_handler(_echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Ping": handler}),))
    port = server.add_secure_port("127.0.0.1:0", tls.server_credentials(source))
    await server.start()
    await Load(authority, folder).run(f"127.0.0.1:{port}")
    await server.stop(0)
    print(f"connections {CONNECTIONS}, certificates {len(seen)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(main(Path(made)))
