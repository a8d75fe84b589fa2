"""The door to netlink: ask the kernel for one table, or for a change, without a tool and without a fork.

A socket belongs for good to the network namespace it was made in, so a stay of microseconds in another namespace
is enough. Leaves to others: what the messages of one family mean (rtnetlink, sock_diag, conntrack, nftables).

Sources: netlink(7), Documentation/userspace-api/netlink/intro.rst of the kernel, linux/netlink.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self

NETLINK_ROUTE: Final = 0
NETLINK_SOCK_DIAG: Final = 4
NETLINK_NETFILTER: Final = 12

NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLMSG_OVERRUN: Final = 4
RTNLGRP_LINK: Final = 1  # linux/rtnetlink.h
RTNLGRP_IPV4_IFADDR: Final = 5
RTNLGRP_IPV6_IFADDR: Final = 9
NFNLGRP_NFTABLES: Final = 7  # linux/netfilter/nfnetlink.h
NLA_TYPE_MASK: Final = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

_SOL_NETLINK: Final = 270  # linux/socket.h
_ADD_MEMBERSHIP: Final = 1  # linux/netlink.h
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ANSWER_TIMEOUT_S: Final = 2.0  # the kernel answers within the call: this only guards against a lost message
_RECEIVE_BYTES: Final = 1 << 18  # the kernel fills as much as one receive offers


class NetlinkError(OSError):
    """The kernel refused a request; `errno` is its reason, such as ENOENT for a family it doesn't have."""


class Netlink:
    """One netlink socket, in the network namespace where it was made."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.settimeout(_ANSWER_TIMEOUT_S)
        self._socket.bind((0, 0))
        self._sequence = 0
        # The table changed while it was dumped: entries may be missing or doubled (netlink(7), NLM_F_DUMP_INTR).
        self.was_interrupted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        """Ask for a whole table and yield each message's body. Take all of it before the next request.

        Raises:
            NetlinkError: the kernel refused.
            TimeoutError: the kernel didn't answer.
        """
        self._sequence += 1
        self._socket.send(_request(kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, body))
        while True:
            block = self._socket.recv(_RECEIVE_BYTES)
            for found, flags, sequence, start, end in _messages(block):
                if sequence != self._sequence:
                    continue
                self.was_interrupted = self.was_interrupted or bool(flags & NLM_F_DUMP_INTR)
                if found in (NLMSG_DONE, NLMSG_ERROR):
                    _raise_refusal(block[start : start + 4])
                    return
                yield block[start:end]

    def request(self, kind: int, body: bytes) -> list[bytes]:
        """Ask for one thing or one change, wait until the kernel has done it, and return the bodies that it answered.

        Raises:
            NetlinkError: the kernel refused.
            TimeoutError: the kernel didn't answer.
        """
        self._sequence += 1
        self._socket.send(_request(kind, NLM_F_REQUEST | NLM_F_ACK, self._sequence, body))
        answers: list[bytes] = []
        while True:
            block = self._socket.recv(_RECEIVE_BYTES)
            for found, _, sequence, start, end in _messages(block):
                if sequence != self._sequence:
                    continue
                if found == NLMSG_ERROR:
                    _raise_refusal(block[start : start + 4])
                    return answers
                answers.append(block[start:end])


class Listener:
    """Hears that something changed in the network namespace where it was made; not what: whoever hears looks anew."""

    def __init__(self, protocol: int, groups: Sequence[int]) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setblocking(False)
        self._socket.bind((0, 0))
        for group in groups:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        """For select(2)."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Forget what was heard so far."""
        while True:
            try:
                self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more was told than was heard: a change all the same
                    raise

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


def attributes(body: bytes, start: int = 0) -> dict[int, bytes]:
    """The attributes of a message by type, from this offset on; of a type that is there twice, the last."""
    return dict(attribute_list(body, start))


def attribute_list(body: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes in their order as (type without flags, value). Ends at the first that doesn't fit."""
    end = len(body)
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(body, start)
        if length < 4 or start + length > end:
            return
        yield kind & NLA_TYPE_MASK, body[start + 4 : start + length]
        start += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded, to be put into a request."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def unsigned(value: bytes | None) -> int | None:
    """A number of any width in the machine's byte order; None stays None."""
    return None if value is None else int.from_bytes(value, "little" if _LITTLE else "big")


def network_order(value: bytes | None) -> int | None:
    """A number of any width in network byte order; None stays None."""
    return None if value is None else int.from_bytes(value, "big")


def name(value: bytes | None) -> bytes:
    """A string attribute without its closing zero."""
    return b"" if value is None else value.rstrip(b"\0")


_LITTLE: Final = struct.pack("=H", 1) == b"\x01\x00"


def _request(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def _messages(block: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """The messages of one receive as (type, flags, sequence, start, end)."""
    at = 0
    while at + _HEADER.size <= len(block):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(block, at)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, at + _HEADER.size, at + length
        at += (length + 3) & ~3


def _raise_refusal(code: bytes) -> None:
    number = -struct.unpack("=i", code)[0] if len(code) == 4 else 0
    if number > 0:
        raise NetlinkError(number, f"the kernel refused a netlink request: {os.strerror(number)}")
