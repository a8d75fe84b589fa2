"""eBPF objects of the real kernel: what is loaded and pinned here must be found, by id, name, tag and place."""

import ctypes
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fireline_agent.capture import bpf
from fireline_agent.capture.collector import Context
from fireline_agent.hands import bpf as door
from fireline_agent.hands.roots import Roots
from tests.unit.sink import MemorySink

MAP_CREATE, PROG_LOAD, OBJ_PIN = 0, 5, 6
SOCKET_FILTER, HASH, RAW_TRACEPOINT = 1, 1, 17
RETURN_ZERO = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = 0; exit

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF programs needs root")


def bpf_call(command: int, attribute: bytes) -> int:
    """bpf(2) for what the product itself never does: create."""
    buffer = ctypes.create_string_buffer(attribute.ljust(128, b"\0"), 128)
    number = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
    result = ctypes.CDLL(None, use_errno=True).syscall(number, command, buffer, 128)
    if result < 0:
        pytest.skip(f"this kernel does not let us make eBPF objects: {os.strerror(ctypes.get_errno())}")
    return int(result)


@contextmanager
def program(name: bytes, *, kind: int = SOCKET_FILTER) -> Iterator[int]:
    """A loaded program that does nothing."""
    code, licence = ctypes.create_string_buffer(RETURN_ZERO, 16), ctypes.create_string_buffer(b"GPL")
    head = struct.pack("<IIQQIIQII", kind, 2, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0, 0)
    descriptor = bpf_call(PROG_LOAD, head + name.ljust(16, b"\0"))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A BPF file system of the test's own, where sysfs would have it."""
    place = tmp_path / "sys/fs/bpf"
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "bpf", "none", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_loaded_and_pinned_objects_are_found(tmp_path: Path, bpffs: Path) -> None:
    """A program and a map that exist now are listed with type, name, tag, owner and pinned path."""
    with program(b"planted") as loaded:
        table = bpf_call(MAP_CREATE, struct.pack("<IIIII", HASH, 4, 8, 16, 0) + bytes(8) + b"loot".ljust(16, b"\0"))
        for name, descriptor in (("filter", loaded), ("table", table)):
            path = ctypes.create_string_buffer(os.fsencode(bpffs / name))
            bpf_call(OBJ_PIN, struct.pack("<QI", ctypes.addressof(path), descriptor))
        sink = MemorySink()
        bpf.collect(Context(roots=Roots(sys=tmp_path / "sys")), sink)
        os.close(table)

    programs = {record["name"]: record for record in sink.artifacts["kernel/bpf-programs.jsonl"].records()}
    planted = programs["planted"]
    assert (planted["type"], planted["uid"], planted["instructions"], planted["gpl"]) == ("socket_filter", 0, 2, True)
    assert len(planted["tag"]) == 16
    assert planted["loaded_at"] > "2020"
    maps = {record["name"]: record for record in sink.artifacts["kernel/bpf-maps.jsonl"].records()}
    assert (maps["loot"]["type"], maps["loot"]["key_bytes"], maps["loot"]["max_entries"]) == ("hash", 4, 16)
    # Some kernels put iterators of their own into every BPF file system.
    pins = {record["path"]: record for record in sink.artifacts["kernel/bpf-pinned.jsonl"].records()}
    assert pins[f"{bpffs}/filter"] == {"path": f"{bpffs}/filter", "kind": "program", "id": planted["id"]}
    assert pins[f"{bpffs}/table"] == {"path": f"{bpffs}/table", "kind": "map", "id": maps["loot"]["id"]}


def test_programs_that_hook_the_kernel_stand_out() -> None:
    """A program of a type that sees the whole host is noted with its name and who loaded it."""
    with program(b"spy", kind=RAW_TRACEPOINT):
        sink = MemorySink()
        bpf.collect(Context(), sink)

    assert "1 eBPF programs of type raw_tracepoint called spy, loaded by uid 0, hook the kernel" in {
        finding.summary for finding in sink.found("bpf-kernel-hook")
    }


def test_a_program_that_goes_away_leaves_no_descriptor_behind() -> None:
    """Walking the ids twice, with a program unloaded in between, opens nothing that stays open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with program(b"brief"):
        walk = door.programs()
        assert next(walk).id > 0
    walk.close()  # type: ignore[attr-defined]  # it is a generator, typed by what its users may do
    list(door.programs())

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_is_no_bpf_object_is_told_so(tmp_path: Path) -> None:
    """A plain file is no pinned object, and a vanished one neither."""
    (tmp_path / "plain").write_text("x")

    assert door.pinned(tmp_path / "plain") is None
    assert door.pinned(tmp_path / "gone") is None
