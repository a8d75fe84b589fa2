"""One host with everything that an isolation could leak through, and those that it could leak to."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from fireline_agent.hands.namespaces import entered
from tests.isolation.passing import V4, V6, address
from tests.lab import IMAGE, Host, Lab, Vantage, engine
from tests.lab.annexes import Tunnel

AGENT_PORT = 7700
PUBLISHED_IMAGE, PUBLISHED_SERVICE = "fireline-lab/published:1", "shop"
PUBLISHED_PORT, HOST_NETWORK_PORT = 18080, 18081
ALLOWED_PORT = 2222  # of the outsider, for both protocols, when an order says so
_BRIDGE_CALLS = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


@dataclass(frozen=True)
class Session:
    """Both ends of a connection that stood before the isolation; the near one is on the isolated host."""

    near: socket.socket
    far: socket.socket


@dataclass
class World:
    """The isolated host, its parts, and the places around it."""

    host: Vantage
    outsider: Vantage
    controller: Vantage
    eth1: Vantage
    backyard: Vantage  # what eth1 leads to
    guest: Vantage
    tunnel: Tunnel
    one: Vantage  # two containers on the engine's own bridge
    two: Vantage
    published: Vantage  # a third one, which serves the web at the host's PUBLISHED_PORT
    lab_host: Host
    sessions: dict[str, Session] = field(default_factory=dict)
    _bridge_lock: threading.Lock = field(default_factory=threading.Lock)
    _stack: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def around(cls, lab: Lab, host: Host) -> "World":
        """Give a host with an engine all of it; a context manager."""
        with ExitStack() as stack:
            tunnel = stack.enter_context(host.tunnel())
            eth1, backyard = host.second_uplink()
            _run(host, "one", "sleep", "9999")
            _run(host, "two", "sleep", "9999")
            engine.docker(host, "tag", IMAGE, PUBLISHED_IMAGE)
            web = ("httpd", "-f", "-h", "/etc", "-p")
            service = ("-p", f"{PUBLISHED_PORT}:80", "--label", f"com.docker.compose.service={PUBLISHED_SERVICE}")
            _run(host, "published", *web, "80", options=service, image=PUBLISHED_IMAGE)
            _run(host, "on-host", *web, str(HOST_NETWORK_PORT), options=("--net", "host"))
            made = cls(
                host=host.vantage,
                outsider=lab.outsider(),
                controller=lab.controller,
                eth1=eth1,
                backyard=backyard,
                guest=host.guest("macvlan"),
                tunnel=tunnel,
                one=engine.container(host, "one"),
                two=engine.container(host, "two"),
                published=engine.container(host, "published"),
                lab_host=host,
            )
            made._stack = stack.pop_all()
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hang_up()
        self._stack.close()

    def ruleset(self) -> str:
        """The host's rules as anybody finds them, without counters."""
        return self.host.run(["nft", "-s", "list", "ruleset"])

    @contextmanager
    def bridge_calls(self, number: int) -> Iterator[None]:
        """Let the host's bridges show their packets to iptables, or not; one at a time."""
        with self._bridge_lock, entered(str(self.host.netns)):  # the file is that of the thread's namespace
            before = _BRIDGE_CALLS.read_text()
            _BRIDGE_CALLS.write_text(str(number))
            try:
                yield
            finally:
                _BRIDGE_CALLS.write_text(before)

    def connect(self) -> None:
        """Let fresh sessions stand, in the place of those of before."""
        self._hang_up()
        for family, word in ((V4, "IPv4"), (V6, "IPv6")):
            self.sessions[f"from the host, {word}"] = self._session(self.host, self.outsider, family, near_first=True)
            self.sessions[f"to the host, {word}"] = self._session(self.outsider, self.host, family, near_first=False)
        for place in (self.one, self.published, self.guest):
            self.sessions[f"from {place.name}"] = self._session(place, self.outsider, V4, near_first=True)

    def _hang_up(self) -> None:
        for session in self.sessions.values():
            session.near.close()
            session.far.close()
        self.sessions.clear()

    def _session(self, client: Vantage, server: Vantage, family: int, *, near_first: bool) -> Session:
        with server.socket(family, socket.SOCK_STREAM) as listener:
            listener.bind((address(server, family), 0))
            listener.listen()
            listener.settimeout(10)
            caller = client.socket(family, socket.SOCK_STREAM)
            caller.settimeout(10)
            caller.connect(listener.getsockname()[:2])
            accepted, _ = listener.accept()
        return Session(caller, accepted) if near_first else Session(accepted, caller)


def _run(host: Host, name: str, *command: str, options: tuple[str, ...] = (), image: str = IMAGE) -> None:
    engine.docker(host, "run", "-d", "--pull", "never", "--name", name, *options, image, *command)
