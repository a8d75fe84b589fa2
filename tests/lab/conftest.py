"""Labs for the tests of the lab itself."""

from collections.abc import Iterator

import pytest

from tests.lab import NETNS, Lab, default_backend, engine


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three hosts of namespaces, which the tests of a module share and leave healthy."""
    _need(default_backend() == NETNS, "namespaces need root and the tools of tests/lab/namespaces.py")
    with Lab(3, agent=lambda host: ["python3", "-c", AGENT, host.address]) as made:
        yield made


@pytest.fixture(scope="module")
def engine_lab() -> Iterator[Lab]:
    """One host with a Docker Engine of its own."""
    _need(default_backend() == NETNS, "namespaces need root")
    _need(not engine.lacks(), f"an engine needs {', '.join(engine.lacks())}")
    with Lab(1, engine=True) as made:
        yield made


def _need(is_there: bool, what: str) -> None:
    if not is_there:
        pytest.skip(what)


# Stands for the agent: answers each connection with its clocks.
AGENT = """
import socket, sys, time
server = socket.create_server((sys.argv[1], 7700))
while True:
    peer, _ = server.accept()
    peer.settimeout(5)
    try:
        peer.sendall(f"{time.time()} {time.monotonic()}".encode())
    except OSError:
        pass
    peer.close()
"""
