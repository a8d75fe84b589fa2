"""The door to PostgreSQL: one question to a server through psql, which stands beside every server, answered as JSON.

Either on the host, as the user who owns the server's socket, or in the server's container through the Docker Engine.
No password is ever given: a server that lets its own system user in (peer, trust, or that user's password file) needs
none. Every question sits under a time-out on both ends. Leaves to others: which server (postgres), what is asked.

Sources: psql(1); PostgreSQL documentation, "Connection Strings" and "Server Signalling Functions".
"""

import json
import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from fireline_agent.hands import docker
from fireline_agent.hands.printable import printable

APPLICATION: Final = "fireline"  # what we are called in pg_stat_activity
STATEMENT_TIMEOUT_S: Final = 8
_CONNECT_TIMEOUT_S: Final = 4  # libpq doubles nothing: one socket, one address
_TIMEOUT_S: Final = STATEMENT_TIMEOUT_S + _CONNECT_TIMEOUT_S + 2.0
_MAX_COMPLAINT: Final = 400  # characters of what psql says
_NO_PROGRAM: Final = (126, 127)  # of the exec, where the container has no psql

# What libpq and the server say, in their English; another language is told as `failed`, with the server's own words.
_SIGNS: Final = (
    ("too many clients", "full"),
    ("remaining connection slots are reserved", "full"),
    ("too many connections for", "full"),
    ("the database system is", "starting"),  # starting up, shutting down, in recovery mode, not accepting connections
    ("No such file or directory", "down"),  # in a container; on the host the socket is looked for before
    ("Connection refused", "down"),
    ("server closed the connection", "down"),
    ("timeout expired", "hung"),
    ("statement timeout", "hung"),
    ("authentication failed", "denied"),
    ("no password supplied", "denied"),
    ("no pg_hba.conf entry", "denied"),
    ("permission denied", "denied"),
    ("must be superuser", "denied"),
    ("Permission denied", "denied"),
)


class PsqlError(Exception):
    """The server could not be asked, or refused the question.

    `reason` is `absent` (no such server), `down`, `starting`, `full`, `hung`, `denied`, `barred` (we may not act as its
    user), `no_psql` or `failed`.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Place:
    """Where the server is reached, from its own machine or container, and as whom. `socket` is a folder."""

    socket: str = "/var/run/postgresql"
    port: int = 5432
    user: str = "postgres"
    database: str = "postgres"

    def conninfo(self) -> str:
        """As a connection string: the settings that hold every question in bounds included."""
        options = f"-c statement_timeout={STATEMENT_TIMEOUT_S}s -c lock_timeout=2s -c timezone=UTC"
        parts = {
            "host": self.socket,
            "port": str(self.port),
            "user": self.user,
            "dbname": self.database,
            "application_name": APPLICATION,
            "connect_timeout": str(_CONNECT_TIMEOUT_S),
            "options": options,
        }
        return " ".join(f"{key}={_quoted(value)}" for key, value in parts.items())

    def command(self, program: str, statement: str) -> tuple[str, ...]:
        """The command that asks: no start-up file, no password prompt, one value and nothing else on its output."""
        flags = ("-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1")
        return (program, *flags, "-d", self.conninfo(), "-c", statement)


class Server(Protocol):
    """One PostgreSQL server that can be asked."""

    @property
    def name(self) -> str:
        """For people: `container db` or `/var/run/postgresql:5432`."""

    def ask(self, statement: str) -> Any:
        """The one JSON value that the statement yields, None where it yields nothing.

        Raises:
            PsqlError: it could not be asked, or refused.
        """

    def pid(self) -> int | None:
        """The server's first process, as the host counts; None where it is not known."""


@dataclass(frozen=True)
class LocalServer:
    """A server on this host, by its socket."""

    place: Place

    @property
    def name(self) -> str:
        """The folder of its socket, and the port."""
        return f"{self.place.socket}:{self.place.port}"

    def ask(self, statement: str) -> Any:
        """See Server."""
        program = _program()
        if program is None:
            raise PsqlError(f"{self.name}: no psql on this host (looked in {', '.join(_PLACES)})", reason="no_psql")
        try:
            ended = subprocess.run(
                self.place.command(str(program), statement),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT_S,
                cwd="/",
                check=False,
                **self._as_owner(),
            )
        except subprocess.TimeoutExpired:
            raise PsqlError(f"{self.name}: no answer within {_TIMEOUT_S:g} s", reason="hung") from None
        except PermissionError:
            raise PsqlError(f"{self.name}: the agent may not act as the server's own user", reason="barred") from None
        except OSError as error:
            raise PsqlError(f"{self.name}: {program} can't be started: {error.strerror}", reason="no_psql") from None
        return _answer(self.name, ended.returncode, ended.stdout, ended.stderr)

    def pid(self) -> int | None:
        """By the lock file beside the socket, whose first line it is (PostgreSQL's miscinit.c)."""
        try:
            with (Path(self.place.socket) / f".s.PGSQL.{self.place.port}.lock").open() as file:
                return int(file.readline(20))
        except (OSError, ValueError):
            return None

    def _as_owner(self) -> Mapping[str, Any]:
        """Run as whoever owns the socket: the server's own user, whom it knows without a password."""
        environment = {"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"}
        try:
            owner = pwd.getpwuid((Path(self.place.socket) / f".s.PGSQL.{self.place.port}").stat().st_uid)
        except OSError as error:
            raise PsqlError(f"{self.name}: no server's socket there ({error.strerror})", reason="absent") from None
        except KeyError:
            raise PsqlError(f"{self.name}: the socket's owner is no user of this host", reason="denied") from None
        if os.geteuid() != 0:
            return {"env": environment}
        identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        return {"env": environment | {"HOME": owner.pw_dir}, **identity}


@dataclass(frozen=True)
class ContainerServer:
    """A server in a running container, asked by the psql inside."""

    docker_socket: Path
    container: str
    container_name: str
    place: Place

    @property
    def name(self) -> str:
        """The container's name."""
        return f"container {self.container_name}"

    def ask(self, statement: str) -> Any:
        """See Server."""
        argv = self.place.command("psql", statement)
        try:
            with docker.connect(self.docker_socket, timeout_s=_TIMEOUT_S) as engine:
                status, output, complaint = _executed(engine, self.container, argv)
        except docker.EngineAbsent as absent:
            raise PsqlError(f"{self.name}: {absent}", reason="absent") from None
        except docker.EngineError as error:
            reason = "hung" if error.reason == "timeout" else "failed"
            raise PsqlError(f"{self.name}: {error}", reason=reason) from None
        return _answer(self.name, status, output, complaint)

    def pid(self) -> int | None:
        """The container's first process, by the engine's word."""
        try:
            with docker.connect(self.docker_socket) as engine:
                state = engine.inspect(self.container).get("State")
        except (docker.EngineAbsent, docker.EngineError):
            return None
        pid = state.get("Pid") if isinstance(state, dict) else None
        return pid if isinstance(pid, int) and pid > 1 else None


def _executed(engine: docker.Engine, container: str, argv: Sequence[str]) -> tuple[int, bytes, bytes]:
    """As the system user `postgres`; as the container's own where its image has none."""
    status, output, complaint = engine.execute(container, argv, user="postgres")
    if status in _NO_PROGRAM and b"unable to find user" in output + complaint:
        return engine.execute(container, argv, user="")
    return status, output, complaint


def _answer(name: str, status: int, output: bytes, complaint: bytes) -> Any:
    if status in _NO_PROGRAM:
        raise PsqlError(f"{name}: no psql in there: {_words(output + complaint)}", reason="no_psql")
    if status != 0:
        said = _words(complaint)
        reason = next((reason for sign, reason in _SIGNS if sign in said), "failed")
        raise PsqlError(f"{name}: {said or f'psql ended with status {status}'}", reason=reason)
    try:
        return json.loads(output) if output.strip() else None
    except (ValueError, RecursionError):
        raise PsqlError(f"{name}: wanted JSON from psql, found {_words(output)!r}", reason="failed") from None


def _words(raw: bytes) -> str:
    return printable(" ".join(raw.decode(errors="replace").split()), limit=_MAX_COMPLAINT)


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


_PLACES: Final = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/usr/bin",
    "/usr/local/bin",
)


def _program() -> Path | None:
    """The newest psql of the usual places; never PATH: on a suspect host another program may stand there."""
    for pattern in _PLACES:
        found = sorted(Path("/").glob(f"{pattern[1:]}/psql"), key=lambda path: (len(str(path)), str(path)))
        if found:
            return found[-1]
    return None
