"""Stores to run a contract on: SQLite in a file, and a real PostgreSQL where its server is installed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fireline_controller.store import Store
from tests.fakes import postgres

KEY = ec.generate_private_key(ec.SECP256R1())

Opener = Callable[[], Store]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    """One server for all tests of the session."""
    programs = postgres.binaries()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed here")
    with postgres.running(programs) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, one test after the other on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: postgres.PostgresServer = request.getfixturevalue("postgres_server")
    return server.empty()


@pytest.fixture
def anchor_path(tmp_path: Path) -> Path:
    """Where the test's anchor is."""
    return tmp_path / "journal.anchor"


@pytest.fixture
def open_store(store_url: str, anchor_path: Path) -> Iterator[Opener]:
    """Opens the test's store, as often as wanted, as programs after each other or at once would."""
    opened: list[Store] = []

    def opener() -> Store:
        opened.append(Store.open(store_url, journal_key=KEY, anchor_path=anchor_path))
        return opened[-1]

    yield opener
    for one in opened:
        one.close()


@pytest.fixture
def store(open_store: Opener) -> Store:
    """The test's store, empty."""
    return open_store()
