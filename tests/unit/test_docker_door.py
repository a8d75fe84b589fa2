"""The door to the Docker Engine: a missing, dead, silent or lying one is told apart, and never waited for."""

import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fireline_agent.hands.docker import MAX_TIMEOUTS, EngineAbsent, EngineError, connect, frames
from tests.fakes import docker_engine as fake

ID = "0123456789abcdef" * 4


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    """Where the engine's socket is."""
    return tmp_path / "docker.sock"


def test_no_socket_is_no_engine(socket: Path) -> None:
    """A host without Docker is told by the place that was looked at."""
    with pytest.raises(EngineAbsent, match=r"no Docker Engine: .*docker\.sock is not there"), connect(socket):
        pass


def test_a_dead_engines_socket_refuses(socket: Path) -> None:
    """A socket that nobody listens on means that the engine is down, which is not the same as absent."""
    fake.refusing(socket)

    match = "nothing listens on the socket: is the engine running"
    with pytest.raises(EngineError, match=match) as raised, connect(socket):
        pass
    assert raised.value.reason == "refused"


def test_a_plain_file_is_no_socket(socket: Path) -> None:
    """Something else at the socket's place is named as such."""
    socket.write_text("x")

    with pytest.raises(EngineError, match="wanted the engine's socket, found another kind of file"), connect(socket):
        pass


def test_a_silent_engine_is_given_up(socket: Path) -> None:
    """An engine that accepts and says nothing ends in a time-out, not in a hang."""
    match = "no answer in time: the engine hangs"
    with fake.silent(socket), pytest.raises(EngineError, match=match) as raised, connect(socket, timeout_s=0.2):
        pass
    assert raised.value.reason == "timeout"


def test_after_three_time_outs_nothing_more_is_asked(socket: Path) -> None:
    """One hanging container costs one time-out; a hanging engine costs three and no more."""
    with fake.serve(socket, {f"/containers/{ID}/json": fake.hang}) as asked, connect(socket, timeout_s=0.1) as engine:
        for _ in range(MAX_TIMEOUTS):
            with pytest.raises(EngineError, match="no answer in time"):
                engine.inspect(ID)
        with pytest.raises(EngineError, match="inspect 0123456789ab: not asked, 3 calls before got no answer"):
            engine.inspect(ID)

    assert len(asked) == 1 + MAX_TIMEOUTS


GARBAGE: dict[str, tuple[Any, str]] = {
    "no http": (fake.says(b"\x00\xffSSH-2.0\r\n\r\n"), "garbage"),
    "nothing": (fake.says(b""), "garbage"),
    "no json": (b"<html>\x1b[2J", "garbage"),
    "no utf-8": (b'{"a": "\xff"}', "garbage"),
    "another type": ([1, 2], "garbage"),
    "not a number": (b'{"a": NaN}', "garbage"),
    "too deep": (b'{"a":' * 100_000, "garbage"),
    "too long a number": (b'{"a": ' + b"9" * 10_000 + b"}", "garbage"),
    "cut off": (fake.says(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"a"'), "garbage"),
    "error without a message": ((500, [1]), "http_status"),
    "error with another shape": ((500, {"message": {"a": 1}}), "http_status"),
    "error": ((500, {"message": "boom\n\x1b[31m"}), "http_status"),
    "a way elsewhere": (
        fake.says(b"HTTP/1.1 302 Found\r\nLocation: http://198.18.0.1/\r\nContent-Length: 0\r\n\r\n"),
        "garbage",
    ),
    "no end": (fake.flood, "too_big"),
}


@pytest.mark.parametrize(("answer", "reason"), GARBAGE.values(), ids=list(GARBAGE))
def test_garbage_is_an_engine_error(socket: Path, answer: Any, reason: str) -> None:
    """Whatever an engine answers, the caller sees an EngineError in printable words, and the engine stays usable."""
    with fake.serve(socket, {"/info": answer, "/images/json": []}), connect(socket, timeout_s=2) as engine:
        with pytest.raises(EngineError) as raised:
            engine.info()
        assert engine.images() == []

    assert str(raised.value).startswith(f"{socket}: info: ")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "version", [{}, [], {"ApiVersion": 7}, {"ApiVersion": "../.."}, {"ApiVersion": "1.1.1.1.1"}, b"junk"]
)
def test_a_version_that_is_none_is_refused(socket: Path, version: Any) -> None:
    """The API version goes into every path, so it must be one."""
    with fake.serve(socket, {"/version": version}), pytest.raises(EngineError), connect(socket, timeout_s=2):
        pass


def test_a_missing_sdk_says_what_to_install(socket: Path) -> None:
    """On a host with Docker and without the SDK the operator reads which extra is missing."""
    code = (
        "import sys; sys.modules['docker'] = None\n"
        "from pathlib import Path; from fireline_agent.hands.docker import connect\n"
        f"with connect(Path({str(socket)!r})): pass\n"
    )
    with fake.serve(socket, {}):
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "install fireline[docker] on this host" in ended.stderr


def test_the_sdk_is_not_imported_before_an_engine_is_there() -> None:
    """The agent of a host without containers never pays for the SDK."""
    code = (
        "import sys; from pathlib import Path; from fireline_agent.hands import docker\n"
        "from fireline_agent.capture import docker_containers, docker_engine\n"
        "try:\n    docker.connect(Path('/nowhere/x')).__enter__()\n"
        "except docker.EngineAbsent:\n    print('docker' in sys.modules, 'requests' in sys.modules)\n"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout == "False False\n"


@given(
    pieces=st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=8),
    cuts=st.lists(st.integers(0, 400), max_size=6),
)
@settings(deadline=None)
def test_frames_survive_any_cut(pieces: list[tuple[int, bytes]], cuts: list[int]) -> None:
    """However the stream is cut into reads, each stream's bytes come out whole and in order."""
    raw = b"".join(struct.pack(">B3xI", stream, len(payload)) + payload for stream, payload in pieces)
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    reads = [raw[start:end] for start, end in pairwise(edges)]

    found = list(frames(iter(reads)))

    for number, name in ((1, "stdout"), (2, "stderr")):
        wanted = b"".join(payload for stream, payload in pieces if stream == number)
        assert b"".join(payload for stream, payload in found if stream == name) == wanted


def test_a_frame_may_lie_about_its_length() -> None:
    """A length of four gigabytes allocates nothing: what came is handed on."""
    assert list(frames(iter([struct.pack(">B3xI", 1, 0xFFFFFFFF) + b"ab", b"c"]))) == [
        ("stdout", b"ab"),
        ("stdout", b"c"),
    ]


def test_a_frame_of_no_stream_is_refused() -> None:
    """Bytes that are no frames are not guessed at."""
    with pytest.raises(ValueError, match="wanted a frame of stream 0, 1 or 2, found 60"):
        list(frames(iter([b"<html><body>"])))
