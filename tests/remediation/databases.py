"""Trouble for a real PostgreSQL: sessions that idle in transactions, run for ever, and hold each other up."""

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from fireline_agent.remediation.action import Action
from tests.fakes.postgres import PostgresServer, binaries
from tests.remediation.rehearsal import Rehearsal


@dataclass
class Trouble:
    """A server with sessions of the test's own, all ended with it."""

    server: PostgresServer
    opened: list[psycopg.Connection[Any]] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def rehearse(self, action: Action, **given: Any) -> Rehearsal:
        """The action on this server."""
        return Rehearsal(action, {"socket": str(self.server.folder), "user": "fireline", **given})

    def session(self, application: str) -> psycopg.Connection[Any]:
        """A session that has done nothing yet."""
        self.opened.append(self._connected(application))
        return self.opened[-1]

    def _connected(self, application: str, *, within_s: float = 10) -> psycopg.Connection[Any]:
        """The server gives a connection back a moment after its client has left."""
        until = time.monotonic() + within_s
        while True:
            try:
                return psycopg.connect(f"{self.server.url}&application_name={application}", autocommit=True)
            except psycopg.OperationalError as error:
                if "too many clients" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def idle_in_transaction(self, application: str, statement: str = "select 1") -> psycopg.Connection[Any]:
        """A session that has begun a transaction and does nothing more."""
        session = self.session(application)
        session.execute("begin")
        session.execute(statement)
        return session

    def active(
        self, application: str, statement: str = "select pg_sleep(60)", *, is_in_transaction: bool = False
    ) -> psycopg.Connection[Any]:
        """A session that runs a statement in the background until it ends or is ended."""
        session = self.session(application)
        if is_in_transaction:
            session.execute("begin")

        def run() -> None:
            with contextlib.suppress(psycopg.Error):
                session.execute(statement)

        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()
        self.until(f"application_name = '{application}' and state = 'active'")
        return session

    def until(self, condition: str, *, count: int = 1, within_s: float = 10) -> None:
        """Wait until so many sessions are as the condition says."""
        until = time.monotonic() + within_s
        while self.count(condition) != count:
            assert time.monotonic() < until, f"not {count} sessions within {within_s:g} s: {condition}"
            time.sleep(0.05)

    def count(self, condition: str) -> int:
        """How many sessions are as the condition says."""
        with self._connected("test") as connection:
            row = connection.execute(f"select count(*) from pg_stat_activity where {condition}").fetchone()
        assert row is not None
        return int(row[0])

    def end(self) -> None:
        """End every session."""
        for session in self.opened:
            with contextlib.suppress(psycopg.Error):
                session.cancel()
        for thread in self.threads:
            thread.join(timeout=10)
        for session in self.opened:
            session.close()


@contextmanager
def troubled(server: PostgresServer) -> Iterator[Trouble]:
    """A server to make trouble on, without any left afterwards."""
    trouble = Trouble(server)
    try:
        yield trouble
    finally:
        trouble.end()


@contextmanager
def walsender(server: PostgresServer) -> Iterator[subprocess.Popen[bytes]]:
    """A program that streams the server's log as a replica does."""
    programs = binaries()
    assert programs is not None
    folder = server.folder / "streamed"
    folder.mkdir(exist_ok=True)
    argv = [str(programs / "pg_receivewal"), "-D", str(folder), "-h", str(server.folder), "-U", "fireline", "-w"]
    with subprocess.Popen(argv, env={"LC_ALL": "C.UTF-8"}, stderr=subprocess.DEVNULL) as streaming:
        try:
            yield streaming
        finally:
            streaming.kill()
