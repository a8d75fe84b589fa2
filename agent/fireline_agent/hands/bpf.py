"""Asks the kernel for its eBPF objects through bpf(2), by id, without bpftool.

Layouts and numbers are those of include/uapi/linux/bpf.h, which only ever grow at their ends. Leaves to others: which
of the objects stand out.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SYSCALL: Final = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "ppc64le": 361,
    "s390x": 351,
    "armv7l": 386,
    "i686": 357,
}
_OBJ_GET, _PROG_NEXT, _MAP_NEXT, _PROG_FD, _MAP_FD, _INFO, _LINK_FD, _LINK_NEXT = 7, 11, 12, 13, 14, 15, 30, 31
_ATTRIBUTE_BYTES: Final = 64
_MAX_MAPS_OF_PROGRAM: Final = 64  # the kernel's own limit (MAX_USED_MAPS)
_READ_ONLY: Final = 1 << 3  # BPF_F_RDONLY: maps only


def _words(line: str) -> tuple[str, ...]:
    return tuple(line.split())


PROGRAM_TYPES: Final = _words(
    "unspecified socket_filter kprobe sched_cls sched_act tracepoint xdp perf_event cgroup_skb cgroup_sock lwt_in "
    "lwt_out lwt_xmit sock_ops sk_skb cgroup_device sk_msg raw_tracepoint cgroup_sock_addr lwt_seg6local lirc_mode2 "
    "sk_reuseport flow_dissector cgroup_sysctl raw_tracepoint_writable cgroup_sockopt tracing struct_ops ext lsm "
    "sk_lookup syscall netfilter"
)
MAP_TYPES: Final = _words(
    "unspecified hash array prog_array perf_event_array percpu_hash percpu_array stack_trace cgroup_array lru_hash "
    "lru_percpu_hash lpm_trie array_of_maps hash_of_maps devmap sockmap cpumap xskmap sockhash cgroup_storage "
    "reuseport_sockarray percpu_cgroup_storage queue stack sk_storage devmap_hash struct_ops ringbuf inode_storage "
    "task_storage bloom_filter user_ringbuf cgrp_storage arena"
)
LINK_TYPES: Final = _words(
    "unspecified raw_tracepoint tracing cgroup iter netns xdp perf_event kprobe_multi struct_ops netfilter tcx "
    "uprobe_multi netkit sockmap"
)
# What a link hangs on, by link type: the kernel's own field at offset 16 of bpf_link_info.
_LINK_PLACES: Final = {
    "cgroup": ("cgroup_id", "<Q"),
    "netns": ("netns_inode", "<I"),
    "xdp": ("ifindex", "<I"),
    "tcx": ("ifindex", "<I"),
    "netkit": ("ifindex", "<I"),
}


@dataclass(frozen=True)
class Program:
    """A loaded program. `loaded_at_ns` is nanoseconds since boot; `tag` a hash over its instructions."""

    id: int
    kind: str
    name: bytes
    tag: str
    uid: int
    loaded_at_ns: int
    instructions: int
    map_ids: tuple[int, ...]
    is_gpl: bool


@dataclass(frozen=True)
class Map:
    """A map: memory that programs share with each other and with user space."""

    id: int
    kind: str
    name: bytes
    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int


@dataclass(frozen=True)
class Link:
    """What holds a program to its hook. `place` names the hook where the kernel tells it."""

    id: int
    kind: str
    program_id: int
    place: dict[str, int]


def programs() -> Iterator[Program]:
    """Every loaded program, by id.

    Raises:
        OSError: ENOSYS where the kernel has no bpf(2), EPERM without CAP_SYS_ADMIN (or CAP_BPF and CAP_PERFMON).
    """
    for descriptor in _objects(_PROG_NEXT, _PROG_FD):
        yield _program(descriptor)


def maps() -> Iterator[Map]:
    """Every map, by id.

    Raises:
        OSError: as `programs`.
    """
    for descriptor in _objects(_MAP_NEXT, _MAP_FD, flags=_READ_ONLY):
        info = _info(descriptor, bytes(64))
        kind, number, key, value, entries, flags, name = struct.unpack_from("<6I16s", info)
        yield Map(number, _word(MAP_TYPES, kind), name.partition(b"\0")[0], key, value, entries, flags)


def links() -> Iterator[Link]:
    """Every link, by id; none on kernels before 5.8, which have no such ids.

    Raises:
        OSError: as `programs`.
    """
    try:
        for descriptor in _objects(_LINK_NEXT, _LINK_FD):
            info = _info(descriptor, bytes(48))
            kind_number, number, program = struct.unpack_from("<3I", info)
            kind = _word(LINK_TYPES, kind_number)
            yield Link(number, kind, program, _place(kind, info))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def pinned(path: Path) -> tuple[str, int] | None:
    """What is pinned at a path: (`program`, `map` or `link`, its id); None when it is gone or something else.

    Raises:
        OSError: the kernel refuses the call itself.
    """
    buffer = ctypes.create_string_buffer(os.fsencode(path))
    try:
        descriptor = _bpf(_OBJ_GET, struct.pack("<QII", ctypes.addressof(buffer), 0, 0))
    except (FileNotFoundError, PermissionError):
        return None
    try:
        return _identity(descriptor)
    finally:
        os.close(descriptor)


def _identity(descriptor: int) -> tuple[str, int] | None:
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in ("prog_id", "map_id", "link_id"):
            # A link's own line comes before that of its program.
            return {"prog_id": "program", "map_id": "map", "link_id": "link"}[key], int(value)
    return None


def _program(descriptor: int) -> Program:
    ids = (ctypes.c_uint32 * _MAX_MAPS_OF_PROGRAM)()
    request = bytearray(88)
    struct.pack_into("<IQ", request, 52, len(ids), ctypes.addressof(ids))
    info = _info(descriptor, bytes(request))
    kind, number, tag, _, translated, _, _, loaded, uid, map_count = struct.unpack_from("<II8sIIQQQII", info)
    name, _, licence = struct.unpack_from("<16sII", info, 64)
    return Program(
        id=number,
        kind=_word(PROGRAM_TYPES, kind),
        name=name.partition(b"\0")[0],
        tag=tag.hex(),
        uid=uid,
        loaded_at_ns=loaded,
        instructions=translated // 8,
        map_ids=tuple(ids[: min(map_count, len(ids))]),
        is_gpl=bool(licence & 1),
    )


def _place(kind: str, info: bytes) -> dict[str, int]:
    field = _LINK_PLACES.get(kind)
    return {} if field is None else {field[0]: struct.unpack_from(field[1], info, 16)[0]}


def _word(words: tuple[str, ...], number: int) -> str:
    return words[number] if number < len(words) else f"type-{number}"


def _objects(next_command: int, open_command: int, *, flags: int = 0) -> Iterator[int]:
    """A descriptor of every object; closed when the next one is asked for."""
    number = 0
    while (number := _next_id(next_command, number)) != 0:
        try:
            descriptor = _bpf(open_command, struct.pack("<III", number, 0, flags))
        except FileNotFoundError:  # unloaded since we learnt its id
            continue
        with _closing(descriptor):
            yield descriptor


@contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


def _next_id(command: int, number: int) -> int:
    attribute = bytearray(struct.pack("<I", number).ljust(_ATTRIBUTE_BYTES, b"\0"))
    try:
        _call(command, attribute)
    except FileNotFoundError:
        return 0
    return int(struct.unpack_from("<I", attribute, 4)[0])


def _info(descriptor: int, request: bytes) -> bytes:
    buffer = ctypes.create_string_buffer(request, len(request))
    _bpf(_INFO, struct.pack("<IIQ", descriptor, len(request), ctypes.addressof(buffer)))
    return buffer.raw


def _bpf(command: int, attribute: bytes) -> int:
    return _call(command, bytearray(attribute.ljust(_ATTRIBUTE_BYTES, b"\0")))


def _call(command: int, attribute: bytearray) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"the number of bpf(2) on {platform.machine()} is not known here")
    memory = (ctypes.c_char * len(attribute)).from_buffer(attribute)
    result = _syscall()(ctypes.c_long(number), command, ctypes.byref(memory), len(attribute))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "bpf(2)")
    return result


def _syscall() -> Callable[..., int]:
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return call
