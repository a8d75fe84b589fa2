"""A Docker Engine that says what a test wants, over a real unix socket: answers, garbage, silence or a flood."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

# What a path is answered with: a JSON value, raw body bytes, (status, JSON value), or a function that writes itself.
Answer = Any
Routes = Mapping[str, Answer]

VERSION = {"ApiVersion": "1.41", "Version": "20.10.24"}


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: Path, routes: Routes) -> None:
        self.routes = routes
        self.asked: list[str] = []
        super().__init__(str(path), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle is part of the test."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Answer from the table; the version prefix of the path is taken off."""
        path = self.path.partition("?")[0]
        path = "/" + path.split("/", 2)[2] if path.startswith("/v1.") else path
        self.server.asked.append(path)
        answer = self.server.routes.get(path, (404, {"message": f"no such thing: {path}"}))
        if callable(answer):
            answer(self)
            self.close_connection = True
            return
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        self._send(status, body if isinstance(body, bytes) else json.dumps(body).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        """A unix peer has no address."""
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""


@contextmanager
def serve(path: Path, routes: Routes) -> Iterator[list[str]]:
    """Serve the routes on a socket; yields the paths that were asked so far."""
    server = _Server(path, {"/version": VERSION, **routes})
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def silent(path: Path) -> Iterator[None]:
    """A socket that takes connections and never says a word: a hanging engine."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(16)
        yield


def refusing(path: Path) -> None:
    """A socket file that a dead engine left behind."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def says(raw: bytes) -> Callable[[_Handler], None]:
    """An answer that is these bytes instead of HTTP."""

    def answer(handler: _Handler) -> None:
        handler.wfile.write(raw)

    return answer


def flood(handler: _Handler) -> None:
    """An answer without end."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b'["' + b"x" * (1 << 20))


def hang(handler: _Handler) -> None:
    """No answer until the client goes away."""
    handler.connection.recv(1)
