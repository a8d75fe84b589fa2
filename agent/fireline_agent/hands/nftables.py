"""The door to nftables, for reading: a ruleset as libnftables shows it, and as the kernel itself holds it.

Reads the network namespace this thread is in. Nothing here adds, deletes or flushes. The two views complete each
other: libnftables names every part but shows what iptables-nft wrote as "xt" without its content; the kernel's own
dump misses nothing but is only attribute trees. Leaves to others: setting rules.

Sources: libnftables(3), libnftables-json(5), linux/netfilter/nf_tables.h.
"""

import ctypes
import errno
import struct
from collections.abc import Iterator
from typing import Any, Final

from fireline_agent.hands import children
from fireline_agent.hands.netlink import (
    NETLINK_NETFILTER,
    Netlink,
    NetlinkError,
    attribute,
    attribute_list,
    attributes,
    name,
)

_LIBRARY: Final = "libnftables.so.1"
_OUTPUT_JSON: Final = 1 << 4  # NFT_CTX_OUTPUT_JSON
_LIST_TIMEOUT_S: Final = 5.0  # a ruleset of 100,000 elements lists in about a second
_SUBSYSTEM: Final = 10 << 8  # NFNL_SUBSYS_NFTABLES
_HEADER_BYTES: Final = 4  # nfgenmsg
_FAMILIES: Final = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_DUMPS: Final = {"table": 1, "chain": 4, "rule": 7, "set": 10, "object": 19, "flowtable": 23}
_GET_ELEMENTS: Final = 13
_MAX_DEPTH: Final = 12  # of attribute trees; the kernel's own nest no deeper than 8


class ListingFailed(Exception):
    """libnftables is there but gave no ruleset; the message says why."""


def has_library() -> bool:
    """Whether libnftables is on this host."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return False
    return True


def listing() -> bytes:
    """The ruleset as libnftables' JSON, made in a forked child: the library ends its process when it is surprised.

    Raises:
        ListingFailed: the library is missing, refused, broke or took too long.
    """
    try:
        return children.output_of(_list, timeout_s=_LIST_TIMEOUT_S)
    except children.ChildFailed as error:
        raise ListingFailed(f"libnftables gave no ruleset: {error}") from error


def _list() -> bytes:
    library = ctypes.CDLL(_LIBRARY)
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    context = ctypes.c_void_p(library.nft_ctx_new(0))
    library.nft_ctx_output_set_flags(context, _OUTPUT_JSON)
    library.nft_ctx_buffer_output(context)
    library.nft_ctx_buffer_error(context)
    if library.nft_run_cmd_from_buffer(context, b"list ruleset") != 0:
        reason: bytes = library.nft_ctx_get_error_buffer(context) or b"no reason given"
        raise OSError(errno.EIO, reason.decode(errors="replace").strip())
    ruleset: bytes = library.nft_ctx_get_output_buffer(context)
    return ruleset


def raw_dump() -> Iterator[dict[str, Any]]:
    """Every table, chain, rule, set with its elements, object and flowtable as the kernel holds it.

    Each is a tree of attributes (numbers of linux/netfilter/nf_tables.h): a list of [type, value] where the value is
    such a list again, or hexadecimal. What the kernel doesn't flag as nested is taken as nested when it fits exactly.

    Raises:
        NetlinkError: this kernel has no nftables, or we may not read it.
    """
    with Netlink(NETLINK_NETFILTER) as netlink:
        for what, number in _DUMPS.items():
            sets = []
            for message in _dumped(netlink, number, bytes(_HEADER_BYTES)):
                yield _entry(what, message)
                if what == "set":
                    sets.append(message)
            for message in sets:
                yield from (_entry("elements", found) for found in _elements(netlink, message))


def _dumped(netlink: Netlink, number: int, body: bytes) -> Iterator[bytes]:
    try:
        yield from netlink.dump(_SUBSYSTEM | number, body)
    except NetlinkError as error:
        if number == _DUMPS["table"]:
            raise
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT):  # parts that older kernels lack
            raise


def _elements(netlink: Netlink, of_set: bytes) -> Iterator[bytes]:
    found = attributes(of_set, _HEADER_BYTES)
    body = struct.pack("=4B", of_set[0], 0, 0, 0) + attribute(1, found.get(1, b"")) + attribute(2, found.get(2, b""))
    dumped = _dumped(netlink, _GET_ELEMENTS, body)
    return (message for message in dumped if attributes(message, _HEADER_BYTES).get(3))  # the last one is empty


def _entry(what: str, message: bytes) -> dict[str, Any]:
    found = attributes(message, _HEADER_BYTES)
    return {
        "what": what,
        "family": _FAMILIES.get(message[0], str(message[0])),
        "table": name(found.get(1)).decode(errors="backslashreplace"),
        "attributes": _tree(message[_HEADER_BYTES:], _MAX_DEPTH),
    }


def _tree(raw: bytes, depth: int) -> list[list[Any]]:
    return [[kind, _value(value, depth - 1)] for kind, value in attribute_list(raw)]


def _value(raw: bytes, depth: int) -> Any:
    if depth > 0 and _is_nested(raw):
        return _tree(raw, depth)
    return raw.hex()


def _is_nested(raw: bytes) -> bool:
    """Whether these bytes are attributes to the last byte, each of a type below 64 and with a value."""
    used = 0
    for kind, value in attribute_list(raw):
        if kind >= 64 or not value:
            return False
        used += 4 + ((len(value) + 3) & ~3)
    return used != 0 and used == len(raw)
