"""What every bench stands on: a temporary authority, certificates for so many agents, and the compiled stand-ins."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fireline_controller import pki, state
from fireline_controller.hosts import Command
from fireline_controller.model import Host
from fireline_controller.store import Transaction
from fireline_wire.tls import Credentials
from tests.lab import Process

BIN = Path(sys.executable).parent
GENERATION = 1
LIFETIME = timedelta(hours=2)
_HERE = Path(__file__).parent
_HOSTS_IN_A_NETWORK = 250
_FIRST_ADDRESS = "127.77.0.1"
_FOLDER = re.compile(r"fireline-bench-(\d+)-(\d+)-")  # and who made it: its pid and when that started


@dataclass(frozen=True)
class Grounds:
    """A folder with `ca.pem`, `controller.key`, `controller.pem`, `agents.key`, `agents.pem` (a leaf for each host).

    `state` in it is a controller's state folder that has all hosts enrolled.
    """

    folder: Path
    hosts: tuple[Host, ...]

    @classmethod
    def load(cls, folder: Path) -> "Grounds":
        """What another process laid in this folder."""
        raw = json.loads((folder / "hosts.json").read_text())
        return cls(folder, tuple(_host(name, address, raw["at"], raw["until"]) for name, address in raw["hosts"]))

    def controller(self) -> Credentials:
        """The controller's credentials."""
        names = ("controller.key", "controller.pem", "ca.pem")
        return Credentials(*((self.folder / name).read_bytes() for name in names))

    def agent_chain(self, number: int) -> bytes:
        """The chain of one agent, which serves it with `agents.key`."""
        leaf = x509.load_pem_x509_certificates((self.folder / "agents.pem").read_bytes())[number]
        return leaf.public_bytes(serialization.Encoding.PEM) + (self.folder / "ca.pem").read_bytes()

    @property
    def addresses(self) -> Path:
        """The file that the C programs read."""
        return self.folder / "addresses"


@contextmanager
def laid(agents: int) -> Iterator[Grounds]:
    """Make the grounds in a temporary folder, away again at the end; a killed run's is removed by the next."""
    _sweep()
    port = _free_port()  # two runs at once don't meet
    owner = Process.of(os.getpid())
    with tempfile.TemporaryDirectory(prefix=f"fireline-bench-{owner.pid}-{owner.started}-") as name:
        folder = Path(name)
        now = datetime.now(UTC)
        made = state.make(folder / "state", operator="bench", now=now)
        assert made is not None
        places = [
            (f"h{n}", f"127.{77 + n // 62500}.{n // _HOSTS_IN_A_NETWORK % 250}.{n % _HOSTS_IN_A_NETWORK + 1}:{port}")
            for n in range(agents)
        ]
        _write_keys(folder, made.authority, [name for name, _ in places], now)
        (folder / "addresses").write_text("".join(f"{address.replace(':', ' ')}\n" for _, address in places))
        raw = {"hosts": places, "at": now.isoformat(), "until": (now + LIFETIME).isoformat()}
        (folder / "hosts.json").write_text(json.dumps(raw))
        grounds = Grounds.load(folder)
        _enrol(made, grounds.hosts)
        yield grounds


def compiled(folder: Path, name: str) -> Path:
    """Compile one of the C programs of this package into a folder.

    Raises:
        RuntimeError: there is no compiler, or it failed; the message carries its words.
    """
    if shutil.which("gcc") is None:
        raise RuntimeError("the benches need gcc and OpenSSL's headers (Debian: gcc libssl-dev)")
    program = folder / name
    if not program.exists():
        argv = ["gcc", "-O2", "-o", str(program), str(_HERE / f"{name}.c"), "-lssl", "-lcrypto"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name}.c: {done.stderr}")
    return program


@contextmanager
def stand_ins(grounds: Grounds, kind: str, *, mute_every: int = 0, mute_how: str = "call") -> Iterator[None]:
    """Serve every address of the grounds: `grpc` answers the pings of a session, `echo` sends bytes back.

    With `mute_every` each so-many-th takes connections and never answers: no `call`, or not even `tls`.
    """
    folder = grounds.folder
    argv = [
        str(compiled(folder, "fast_agents")),
        *(str(folder / f) for f in ("agents.key", "ca.pem", "agents.pem", "addresses")),
    ]
    with subprocess.Popen(
        [*argv, kind, str(mute_every), mute_how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as served:
        assert served.stdout is not None
        try:
            if served.stdout.readline() != b"ready\n":
                raise RuntimeError("the stand-ins did not start: is the port taken on 127.77.0.0/16?")
            yield
        finally:
            assert served.stdin is not None
            served.stdin.close()  # which ends it


def dies_with_us(argv: Sequence[str | Path]) -> list[str | Path]:
    """The command, such that the kernel kills it with the process that starts it, however that ends."""
    return ["setpriv", "--pdeathsig", "KILL", *argv]


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).iterdir():
        found = _FOLDER.match(folder.name)
        if found and not Process(int(found[1]), int(found[2])).is_alive():
            shutil.rmtree(folder, ignore_errors=True)  # another may sweep it at the same time


def _free_port() -> int:
    with socket.create_server((_FIRST_ADDRESS, 0)) as server:
        return int(server.getsockname()[1])


def _enrol(opened: state.State, hosts: tuple[Host, ...]) -> None:
    def record(tx: Transaction) -> None:
        for host in hosts:
            tx.put_host(host)

    store = opened.open_store()
    try:
        store.run_now(record)
    finally:
        store.close()


def _write_keys(folder: Path, authority: pki.Authority, names: list[str], now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())  # one for all: making a thousand is not what is measured
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    pem = request.public_bytes(serialization.Encoding.PEM)
    leaves = [
        authority.issue_agent(pem, host=name, generation=GENERATION, now=now, lifetime=LIFETIME).pem for name in names
    ]
    own = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files = {
        "agents.key": own,
        "agents.pem": "".join(leaves).encode(),
        "ca.pem": authority.ca_pem,
        "controller.key": authority.controller.key_pem,
        "controller.pem": authority.controller.chain_pem,
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _host(name: str, address: str, at: str, until: str) -> Host:
    return Host(
        name=name,
        address=address,
        labels={},
        generation=GENERATION,
        enrolled_at=datetime.fromisoformat(at),
        certificate_serial="0",
        certificate_not_after=datetime.fromisoformat(until),
    )


def command() -> Command:
    """A no-op that nobody has sent before."""
    now = time.time_ns()
    return Command(
        request_id=f"bench-{now}",
        operation_id=f"op-{now}",
        incident_id="",
        operator="bench",
        reason="measuring",
        deadline=datetime.now(UTC) + timedelta(seconds=30),
        fence_token=now,
    )
