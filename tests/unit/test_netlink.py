"""What the kernel's netlink answers are taken apart into, and what happens to those that don't fit."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireline_agent.hands import conntrack, nftables, rtnetlink, sock_diag
from fireline_agent.hands.netlink import (
    NETLINK_SOCK_DIAG,
    Netlink,
    NetlinkError,
    attribute,
    attribute_list,
    attributes,
    network_order,
    unsigned,
)

_PAIRS = st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=64)), max_size=8)


@given(_PAIRS)
def test_attributes_come_back_as_they_were_put(pairs: list[tuple[int, bytes]]) -> None:
    """Padding and order are kept, whatever the values hold."""
    raw = b"".join(attribute(kind, value) for kind, value in pairs)

    assert list(attribute_list(raw)) == pairs


@given(st.binary(max_size=300), st.integers(0, 40))
def test_garbage_ends_the_list_and_nothing_else(raw: bytes, start: int) -> None:
    """A body that is cut short or lies about lengths is read as far as it fits."""
    found = attributes(raw, start)

    assert sum(len(value) for value in found.values()) <= len(raw)


def test_numbers_are_read_in_either_byte_order() -> None:
    """Netfilter answers in network byte order, the rest in the machine's; what is missing stays missing."""
    assert network_order(b"\x00\x00\x01\x02") == 258
    assert unsigned((258).to_bytes(4, "little" if socket.htons(1) != 1 else "big")) == 258
    assert (network_order(None), unsigned(None)) == (None, None)


def test_a_refusal_is_told_with_the_kernels_reason() -> None:
    """A family that the kernel doesn't have is an error that says so, and the socket stays usable."""
    with Netlink(NETLINK_SOCK_DIAG) as netlink:
        with pytest.raises(NetlinkError, match="the kernel refused a netlink request: "):
            list(netlink.dump(sock_diag.SOCK_DIAG_BY_FAMILY, bytes([250]) + bytes(60)))

        assert sock_diag.sockets().methods["tcp"] == "sock_diag"


@given(st.binary(max_size=400))
def test_hostile_messages_break_no_decoder(raw: bytes) -> None:
    """Names of links, flows and rules come from whoever may set them: any bytes are read to a value."""
    assert "original" in conntrack._flow(bytes(4) + raw)
    assert nftables._entry("rule", bytes(4) + raw)["what"] == "rule"
    assert isinstance(rtnetlink._xdp(raw), dict)
    assert isinstance(rtnetlink._next_hops(socket.AF_INET, raw), list)


def test_attribute_trees_are_inferred_where_the_kernel_doesnt_flag_them() -> None:
    """nftables nests without saying so: what fits exactly is a branch, everything else a leaf."""
    leaf = attribute(1, b"payload\0")
    raw = attribute(4, attribute(1, leaf)) + attribute(3, b"\0\0\0\0\0\0\0\x07")

    assert nftables._tree(raw, 8) == [[4, [[1, [[1, b"payload\0".hex()]]]]], [3, "0000000000000007"]]
