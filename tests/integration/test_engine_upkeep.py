"""Renewal, removal and labels beside one another, with hosts that lie or are away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from fireline_agent import keys
from fireline_controller import state
from fireline_controller.daemon import Controller
from fireline_controller.engine import TargetSpec, Wish
from fireline_controller.model import Host, HostFailed, HostOutcome, NotFound, Outcome, PolicyError
from fireline_wire import tls
from fireline_wire.identity import CONTROLLER_DNS
from fireline_wire.status import Refusal
from fireline_wire.v1 import control_pb2, control_pb2_grpc, host_pb2
from tests.fakes.desk import Desk, desk, now


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Desk]:
    """A controller with two hosts whose certificates are due."""
    async with desk(tmp_path / "state") as made:
        for name in ("db1", "web1"):
            await made.enrol(name)
            await make_due(made, name)
        yield made


async def make_due(made: Desk, name: str) -> None:
    """Let the record say that little of the certificate's life is left."""
    host = await host_of(made, name)
    certificate = await made.store.read(lambda tx: tx.certificate(host.certificate_serial))
    late = replace(certificate, not_before=now() - timedelta(days=7), not_after=now() + timedelta(days=1))
    await made.store.run(lambda tx: tx.put_certificate(late))


async def host_of(made: Desk, name: str) -> Host:
    """A host by the record."""
    return await made.store.read(lambda tx: tx.host(name))


def request() -> bytes:
    """An honest signing request for a fresh key."""
    return keys.signing_request(keys.new_key())


async def test_a_lying_host_holds_up_no_other_renewal(two: Desk) -> None:
    """I8: a signing request that is none fails that host's renewal; the others are renewed."""
    two.agents["web1"].signing_request = request()

    assert await two.engine.upkeep.renew_due() == ["web1"]
    with pytest.raises(PolicyError, match="signing request"):
        await two.engine.upkeep.renew(await host_of(two, "db1"))


async def test_a_certificate_is_in_force_only_once_it_is_installed(two: Desk) -> None:
    """A host that refused the new certificate is asked again; else it would run into its old one's end."""
    agent, before = two.agents["web1"], await host_of(two, "web1")
    agent.signing_request = request()
    agent.install_refusal = Refusal("disk_full", "no room for a key")

    assert await two.engine.upkeep.renew_due() == []
    assert await host_of(two, "web1") == before
    with pytest.raises(HostFailed, match="web1: no room for a key"):
        await two.engine.upkeep.renew(before)

    agent.install_refusal = None
    assert await two.engine.upkeep.renew_due() == ["web1"]
    after = await host_of(two, "web1")
    assert after.certificate_serial != before.certificate_serial
    assert after.certificate_not_after > now() + timedelta(days=6)
    assert await two.engine.upkeep.renew_due() == [], "nothing is due now but the one that lies"


async def test_what_changed_during_a_renewal_stays_changed(two: Desk) -> None:
    """A label that was set and a host that was removed while its agent was slow to install are not undone."""
    web1, db1 = two.agents["web1"], two.agents["db1"]
    web1.signing_request = db1.signing_request = request()
    web1.delay_s = db1.delay_s = 0.3
    renewing = asyncio.ensure_future(two.engine.upkeep.renew_due())
    await web1.called.wait()
    await db1.called.wait()
    _, hosts = await two.engine.operations.resolve(TargetSpec(("web1",)))
    await two.engine.hosts.label(hosts, put={"role": "web"}, drop=(), operator="alice", reason="")
    await two.engine.hosts.remove("db1", operator="alice", reason="gone")
    await renewing

    assert (await host_of(two, "web1")).labels == {"role": "web"}
    assert (await host_of(two, "db1")).removed
    usable = [c for c in await two.store.read(lambda tx: tx.certificates()) if "db1" in c.identity and not c.revoked_at]
    assert usable == [], "a removed host has no certificate that counts"


async def test_labelling_does_not_bring_back_a_removed_host(two: Desk) -> None:
    """The hosts were looked up before one of them was removed."""
    _, hosts = await two.engine.operations.resolve(TargetSpec(("all",)))
    await two.engine.hosts.remove("db1", operator="alice", reason="gone")

    changed = await two.engine.hosts.label(hosts, put={"role": "db"}, drop=(), operator="alice", reason="")

    assert [h.name for h in changed] == ["web1"]
    with pytest.raises(NotFound, match="host db1 was removed"):
        await two.engine.hosts.get("db1")


async def test_a_removed_host_is_watched_no_more(two: Desk) -> None:
    """The watch ends by itself, without a word in the journal and without a new connection."""
    watching = asyncio.ensure_future(two.engine.upkeep.watch(await host_of(two, "web1")))
    await asyncio.wait_for(two.agents["web1"].watched.wait(), 5)

    await two.engine.hosts.remove("web1", operator="alice", reason="gone")
    await asyncio.wait_for(watching, 5)

    kinds = [line.entry.kind for line in await two.store.read(lambda tx: tx.lines()) if line.entry.host == "web1"]
    assert kinds == ["host.removed"]


async def test_a_host_is_told_the_deny_list_when_it_comes_into_sight(two: Desk) -> None:
    """Each new stream begins with it: what was revoked while the host was out of sight counts there too."""
    await two.engine.hosts.remove("db1", operator="alice", reason="gone")
    agent = two.agents["web1"]
    watching = asyncio.ensure_future(two.engine.upkeep.watch(await host_of(two, "web1")))
    try:
        async with asyncio.timeout(5):
            while not (told := [r for r in agent.asked if isinstance(r, host_pb2.SetDenyListRequest)]):  # noqa: ASYNC110 - it has no event for this
                await asyncio.sleep(0.01)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    version, serials = await two.store.read(lambda tx: tx.denied())
    assert (told[0].version, frozenset(told[0].serials_hex)) == (version, serials)
    assert len(serials) == 1


async def test_a_daemon_renews_its_own_certificates_while_it_works(tmp_path: Path) -> None:
    """Old connections go on, new ones and new receipts are under the new certificates, and nothing is due after."""
    state.make(tmp_path / "state", operator="alice", now=now() - timedelta(days=80))
    async with desk(tmp_path / "state") as made:
        await made.enrol("web1")
        controller = Controller(made.opened, made.store)
        server = await controller.serve_control(f"unix:{tmp_path}/control.sock")
        try:
            async with operator(made, tmp_path) as early:
                assert len((await early.ListHosts(control_pb2.ListHostsRequest())).hosts) == 1
                before = controller.authority
                await controller.renew_own()
                assert controller.authority is not before
                assert controller.authority.controller.key_pem == before.controller.key_pem
                assert controller.authority.controller.chain_pem != before.controller.chain_pem
                async with operator(made, tmp_path) as late:
                    for stub in (early, late):
                        assert len((await stub.ListHosts(control_pb2.ListHostsRequest())).hosts) == 1
            news = [n async for n in controller.engine.capture(Wish("alice", TargetSpec(("all",))), "initial")]
            (outcome,) = [n for n in news if isinstance(n, HostOutcome)]
            assert outcome.outcome is Outcome.OK, outcome.detail
            assert (await controller.engine.records.verify(outcome.evidence_id, operator="alice")).problems == ()
            present = controller.authority
            await controller.renew_own()
            assert controller.authority is present
        finally:
            await server.stop(0)
            await controller.close()


@asynccontextmanager
async def operator(made: Desk, folder: Path) -> AsyncIterator[control_pb2_grpc.ControlStub]:
    """An operator's connection of its own."""
    options = [("grpc.ssl_target_name_override", CONTROLLER_DNS), ("grpc.use_local_subchannel_pool", 1)]
    credentials = tls.channel_credentials(made.authority.operator)
    async with grpc.aio.secure_channel(f"unix:{folder}/control.sock", credentials, options=options) as channel:
        yield control_pb2_grpc.ControlStub(channel)
