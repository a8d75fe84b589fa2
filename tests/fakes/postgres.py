"""A real PostgreSQL of the tests' own, in a temporary folder, on a unix socket only."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

_HOME = Path("/usr/lib/postgresql")


def binaries() -> Path | None:
    """The folder of the newest server's programs; None where there is none, or no user that may run them."""
    found = sorted(_HOME.glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    return found[-1].parent if found and (os.getuid() != 0 or _owner()) else None


def _owner() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


class PostgresServer:
    """A running server with one database."""

    def __init__(self, programs: Path, folder: Path, user: str | None, settings: str) -> None:
        self.folder = folder
        self._programs = programs
        self._user = user
        self._settings = settings

    def run(self, program: str, *arguments: str) -> None:
        """Run one of the server's programs as the server's user (it refuses to run as root)."""
        subprocess.run(
            [str(self._programs / program), *arguments],
            user=self._user,
            cwd=self.folder,
            env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=50,
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        # The listener's names say "nowhere on the network"; fsync stays on, since durability is under test.
        options = f"-k {self.folder} -c listen_addresses='' {self._settings} -c shared_buffers=16MB"
        log = str(self.folder / "log")
        self.run("pg_ctl", "start", "-w", "-D", str(self.folder / "data"), "-l", log, "-o", options)

    def stop(self) -> None:
        """Stop it as a power cut would, without waiting for anybody."""
        self.run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self.folder / "data"))

    @property
    def url(self) -> str:
        """The URL of the server's database."""
        return f"postgresql://fireline@/postgres?host={self.folder}"

    def empty(self) -> str:
        """Empty the database, whoever is still on it, and give its URL.

        One database for all tests: each new one is 300 files, which a crash test and the clean-up then have to sync.
        """
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return self.url


@contextmanager
def running(programs: Path, *, settings: str = "-c max_connections=40") -> Iterator[PostgresServer]:
    """A server for as long as the block; nothing is left of it."""
    made = ("initdb", "-U", "fireline", "-A", "trust", "-E", "UTF8", "--no-sync")
    with _started(programs, settings, made) as server:
        yield server


@contextmanager
def standby(programs: Path, primary: PostgresServer) -> Iterator[PostgresServer]:
    """A server that streams from another one, for as long as the block; nothing is left of it."""
    made = ("pg_basebackup", "-h", str(primary.folder), "-U", "fireline", "-R", "-c", "fast")
    with _started(programs, "-c max_connections=40", made) as server:
        yield server


@contextmanager
def _started(programs: Path, settings: str, made_by: tuple[str, ...]) -> Iterator[PostgresServer]:
    folder = Path(tempfile.mkdtemp(prefix="fireline-pg-"))
    owner = _owner() if os.getuid() == 0 else None
    if owner is not None:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    server = PostgresServer(programs, folder, owner.pw_name if owner else None, settings)
    try:
        server.run(*made_by, "-D", str(folder / "data"))
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
