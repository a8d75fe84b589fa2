"""Images of real files and of a real block device, also when the agent is killed in the middle."""

import errno
import hashlib
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fireline_agent.capture import disk_image
from fireline_agent.capture.collector import Context
from fireline_wire.image import CHUNK_BYTES, Segment, assemble, next_offset
from tests.integration.agent.agents import Controller, agent, request
from tests.integration.test_mutual_tls import eventually
from tests.unit.sink import MemorySink

MIB = CHUNK_BYTES
SEED = 7


def _image(path: Path, **params: Any) -> MemorySink:
    sink = MemorySink()
    disk_image.collect(Context(params={"source": str(path), **params}), sink)
    return sink


def _segments(sink: MemorySink) -> list[tuple[Segment, Iterator[bytes]]]:
    found = sorted((n, a) for n, a in sink.artifacts.items() if n.endswith(".img"))
    return [(Segment.from_facts(name, a.facts), iter([bytes(a.data)])) for name, a in found]


def _assembled(segments: list[tuple[Segment, Iterator[bytes]]]) -> tuple[bytes, str]:
    with tempfile.TemporaryFile() as out:
        sha256 = assemble(segments, out)
        out.seek(0)
        return out.read(), sha256


def _sparse(path: Path) -> bytes:
    """A file of 130 MiB and a little: data at both ends and in the middle, the rest holes; and a chunk of zeros."""
    noise = random.Random(SEED).randbytes(3 * MIB)
    with path.open("wb") as file:
        file.write(noise)
        file.seek(70 * MIB + 4096)
        file.write(noise[:5000])
        file.seek(100 * MIB)
        file.write(bytes(2 * MIB))
        file.seek(130 * MIB)
        file.write(noise[:777])
    return path.read_bytes()


def test_a_sparse_file_is_imaged_without_its_holes(tmp_path: Path) -> None:
    """What is kept is the chunks with data; put together it is the file, bit by bit, with the same hash."""
    whole = _sparse(tmp_path / "disk")

    sink = _image(tmp_path / "disk")

    index = sink.artifacts["disk/image.json"].document()
    data, sha256 = _assembled(_segments(sink))
    is_same = data == whole  # a difference of so many bytes would take a minute to be told
    assert is_same
    assert sha256 == index["range_sha256"] == hashlib.sha256(whole).hexdigest()
    assert index["data_bytes"] == 4 * MIB + 777
    assert (index["is_whole"], index["taken_live"], index["changed_meanwhile"]) == (True, True, False)


def test_an_image_in_parts_is_the_same_image(tmp_path: Path) -> None:
    """Three captures, each at the offset where the one before ended, make one image; the cuts agree."""
    whole = _sparse(tmp_path / "disk")
    segments: list[tuple[Segment, Iterator[bytes]]] = []
    for _ in range(3):
        at = next_offset(s for s, _ in segments)
        sink = _image(tmp_path / "disk", offset_bytes=at, length_bytes=64 * MIB)
        assert sink.artifacts["disk/image.json"].document()["is_whole"] is False
        segments += _segments(sink)

    is_same = _assembled(segments)[0] == whole
    assert is_same


def test_a_source_that_changes_meanwhile_is_said_to(tmp_path: Path) -> None:
    """The image of a file that is written to is no single moment's, and the index says so."""
    path = tmp_path / "disk"
    path.write_bytes(b"x" * MIB)
    sink = MemorySink()

    class Writing(MemorySink):
        def artifact(self, name: str, **how: str) -> Any:
            with path.open("r+b") as file:
                file.write(b"y")
            os.utime(path, ns=(time.time_ns(), time.time_ns()))
            return sink.artifact(name, **how)

    disk_image.collect(Context(params={"source": str(path)}), Writing())

    assert sink.artifacts["disk/image.json"].document()["changed_meanwhile"] is True


def test_what_does_not_fit_is_refused_with_the_numbers(tmp_path: Path) -> None:
    """Before the first byte: how much there is, how much fits in space and in time, and the parts that would do."""
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 8 * MIB)
    sink = MemorySink()

    for limits, part in (({"output_bytes": 4 * MIB}, 3 * MIB), ({"deadline_s": 0.05}, 2 * MIB)):
        context = Context(params={"source": str(path)}, **limits)
        with pytest.raises(ValueError, match="bytes of data from 0 to 8388608") as refused:
            disk_image.collect(context, sink)
        assert f"length_bytes={part} with offset_bytes=0, then {part}" in str(refused.value)
    assert sink.artifacts == {}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "'source': wanted the path"),
        ({"source": "relative"}, "'source': wanted the path"),
        ({"source": "/disk", "offset_bytes": 5}, "wanted a multiple of 1048576"),
        ({"source": "/disk", "offset_bytes": 1 << 40}, "up to 10"),
        ({"source": "/disk", "length_bytes": -1}, "wanted a whole number of bytes"),
        ({"source": "/disk", "bytes_per_second": 0}, "wanted a number above 0"),
        ({"source": "/folder"}, "wanted a block device or a regular file, found d"),
        ({"source": "/disk", "size": 5}, "unknown collector parameter"),
    ],
)
def test_parameters_that_make_no_image_are_refused(tmp_path: Path, params: dict[str, Any], message: str) -> None:
    """Each message names the parameter, what was wanted and what was found."""
    (tmp_path / "disk").write_bytes(b"x" * 10)
    (tmp_path / "folder").mkdir()
    context = Context(params=params, roots=replace(Context().roots, root=tmp_path))

    with pytest.raises(ValueError, match=message):
        disk_image.collect(context, MemorySink())


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A name that was swapped for a link to another file is no source."""
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")

    with pytest.raises(OSError, match=str(tmp_path)) as refused:
        _image(tmp_path / "link")
    assert refused.value.errno == errno.ELOOP


def test_reading_is_held_down_to_the_rate(tmp_path: Path) -> None:
    """4 MiB at 8 MiB a second take half a second; holes take none."""
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 4 * MIB)
    with path.open("r+b") as file:
        file.truncate(100 * MIB)
    started = time.monotonic()

    _image(path, bytes_per_second=8 * MIB)

    assert 0.45 < time.monotonic() - started < 5


def test_places_that_a_disk_does_not_give_are_zeros_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk that fails is read again in small pieces: only the bad one is lost, and its place is named."""
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 2 * MIB)
    real = os.pread

    def failing(descriptor: int, length: int, offset: int) -> bytes:
        if offset <= MIB + 8192 < offset + length:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, length, offset)

    # No device of this machine can be made to fail: the kernel lacks dm-error and dm-flakey.
    monkeypatch.setattr(os, "pread", failing)
    sink = _image(path)

    index = sink.artifacts["disk/image.json"].document()
    assert index["unreadable"] == [[MIB + 8192, 4096]]
    data, _ = _assembled(_segments(sink))
    assert data == b"x" * (MIB + 8192) + bytes(4096) + b"x" * (MIB - 8192 - 4096)


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[tuple[str, bytes]]:
    """A block device of the test's own, and what is on it."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a loop device")
    content = _sparse(tmp_path / "backing")[: 130 * MIB]
    (tmp_path / "backing").write_bytes(content)
    made = subprocess.run(["losetup", "--find", "--show", "--read-only", tmp_path / "backing"], capture_output=True)
    device = made.stdout.decode().strip()
    assert device, made.stderr
    yield device, content
    subprocess.run(["losetup", "--detach", device], check=True)


def test_a_block_device_is_imaged(loop_device: tuple[str, bytes]) -> None:
    """Its size comes from the kernel, its zeros are left out, and its facts say which device it was."""
    device, content = loop_device

    sink = _image(Path(device), bytes_per_second=float(1 << 40))

    source = sink.artifacts["disk/source.json"].document()
    assert (source["size_bytes"], source["is_device"], source["taken_live"]) == (len(content), True, True)
    assert source["identity"]["ro"] == "1"
    is_same = _assembled(_segments(sink))[0] == content
    assert is_same
    assert sink.artifacts["disk/image.json"].document()["data_bytes"] == 4 * MIB


async def _kept(controller: Controller, capture: str) -> list[tuple[Segment, Iterator[bytes]]]:
    """The whole segments of a capture, as they come over the wire; what a kill cut off has no facts."""
    manifest = await controller.manifest(capture)
    whole = [a for a in manifest.artifacts if a.name.endswith(".img") and not a.truncated]
    return [
        (
            Segment.from_facts(a.name, a.facts),
            iter(await controller.fetch(capture, chunks=[(a.name, 0, len(a.chunks))])),
        )
        for a in whole
    ]


async def test_an_image_goes_on_after_the_agent_was_killed(tmp_path: Path) -> None:
    """What was imaged by then is sealed as partial; the next capture goes on at the first segment that lacks."""
    path = tmp_path / "disk"
    path.write_bytes(random.Random(SEED).randbytes(96 * MIB))
    params = {"source": str(path), "bytes_per_second": 100 * MIB}
    cut = request("r1", f"disk_image {json.dumps(params)}")

    async with agent(tmp_path) as a:
        async with a.controller() as controller:
            running = controller.captures.Run(cut)
            await running.read()
            await eventually(lambda: len(list(a.folder.glob("state/spool/*/files/*"))) >= 3, within_s=20)
            await a.kill()
        await a.start()
        async with a.controller() as controller:
            events = await controller.run(cut)
            kept = await _kept(controller, "r1")
            at = next_offset(s for s, _ in kept)
            again = params | {"offset_bytes": at, "bytes_per_second": 1 << 40}
            await controller.run(request("r2", f"disk_image {json.dumps(again)}"))
            kept += await _kept(controller, "r2")

    assert events[-1].sealed.partial
    assert 0 < at < 96 * MIB
    with (tmp_path / "image").open("wb") as file:
        assert assemble(kept, file) == hashlib.sha256(path.read_bytes()).hexdigest()
