"""The door to legacy iptables, for reading: the tables that exist in this thread's network namespace.

Only tables that are already there are asked for: to ask for another would make the kernel create it. What
iptables-nft writes is in nftables, not here.

Sources: linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h, linux/netfilter/x_tables.h.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_GET_INFO: Final = 64  # IPT_SO_GET_INFO, IP6T_SO_GET_INFO
_GET_ENTRIES: Final = 65
_INFO: Final = struct.Struct("=32sI5I5III")
_ENTRIES_HEADER_BYTES: Final = 40  # name[32], size, padding to the entries' 8
_TARGET: Final = struct.Struct("=H29sB")
_VERDICTS: Final = {-1: "DROP", -2: "ACCEPT", -4: "QUEUE", -5: "RETURN"}
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class _Family:
    """How one family's tables are asked for, and where the parts of an entry are."""

    name: str
    address_family: int
    level: int
    names: str
    offsets_at: int  # of target_offset and next_offset within an entry
    counters_at: int


_FAMILIES: Final = (
    _Family("ipv4", socket.AF_INET, socket.IPPROTO_IP, "ip_tables_names", 88, 96),
    _Family("ipv6", socket.AF_INET6, socket.IPPROTO_IPV6, "ip6_tables_names", 140, 152),
)


def entries(net: Path = Path("/proc/thread-self/net")) -> Iterator[dict[str, Any]]:
    """Every entry of every existing table: its counters, matches and target by name, and the entry as hexadecimal.

    Raises:
        OSError: the tables may not be read.
    """
    for family in _FAMILIES:
        for table in _table_names(net / family.names):
            for at, entry in _split(family, _table(family, table)):
                yield {"family": family.name, "table": table, "offset": at, **_described(family, entry)}


def _table_names(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except FileNotFoundError:
        return []


def _table(family: _Family, table: str) -> bytes:
    with socket.socket(family.address_family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as door:
        key = table.encode().ljust(32, b"\0")
        info = _INFO.unpack(_option(door, family.level, _GET_INFO, key.ljust(_INFO.size, b"\0")))
        size = info[-1]
        wanted = (key + struct.pack("=I", size)).ljust(_ENTRIES_HEADER_BYTES + size, b"\0")
        return _option(door, family.level, _GET_ENTRIES, wanted)[_ENTRIES_HEADER_BYTES:]


def _option(door: socket.socket, level: int, option: int, value: bytes) -> bytes:
    """getsockopt(2) with a value that goes in too, which Python's own doesn't pass."""
    buffer = ctypes.create_string_buffer(value, len(value))
    length = ctypes.c_uint32(len(value))
    if _libc.getsockopt(door.fileno(), level, option, buffer, ctypes.byref(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"reading an iptables table: {os.strerror(number)}")
    return buffer.raw[: length.value]


def _split(family: _Family, blob: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + family.counters_at + 16 <= len(blob):
        (length,) = struct.unpack_from("=H", blob, at + family.offsets_at + 2)
        if length == 0:
            return
        yield at, blob[at : at + length]
        at += length


def _described(family: _Family, entry: bytes) -> dict[str, Any]:
    (target_at,) = struct.unpack_from("=H", entry, family.offsets_at)
    packets, octets = struct.unpack_from("=2Q", entry, family.counters_at)
    matches = []
    at = family.counters_at + 16
    while at + _TARGET.size <= target_at:
        length, name = _part(entry, at)
        matches.append(name)
        at += max(length, _TARGET.size)
    return {
        "packets": packets,
        "bytes": octets,
        "matches": matches,
        "target": _target(entry, target_at),
        "entry_hex": entry.hex(),
    }


def _part(entry: bytes, at: int) -> tuple[int, str]:
    length, name, _ = _TARGET.unpack_from(entry, at)
    return length, name.partition(b"\0")[0].decode(errors="backslashreplace")


def _target(entry: bytes, at: int) -> str:
    """The target's name; the standard one has none, but a verdict or the offset of the chain to go to."""
    if at + _TARGET.size > len(entry):
        return ""
    _, name = _part(entry, at)
    if name or at + _TARGET.size + 4 > len(entry):
        return name
    (verdict,) = struct.unpack_from("=i", entry, at + _TARGET.size)
    return _VERDICTS.get(verdict, f"jump to offset {verdict}")
