"""The second act of the demo: an intruder's session dies, another host says that it is dark, and all is put back."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.fleet import Fleet
from tests.lab import Vantage

_BACKDOOR_PORT = 4444
_PATIENCE_S = 1.0

Show = Callable[..., None]
Say = Callable[[str], None]


def cut_off(fleet: Fleet, name: str, incident: str, *, show: Show, say: Say) -> bool:
    """Isolate a host while an intruder talks through it, and let it back; whether all of it went as it must."""
    host = fleet.lab[name]
    intruder = fleet.lab.outsider()
    before = _ruleset(host.vantage)
    with _session(host.vantage, intruder) as (inside, outside):
        say(f"an intruder at {intruder.address} holds a session into {name}: it answers {_said(outside, inside)!r}")
        show(fleet, "isolate", "-t", name, "--reason", "intruder has a session", "-i", incident, "--now")
        died = _said(outside, inside) == ""
        say(f"the intruder's session: {'dead' if died else 'STILL ALIVE'}")
    knocked = _knocks(intruder, host.address, 7700)
    say(f"the intruder knocks at the agent's port: {'an ANSWER' if knocked else 'no answer'}")
    show(fleet, "isolation", "status")
    show(fleet, "release", "-t", name, "--reason", "session is gone, host was rebuilt")
    same = _ruleset(host.vantage) == before
    say(f"the host's ruleset is {'byte for byte what it was' if same else 'NOT what it was'}")
    return died and not knocked and same


def _ruleset(vantage: Vantage) -> str:
    return vantage.run(["nft", "-s", "list", "ruleset"])


@contextmanager
def _session(host: Vantage, intruder: Vantage) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection from the host to the intruder, as a reverse shell makes one."""
    with intruder.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((intruder.address, _BACKDOOR_PORT))
        listener.listen()
        inside = host.socket(socket.AF_INET, socket.SOCK_STREAM)
        inside.connect((intruder.address, _BACKDOOR_PORT))
        outside, _ = listener.accept()
    for end in (inside, outside):
        end.settimeout(_PATIENCE_S)
    with inside, outside:
        yield inside, outside


def _said(outside: socket.socket, inside: socket.socket) -> str:
    """What the intruder gets when he asks for a name; nothing where the session is dead."""
    try:
        outside.sendall(b"whoami\n")
        asked = inside.recv(64)
        inside.sendall(b"root" if asked else b"")
        return outside.recv(64).decode()
    except OSError:
        return ""


def _knocks(intruder: Vantage, address: str, port: int) -> bool:
    with intruder.socket(socket.AF_INET, socket.SOCK_STREAM) as caller:
        caller.settimeout(_PATIENCE_S)
        return caller.connect_ex((address, port)) == 0
