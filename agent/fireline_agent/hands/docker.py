"""Asks the Docker Engine through its API. Nothing that it answers is trusted: not size, time or shape.

Changes nothing but that a container is paused and let go on, for an isolation, and runs what it is told to in a
container. The SDK costs 19 MB of memory, so it is imported when an engine is asked for the first time, in a process
that ends soon.
Leaves to others: what is asked for and what stands out.
"""

import json
import re
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

CALL_TIMEOUT_S: Final = 5.0  # a healthy engine answers in milliseconds
ANSWER_TIMEOUT_S: Final = 20.0  # a whole answer, however steadily it drips
MAX_ANSWER_BYTES: Final = 64 << 20  # parsed, this is several hundred MB: the collector's memory limit is above it
MAX_TIMEOUTS: Final = 3  # then the engine hangs, not one container: stop asking, so that what is known gets sealed
_MAX_DETAIL: Final = 200  # of the engine's own words in a message

_CONNECTIONS: Final = 32  # kept open for callers that ask from several threads
_OLDEST_API: Final = "1.24"  # the SDK's own floor
_ONE_SHOT_MINOR: Final = 41
_BODYLESS: Final = (204, 304)  # RFC 9110, section 6.4.1
_API_VERSION: Final = re.compile(r"1\.\d{1,3}\Z")
_ID: Final = re.compile(r"[0-9a-f]{64}\Z")
_FRAME: Final = struct.Struct(">B3xI")  # Docker Engine API, "Stream format" of container attach
_STREAMS: Final = {0: "stdin", 1: "stdout", 2: "stderr"}

_T = TypeVar("_T")


class EngineError(Exception):
    """The engine could not be asked, or its answer is of no use.

    `reason` is `no_sdk`, `refused`, `forbidden`, `timeout`, `too_big`, `http_status` or `garbage`.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class EngineAbsent(Exception):
    """There is no engine on this host: its socket is not there."""


def is_id(value: Any) -> bool:
    """Whether a value is a full id of a container or network: 64 hexadecimal digits."""
    return isinstance(value, str) and _ID.match(value) is not None


def called(container: Any) -> set[str]:
    """What a container of the engine's list is called: its names, its id, and its service in Compose."""
    if not isinstance(container, dict):
        return set()
    names, labels = container.get("Names"), container.get("Labels")
    service = labels.get("com.docker.compose.service") if isinstance(labels, dict) else None
    listed = [str(name).lstrip("/") for name in names] if isinstance(names, list) else []
    return {str(word) for word in (*listed, service, container.get("Id")) if word}


class Engine:
    """One engine behind a unix socket. Every method asks once, under limits of time and size; all raise EngineError.

    Several threads may ask at once.
    """

    def __init__(self, path: Path, client: Any) -> None:
        self._path = path
        self._client = client
        self._timeouts = 0

    def version(self) -> dict[str, Any]:
        """Versions of the engine and its parts."""
        return self._ask("version", lambda: self._client.version(), dict)

    def info(self) -> dict[str, Any]:
        """The engine's state and settings."""
        return self._ask("info", lambda: self._client.info(), dict)

    def containers(self, *, with_sizes: bool = False) -> list[Any]:
        """All containers, running or not, as `docker ps -a` lists them; their sizes take the engine a walk of each."""
        return self._ask("containers", lambda: self._client.containers(all=True, size=with_sizes), list)

    def inspect(self, container: str) -> dict[str, Any]:
        """All that the engine knows of a container."""
        return self._ask(f"inspect {container[:12]}", lambda: self._client.inspect_container(container), dict)

    def top(self, container: str, *, columns: str | None = None) -> dict[str, Any]:
        """A running container's processes, as the host sees them; `columns` as `ps -o` names them, with `pid`."""
        options = {"ps_args": f"-o {columns}"} if columns else {}
        return self._ask(f"top {container[:12]}", lambda: self._client.top(container, **options), dict)

    def changes(self, container: str) -> list[Any]:
        """Paths that differ from the container's image."""
        return self._ask(f"changes {container[:12]}", lambda: self._client.diff(container) or [], list)

    def stats(self, container: str) -> dict[str, Any]:
        """A running container's counters, once, without the second of waiting that a rate would need.

        Engines before 23 wait for it all the same.
        """
        options = {"one_shot": True} if int(self._client.api_version.partition(".")[2]) >= _ONE_SHOT_MINOR else {}
        what = f"stats {container[:12]}"
        return self._ask(what, lambda: self._client.stats(container, stream=False, **options), dict)

    def pause(self, container: str) -> None:
        """Stop a container's processes where they stand."""
        self._do(f"pause {container[:12]}", lambda: self._client.pause(container))

    def unpause(self, container: str) -> None:
        """Let them go on."""
        self._do(f"unpause {container[:12]}", lambda: self._client.unpause(container))

    def execute(self, container: str, argv: Sequence[str], *, user: str = "") -> tuple[int, bytes, bytes]:
        """Run a program in a running container to its end: exit status, standard output, standard error.

        It gets no input. Everybody in the container can read its arguments.
        """
        what = f"exec in {container[:12]}"
        order = {"Cmd": list(argv), "User": user, "AttachStdout": True, "AttachStderr": True}
        with self._asking(what):
            created = self._client._post_json(self._client._url(f"/containers/{container}/exec"), data=order)
            identity = self._client._result(created, True)["Id"]
            if not is_id(identity):
                raise ValueError(f"wanted the exec's id, found {identity!r}")
            kept = {"stdout": b"", "stderr": b""}
            for stream, piece in frames(self._started(identity)):
                kept[stream] += piece
            status = self._client.exec_inspect(identity)["ExitCode"]
            return int(status), kept["stdout"], kept["stderr"]

    def images(self) -> list[Any]:
        """All images, with the intermediate ones left out."""
        return self._ask("images", lambda: self._client.images(), list)

    def networks(self) -> list[Any]:
        """All networks, without their containers: see `network`."""
        return self._ask("networks", lambda: self._client.networks(), list)

    def network(self, network: str) -> dict[str, Any]:
        """A network with the containers on it."""
        return self._ask(f"network {network[:12]}", lambda: self._client.inspect_network(network), dict)

    def volumes(self) -> dict[str, Any]:
        """All volumes, under `Volumes`."""
        return self._ask("volumes", lambda: self._client.volumes(), dict)

    def events(self, *, since: int, until: int) -> list[Any]:
        """What happened between two times (seconds since 1970); the engine itself remembers its last 256 events."""
        parameters = {"since": str(since), "until": str(until)}
        return self._ask("events", lambda: _json_lines(self._body("/events", parameters)), list)

    def logs(self, container: str, *, since: int, lines: int, is_tty: bool) -> Iterator[tuple[str, bytes]]:
        """The newest lines since a time (seconds since 1970) with their time stamps, in pieces: (stream, bytes)."""
        parameters = {"stdout": "1", "stderr": "1", "timestamps": "1", "since": str(since), "tail": str(lines)}
        with self._asking(f"logs {container[:12]}"):
            body = self._body(f"/containers/{container}/logs", parameters)
            yield from (("stdout", piece) for piece in body) if is_tty else frames(body)

    def _body(self, path: str, parameters: Mapping[str, str]) -> Iterator[bytes]:
        # The SDK's own streaming calls take the time-out off the socket; these don't.
        response = self._client._get(self._client._url(path), params=parameters, stream=True)
        try:
            self._client._raise_for_status(response)
            yield from response.iter_content(64 << 10)
        finally:
            response.close()

    def _do(self, what: str, call: Callable[[], Any]) -> None:
        with self._asking(what):
            call()

    def _started(self, execution: str) -> Iterator[bytes]:
        order = {"Detach": False, "Tty": False}
        url = self._client._url(f"/exec/{execution}/start")
        response = self._client._post_json(url, data=order, stream=True)
        try:
            self._client._raise_for_status(response)
            yield from response.iter_content(64 << 10)
        finally:
            response.close()

    def _ask(self, what: str, call: Callable[[], Any], wanted: type[_T]) -> _T:
        with self._asking(what):
            answer = call()
        if isinstance(answer, wanted):
            return answer
        kind = type(answer).__name__
        raise EngineError(f"{self._path}: {what}: wanted a {wanted.__name__}, found a {kind}", reason="garbage")

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        if self._timeouts >= MAX_TIMEOUTS:
            message = f"{self._path}: {what}: not asked, {self._timeouts} calls before got no answer"
            raise EngineError(message, reason="timeout")
        try:
            with _explained(self._path, what):
                yield
        except EngineError as error:
            self._timeouts += error.reason == "timeout"
            raise


@contextmanager
def connect(path: Path, *, timeout_s: float = CALL_TIMEOUT_S) -> Iterator[Engine]:
    """Connect to the engine. `timeout_s` holds until the first byte of an answer, and between bytes.

    Raises:
        EngineAbsent: the socket is not there.
        EngineError: the SDK is missing, or the engine refuses, hangs or answers garbage.
    """
    with client_of(path, timeout_s=timeout_s) as client:
        yield Engine(path, client)


@contextmanager
def client_of(path: Path, *, timeout_s: float) -> Iterator[Any]:
    """The SDK's low-level client, agreed with the engine on an API version; for what hands build on it.

    Raises:
        EngineAbsent, EngineError: as `connect`.
    """
    _knock(path, timeout_s=timeout_s)
    client_class, base_url = _client_class(), f"unix://{path}"
    # Asked for without the SDK's own negotiation, which leaves its socket open when the answer is no version.
    first = client_class(base_url=base_url, version=_OLDEST_API, timeout=timeout_s)
    try:
        with _explained(path, "version"):
            version = _api_version(first.version(api_version=False))
            client = client_class(base_url=base_url, version=version, timeout=timeout_s, max_pool_size=_CONNECTIONS)
    finally:
        first.close()
    try:
        yield client
    finally:
        client.close()


def _knock(path: Path, *, timeout_s: float) -> None:
    """Tell an engine that is absent or dead before the SDK is imported, which leaves its socket open when refused."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise EngineError(f"{path}: wanted the engine's socket, found another kind of file", reason="garbage")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(timeout_s)
            probe.connect(str(path))
    except FileNotFoundError:
        raise EngineAbsent(f"no Docker Engine: {path} is not there") from None
    except OSError as error:
        raise _explain(error, f"{path}: ") from None


def _api_version(answer: Any) -> str:
    """The version goes into the path of every question, so it must be one."""
    version = answer["ApiVersion"]
    if not _API_VERSION.match(version):
        raise ValueError(f"wanted an API version such as 1.41, found {version!r}")
    return str(version)


def frames(pieces: Iterator[bytes]) -> Iterator[tuple[str, bytes]]:
    """Take a multiplexed stream apart. A frame is handed on as it comes in, so its length may be any lie.

    Raises:
        ValueError: a frame of no known stream.
    """
    head, left, stream = b"", 0, ""
    for piece in pieces:
        while piece:
            if left:
                yield stream, piece[:left]
                left, piece = left - len(piece[:left]), piece[left:]
                continue
            head, piece = head + piece[: _FRAME.size - len(head)], piece[_FRAME.size - len(head) :]
            if len(head) == _FRAME.size:
                number, left = _FRAME.unpack(head)
                head = b""
                if number not in _STREAMS:
                    raise ValueError(f"wanted a frame of stream 0, 1 or 2, found {number}")
                stream = _STREAMS[number]


class _Bounded:
    """A response's body that ends with an error when it is too big or takes too long."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._left = MAX_ANSWER_BYTES
        self._until = time.monotonic() + ANSWER_TIMEOUT_S

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def stream(self, amount: int, **options: Any) -> Iterator[bytes]:
        """As urllib3's, which is what requests reads every body through."""
        for piece in self._raw.stream(amount, **options):
            self._left -= len(piece)
            if self._left < 0:
                raise EngineError(f"the answer is over {MAX_ANSWER_BYTES} bytes", reason="too_big")
            if time.monotonic() > self._until:
                raise EngineError(f"the answer took over {ANSWER_TIMEOUT_S:g} s", reason="timeout")
            yield piece


def _client_class() -> Any:
    """The SDK's low-level client, with bounded bodies and strict JSON.

    Raises:
        EngineError: the SDK is not installed.
    """
    try:
        from docker import APIClient  # noqa: PLC0415  # late: see the module's docstring
    except ImportError as error:
        message = f"the Docker SDK is not installed beside the agent ({error}): install fireline[docker] on this host"
        raise EngineError(message, reason="no_sdk") from None

    class Client(APIClient):
        def send(self, request: Any, **options: Any) -> Any:
            # Every body is streamed, so that its size is checked before it is in memory.
            response = super().send(request, **options | {"stream": True})
            response.raw = _Bounded(response.raw)
            if response.status_code in _BODYLESS or response.headers.get("Content-Length") == "0":
                _ = response.content  # the SDK reads no answer of this kind, and its connection would stay open
            return response

        def _result(self, response: Any, json: bool = False, binary: bool = False) -> Any:
            try:
                self._raise_for_status(response)  # type: ignore[attr-defined]  # there, but not in the stubs
                content = response.content
            finally:
                response.close()
            return _parse(content) if json else content if binary else content.decode()

    return Client


def _parse(content: bytes) -> Any:
    return json.loads(content, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _json_lines(body: Iterator[bytes]) -> list[Any]:
    return [_parse(line) for line in b"".join(body).splitlines() if line.strip()]


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    """Turn whatever the SDK and its libraries raise over an untrusted answer into an EngineError."""
    try:
        yield
    except _errors() as error:
        raise _explain(error, f"{path}: {what}: ") from error


def _errors() -> tuple[type[Exception], ...]:
    """All that an answer can make the SDK raise; it reads them with bare indexing, so there is a wide choice."""
    from docker.errors import DockerException  # noqa: PLC0415  # late: see the module's docstring
    from urllib3.exceptions import HTTPError  # noqa: PLC0415  # late: see the module's docstring

    plain = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, EngineError)
    return (*plain, DockerException, HTTPError)


def _explain(error: BaseException, place: str) -> EngineError:
    for cause in _chain(error):
        if isinstance(cause, EngineError):
            return EngineError(place + str(cause), reason=cause.reason)
        if isinstance(cause, ConnectionRefusedError):
            return EngineError(f"{place}nothing listens on the socket: is the engine running?", reason="refused")
        if isinstance(cause, PermissionError):
            return EngineError(f"{place}the agent may not open the socket", reason="forbidden")
        if isinstance(cause, TimeoutError | BlockingIOError):  # the latter: its queue of connections is full
            return EngineError(f"{place}no answer in time: the engine hangs", reason="timeout")
    return _bad_answer(error, place)


def _bad_answer(error: BaseException, place: str) -> EngineError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        said = _printable(str(getattr(error, "explanation", "") or error))
        return EngineError(f"{place}the engine answered {status}: {said}", reason="http_status")
    said = _printable(f"{type(error).__name__}: {error}")
    return EngineError(f"{place}wanted the engine's JSON, found something else ({said})", reason="garbage")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _printable(words: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in words[:_MAX_DETAIL])
