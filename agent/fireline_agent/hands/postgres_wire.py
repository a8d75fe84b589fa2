"""The door to PostgreSQL for what no command line may hold: statements with a secret in them, and trying a password.

Speaks the server's own protocol, so that the secret is in no argument, environment or file of any process. A forked
child connects to the server's socket as the user who owns it (peer), inside the server's root where that is a
container's. Leaves to others: questions without secrets (psql), what is asked.

Source: PostgreSQL documentation, "Frontend/Backend Protocol", version 3.0.
"""

import json
import os
import secrets
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands import children, scram
from fireline_agent.hands.printable import printable

_PROTOCOL: Final = 196608  # 3.0
_HEAD: Final = struct.Struct("!cI")
_MAX_MESSAGE: Final = 8 << 20
_TIMEOUT_S: Final = 10.0
_MECHANISM: Final = b"SCRAM-SHA-256"
# AuthenticationOk and the requests that are understood.
_OK, _CLEARTEXT, _SASL, _SASL_CONTINUE, _SASL_FINAL = 0, 3, 10, 11, 12
_WRONG_PASSWORD: Final = "28P01"  # noqa: S105 -- an SQLSTATE
_NO_DATABASE: Final = "3D000"  # told only to those whom the server has let in


class WireError(Exception):
    """The server could not be reached or refused; `code` is its SQLSTATE, empty where it did not answer."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Socket:
    """Where a server's socket is: a folder, as seen from `root`, which is `/proc/PID/root` for a container."""

    folder: str = "/var/run/postgresql"
    port: int = 5432
    root: str = "/"


Rows = list[list[Any]]


def execute(place: Socket, statements: Sequence[str], *, user: str, database: str = "postgres") -> list[Rows]:
    """Run statements one after another as the socket's owner; the rows of each, values as text or None.

    Raises:
        WireError: the socket is not there, the server wants a password of its owner, or a statement fails.
    """

    def work() -> bytes:
        try:
            with _as_owner(place) as connected:
                session = _Session(connected)
                session.start(user, database, password=None)
                return json.dumps({"rows": [session.query(s) for s in statements]}).encode()
        except WireError as error:
            return json.dumps({"error": str(error), "code": error.code}).encode()
        except OSError as error:
            return json.dumps({"error": error.strerror or str(error), "code": ""}).encode()

    try:
        answer = json.loads(children.output_of(work, timeout_s=_TIMEOUT_S * 2))
    except children.ChildFailed as error:
        raise WireError(f"{place.folder}: {error}") from None
    if "error" in answer:
        where = f"{place.folder}/.s.PGSQL.{place.port}"
        raise WireError(f"{where}: {printable(answer['error'], limit=400)}", code=answer["code"])
    rows: list[Rows] = answer["rows"]
    return rows


def try_password(address: tuple[str, int], *, user: str, database: str, password: str) -> str:
    """How a login over the network ends: `accepted`, `refused`, `not_asked` (the server lets anybody in from here).

    Raises:
        WireError: the server can't be reached, or asks in a way that is not SCRAM.
    """
    try:
        with socket.create_connection(address, timeout=_TIMEOUT_S) as connected:
            session = _Session(connected)
            try:
                session.start(user, database, password=password)
            except WireError as error:
                if error.code != _NO_DATABASE or not session.is_let_in:
                    raise
            return "accepted" if session.was_asked else "not_asked"
    except WireError as error:
        if error.code == _WRONG_PASSWORD:
            return "refused"
        raise
    except OSError as error:
        raise WireError(f"{address[0]}:{address[1]}: {error.strerror or error}") from None


def identifier(name: str) -> str:
    """A name quoted for a statement."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text quoted for a statement, whatever `standard_conforming_strings` says."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _as_owner(place: Socket) -> socket.socket:
    """A connection made as the owner of the socket, in the server's root. Only in a child: there is no way back."""
    # Nothing is imported from here on: in a container's root its own files would be found.
    sys.path.clear()
    if place.root != "/":
        os.chroot(place.root)
        os.chdir("/")
    os.chdir(place.folder)  # the path of a socket has 108 bytes at most
    name = f".s.PGSQL.{place.port}"
    owner = Path(name).stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.settimeout(_TIMEOUT_S)
    connected.connect(name)
    return connected


class _Session:
    """One connection; nothing that comes over it is believed in its size."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.was_asked = False
        self.is_let_in = False

    def start(self, user: str, database: str, *, password: str | None) -> None:
        settings = {"user": user, "database": database, "application_name": "fireline", "client_encoding": "UTF8"}
        words = b"".join(f"{k}\0{v}\0".encode(errors="surrogateescape") for k, v in settings.items()) + b"\0"
        body = struct.pack("!I", _PROTOCOL) + words
        self._socket.sendall(struct.pack("!I", len(body) + 4) + body)
        self._authenticate(password)
        self._until_ready()

    def query(self, statement: str) -> list[list[str | None]]:
        self._send(b"Q", statement.encode(errors="surrogateescape") + b"\0")
        rows: list[list[str | None]] = []
        for kind, body in self._until_ready():
            if kind == b"D":
                rows.append(_row(body))
        return rows

    def _authenticate(self, password: str | None) -> None:
        first, nonce = "", secrets.token_urlsafe(18)
        while True:
            kind, body = self._receive()
            if kind != b"R":
                continue
            (request,) = struct.unpack_from("!I", body)
            if request == _OK:
                self.is_let_in = True
                return
            if password is None:
                raise WireError("the server asks its own owner for a password (pg_hba.conf): let it in by peer")
            self.was_asked = True
            if request == _SASL and _MECHANISM in body[4:].split(b"\0"):
                first = scram.client_first(nonce)
                message = f"n,,{first}".encode()
                self._send(b"p", _MECHANISM + b"\0" + struct.pack("!I", len(message)) + message)
            elif request == _SASL_CONTINUE:
                self._send(b"p", _answer(password, first, body[4:], nonce))
            elif request != _SASL_FINAL:
                raise WireError(f"the server asks for a password by method {request}, not by scram-sha-256")

    def _until_ready(self) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        while True:
            kind, body = self._receive()
            if kind == b"Z":
                return found
            found.append((kind, body))

    def _send(self, kind: bytes, body: bytes) -> None:
        self._socket.sendall(_HEAD.pack(kind, len(body) + 4) + body)

    def _receive(self) -> tuple[bytes, bytes]:
        kind, length = _HEAD.unpack(self._exactly(_HEAD.size))
        if not 4 <= length <= _MAX_MESSAGE:
            raise WireError("this is no PostgreSQL server: a message has an impossible length")
        body = self._exactly(length - 4)
        if kind == b"E":
            fields = {f[:1]: f[1:].decode(errors="replace") for f in body.split(b"\0") if f}
            raise WireError(printable(fields.get(b"M", "error"), limit=300), code=fields.get(b"C", ""))
        return kind, body

    def _exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self._socket.recv(min(count - len(parts), 1 << 16))
            if not part:
                raise WireError("the server closed the connection")
            parts += part
        return bytes(parts)


def _answer(password: str, first: str, server_first: bytes, nonce: str) -> bytes:
    try:
        return scram.client_final(password, first, server_first.decode(errors="replace"), nonce).encode()
    except scram.BadExchange as error:
        raise WireError(str(error)) from None


def _row(body: bytes) -> list[str | None]:
    (count,) = struct.unpack_from("!H", body)
    at, row = 2, list[str | None]()
    for _ in range(count):
        (length,) = struct.unpack_from("!i", body, at)
        at += 4
        if length < 0:
            row.append(None)
            continue
        row.append(body[at : at + length].decode(errors="surrogateescape"))
        at += length
    return row
