"""The door to Redis: a few commands over its own protocol, so that no secret is in an argument of any process.

Source: Redis documentation, "RESP2 protocol spec", "ACL", "CONFIG SET", "CONFIG REWRITE".
"""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from fireline_agent.hands.printable import printable

_TIMEOUT_S: Final = 10.0
_MAX_LINE: Final = 64 << 10
_MAX_BULK: Final = 8 << 20
_MAX_ITEMS: Final = 100_000
_MAX_DEPTH: Final = 8
_ARGUMENTS: Final = re.compile(r",? with args", re.IGNORECASE)


class RedisError(Exception):
    """The server can't be reached, or says no; `word` is the first word of its refusal, such as `WRONGPASS`."""

    def __init__(self, message: str, *, word: str = "") -> None:
        super().__init__(message)
        self.word = word


class Session:
    """One connection."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._held = bytearray()

    def ask(self, *words: str) -> Any:
        """The answer to one command: text, a number, a list, or None.

        Raises:
            RedisError: the server refuses it, or is no Redis. The message never holds the command's arguments.
        """
        parts = [word.encode(errors="surrogateescape") for word in words]
        self._socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts))
        return self._answer(words[0], 0)

    def log_in(self, user: str, password: str) -> None:
        """Log in; a server without a password takes anybody as `default`.

        Raises:
            RedisError: `WRONGPASS`, or `ERR` from a server that has no password at all.
        """
        self.ask("AUTH", user, password)

    def _answer(self, what: str, depth: int) -> Any:
        line = self._line()
        kind, rest = line[:1], line[1:].decode(errors="replace")
        if kind == b"+":
            return rest
        if kind == b"-":
            # To a command that it does not know (renamed, or too new) it repeats the arguments: secrets among them.
            said = _ARGUMENTS.split(rest, maxsplit=1)[0]
            raise RedisError(f"{what}: the server says {printable(said, limit=200)}", word=rest.partition(" ")[0])
        if kind not in (b":", b"$", b"*") or depth > _MAX_DEPTH:
            raise RedisError(f"{what}: this is no Redis server")
        count = _number(rest, what)
        if kind == b":" or count < 0:
            return count if kind == b":" else None
        if kind == b"$":
            return self._bulk(count, what)
        if count > _MAX_ITEMS:
            raise RedisError(f"{what}: an answer of {count} items")
        return [self._answer(what, depth + 1) for _ in range(count)]

    def _bulk(self, count: int, what: str) -> str:
        if count > _MAX_BULK:
            raise RedisError(f"{what}: an answer of {count} bytes")
        while len(self._held) < count + 2:
            self._more()
        data = bytes(self._held[:count])
        del self._held[: count + 2]
        return data.decode(errors="surrogateescape")

    def _line(self) -> bytes:
        while (end := self._held.find(b"\r\n")) < 0:
            if len(self._held) > _MAX_LINE:
                raise RedisError("this is no Redis server: a line without end")
            self._more()
        line = bytes(self._held[:end])
        del self._held[: end + 2]
        return line

    def _more(self) -> None:
        part = self._socket.recv(1 << 16)
        if not part:
            raise RedisError("the server closed the connection")
        self._held += part


def _number(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise RedisError(f"{what}: this is no Redis server") from None


@contextmanager
def connect(host: str, port: int) -> Iterator[Session]:
    """Connect to a server over the network.

    Raises:
        RedisError: it can't be reached, or breaks off.
    """
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_S) as connected:
            yield Session(connected)
    except OSError as error:
        raise RedisError(f"{host}:{port}: {error.strerror or error}") from None


def may_log_in(host: str, port: int, *, user: str, password: str) -> bool:
    """Whether the server takes this password.

    Raises:
        RedisError: it can't be reached, or has no password at all.
    """
    with connect(host, port) as session:
        try:
            session.log_in(user, password)
        except RedisError as error:
            if error.word == "WRONGPASS":
                return False
            raise
    return True
