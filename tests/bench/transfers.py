"""The floors beneath an evidence transfer: a plain Python TLS socket that receives, and one that hashes and keeps too.

The sender is a Python process as well, so that both ends are as plain as can be. 1 MiB at a time, mutual TLS 1.3.
"""

import asyncio
import hashlib
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fireline_wire.transfer import CHUNK_BYTES
from tests.bench.floors import resident_peak_of, tls_context
from tests.bench.grounds import Grounds


@dataclass(frozen=True)
class Moved:
    """So many bytes in so many seconds; CPU of the receiver, and how much the peak of memory of both ends grew."""

    total_bytes: int
    wall_s: float
    cpu_s: float
    grown_bytes: int
    far_grown_bytes: int = 0


async def socket_bare(grounds: Grounds, *, total_bytes: int) -> Moved:
    """Receive and forget."""
    return await asyncio.to_thread(_receive, grounds, total_bytes, lambda data: None)


async def socket_kept(grounds: Grounds, *, total_bytes: int) -> Moved:
    """Receive, hash the whole and every chunk, write, and fsync at the end: the work that evidence needs."""
    return await asyncio.to_thread(_receive_and_keep, grounds, total_bytes)


def _receive_and_keep(grounds: Grounds, total_bytes: int) -> Moved:
    whole, chunks = hashlib.sha256(), list[str]()
    with tempfile.TemporaryFile(dir=grounds.folder) as file:

        def keep(data: memoryview) -> None:
            if not data:
                file.flush()
                os.fsync(file.fileno())
                return
            whole.update(data)
            chunks.append(hashlib.sha256(data).hexdigest())
            file.write(data)

        return _receive(grounds, total_bytes, keep)


def _receive(grounds: Grounds, total_bytes: int, keep: Callable[[memoryview], None]) -> Moved:
    """Call `keep` for each piece, and once with nothing at the end."""
    room = memoryview(bytearray(CHUNK_BYTES))
    with _sender(grounds, total_bytes) as port, socket.create_connection(("127.0.0.1", port)) as plain:
        dns = f"{grounds.hosts[0].name}.g1.agent.fireline"
        with tls_context(grounds).wrap_socket(plain, server_hostname=dns) as peer:
            peer.sendall(b"go")
            measured = Meter()
            left = total_bytes
            while left:
                filled = _fill(peer, room[: min(left, CHUNK_BYTES)])
                keep(room[:filled])
                left -= filled
            keep(room[:0])
            return measured.moved(total_bytes)


class Meter:
    """Times a transfer from its making to `moved`."""

    def __init__(self) -> None:
        self._resident = peak_resident_bytes()
        self._cpu = time.process_time()
        self._began = time.perf_counter()

    def moved(self, total_bytes: int, *, far_grown_bytes: int = 0) -> Moved:
        """What it took until now."""
        wall, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        return Moved(total_bytes, wall, cpu, peak_resident_bytes() - self._resident, far_grown_bytes)


def peak_resident_bytes() -> int:
    """The most memory that this process ever held."""
    return resident_peak_of(os.getpid())


def _fill(peer: ssl.SSLSocket, room: memoryview) -> int:
    filled = 0
    while filled < len(room):
        got = peer.recv_into(room[filled:])
        if not got:
            raise ConnectionError(f"the sender ended after {filled} bytes of a piece")
        filled += got
    return filled


@contextmanager
def _sender(grounds: Grounds, total_bytes: int) -> Iterator[int]:
    chain = grounds.folder / "agent-0.pem"
    chain.write_bytes(grounds.agent_chain(0))
    argv = [sys.executable, "-m", "tests.bench.transfers", str(grounds.folder), str(total_bytes)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as sender:
        try:
            assert sender.stdout is not None
            yield int(sender.stdout.readline())
        finally:
            sender.kill()


def send(folder: Path, total_bytes: int) -> None:
    """Serve one receiver: print the port, send a file as an agent does, and wait until the other end closes."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(str(folder / "agent-0.pem"), str(folder / "agents.key"))
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file, socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(total_bytes // CHUNK_BYTES):
            file.write(os.urandom(CHUNK_BYTES))
        os.fsync(file.fileno())
        file.seek(0)
        print(server.getsockname()[1], flush=True)
        plain, _ = server.accept()
        with context.wrap_socket(plain, server_side=True) as peer:
            peer.recv(2)
            while piece := file.read(CHUNK_BYTES):
                peer.sendall(piece)
            peer.recv(1)


if __name__ == "__main__":
    send(Path(sys.argv[1]), int(sys.argv[2]))
