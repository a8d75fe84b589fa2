"""Evidence on its way: a real agent with a sealed capture of a wanted size, and the controller that fetches it."""

import hashlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path

from fireline_agent.capture.order import Folder, key
from fireline_agent.capture.spool import Sealed
from fireline_controller import state
from fireline_controller.config import Fanout
from fireline_controller.hosts import Command, Fleet, HostClient
from fireline_controller.store import StoredChunks
from fireline_controller.vault import ChunkRange, Vault
from fireline_wire.manifest import Artifact
from fireline_wire.transfer import CHUNK_BYTES
from tests.bench.floors import resident_peak_of
from tests.bench.grounds import BIN, Grounds, command, dies_with_us
from tests.bench.transfers import Meter, Moved
from tests.lab import eventually

CAPTURE = "bench-transfer"
_IDLE_S = 30.0
_LIMIT = 64 << 30


async def fetch_bare(grounds: Grounds, *, total_bytes: int) -> Moved:
    """Fetch every chunk and forget it."""
    with serving(grounds, total_bytes) as (agent, _):
        async with _client(grounds) as client:
            return await _fetch_all(client, agent, total_bytes)


async def fetch_kept(grounds: Grounds, *, total_bytes: int) -> Moved:
    """Fetch into the vault: whole and chunks hashed and compared, written, fsynced, renamed and indexed."""
    opened = state.open_state(grounds.folder / "state")
    store = opened.open_store()
    try:
        with serving(grounds, total_bytes) as (agent, artifact):
            async with _client(grounds) as client:
                vault = Vault(grounds.folder / f"vault-{os.getpid()}", StoredChunks(store))
                try:
                    return await _keep_all(client, vault, agent, artifact)
                finally:
                    vault.close()
    finally:
        store.close()


async def _fetch_all(client: HostClient, agent: int, total_bytes: int) -> Moved:
    asked = command()
    await client.describe(timeout_s=10)
    ranges = (ChunkRange("disk.img", 0, total_bytes // CHUNK_BYTES),)
    measured, far = Meter(), resident_peak_of(agent)
    got = 0
    async for data in client.fetch_chunks(asked, CAPTURE, ranges, idle_s=_IDLE_S):
        got += len(data)
    return measured.moved(got, far_grown_bytes=resident_peak_of(agent) - far)


async def _keep_all(client: HostClient, vault: Vault, agent: int, artifact: Artifact) -> Moved:
    asked: Command = command()
    await client.describe(timeout_s=10)
    measured, far = Meter(), resident_peak_of(agent)
    async with vault.receive(asked.request_id, (artifact,), envelope=b"{}") as receiving:
        for wanted in iter([await receiving.wanted()]):
            async for data in client.fetch_chunks(asked, CAPTURE, wanted, idle_s=_IDLE_S):
                await receiving.keep(data)
        await receiving.finish()
    return measured.moved(artifact.size, far_grown_bytes=resident_peak_of(agent) - far)


@asynccontextmanager
async def _client(grounds: Grounds) -> AsyncIterator[HostClient]:
    credentials = grounds.controller()
    fleet = Fleet(lambda: credentials, settings=Fanout())
    try:
        yield fleet.client(grounds.hosts[0])
    finally:
        await fleet.close()


@contextmanager
def serving(grounds: Grounds, total_bytes: int) -> Iterator[tuple[int, Artifact]]:
    """Run the installed agent for the first host, with the capture in its spool; its pid and the artifact."""
    folder = grounds.folder / f"agent-{os.getpid()}"
    config = lay_agent(grounds, folder, total_bytes=total_bytes)
    with agent_process(config, folder / "agent.log") as pid:
        yield pid, _artifact(folder)


def lay_agent(grounds: Grounds, folder: Path, *, total_bytes: int) -> Path:
    """An agent's state folder with keys, one sealed capture of this size, and settings; the path of the settings."""
    _lay(grounds, folder, total_bytes)
    settings = {"listen": grounds.hosts[0].address, "state": str(folder), "policy": str(folder / "policy.toml")}
    limits = {"spool_limit_bytes": _LIMIT, "spool_reserve_bytes": 0, "spool_aside_bytes": 0}
    config = folder / "agent.toml"
    config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in (settings | limits).items()))
    return config


@contextmanager
def agent_process(config: Path, log: Path) -> Iterator[int]:
    """Run the installed agent until the block ends.

    Raises:
        RuntimeError: it ended before it was ready; the message carries its log.
    """
    with (
        log.open("wb") as out,
        subprocess.Popen(
            dies_with_us([BIN / "fireline-agent", "run", "--config", config]), stdout=out, stderr=out
        ) as agent,
    ):
        try:
            eventually(
                lambda: '"serving"' in log.read_text() or agent.poll() is not None, within_s=20, what="the agent"
            )
            if agent.poll() is not None:
                raise RuntimeError(f"the agent did not start: {log.read_text()[-1000:]}")
            yield agent.pid
        finally:
            agent.terminate()


def _lay(grounds: Grounds, folder: Path, total_bytes: int) -> None:
    keys, capture = folder / "keys", Folder(folder / "spool" / key(CAPTURE))
    for made in (folder, keys, folder / "spool", capture.path, capture.files):
        made.mkdir(mode=0o700, exist_ok=True)
    for name, content in (
        ("agent.key", (grounds.folder / "agents.key").read_bytes()),
        ("agent.pem", grounds.agent_chain(0)),
        ("ca.pem", (grounds.folder / "ca.pem").read_bytes()),
    ):
        (keys / name).write_bytes(content)
        (keys / name).chmod(0o600)
    artifact = _write_artifact(capture.files / "0", total_bytes)
    capture.places.write_text(json.dumps({artifact.name: {"file": "0", "size": total_bytes}}))
    capture.order.write_text("{}")
    capture.manifest.write_bytes(b"{}")
    capture.sealed.write_text(json.dumps(asdict(Sealed("0" * 64, 2, 1, total_bytes, False, ""))))
    (folder / "artifact.json").write_text(json.dumps(asdict(artifact)))


def _artifact(folder: Path) -> Artifact:
    raw = json.loads((folder / "artifact.json").read_text())
    return Artifact(**{**raw, "chunks": tuple(raw["chunks"])})


def _write_artifact(path: Path, total_bytes: int) -> Artifact:
    # All chunks differ, so that none is deduplicated, and none compresses.
    filler, whole, chunks = os.urandom(CHUNK_BYTES - 8), hashlib.sha256(), []
    with path.open("wb") as file:
        for number in range(total_bytes // CHUNK_BYTES):
            data = number.to_bytes(8, "big") + filler
            whole.update(data)
            chunks.append(hashlib.sha256(data).hexdigest())
            file.write(data)
        file.flush()
        os.fsync(file.fileno())  # else its way to the disk would be measured with the transfer
    now = "2000-01-01T00:00:00Z"
    return Artifact("disk.img", total_bytes, whole.hexdigest(), tuple(chunks), "bench", str(path), "read", now, now)
