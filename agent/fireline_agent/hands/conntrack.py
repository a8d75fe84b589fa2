"""The door to connection tracking: the flows that the kernel remembers, through ctnetlink or /proc.

Acts in the network namespace this thread is in. Leaves to others: what a flow means.

Sources: linux/netfilter/nfnetlink_conntrack.h, linux/netfilter/nf_conntrack_tcp.h, conntrack(8).
"""

import errno
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands.netlink import NETLINK_NETFILTER, Netlink, NetlinkError, attributes, network_order

_GET_FLOWS: Final = (1 << 8) | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_DELETE_FLOWS: Final = (1 << 8) | 2  # IPCTNL_MSG_CT_DELETE
_GET_STATISTICS: Final = (1 << 8) | 5  # IPCTNL_MSG_CT_GET_STATS
_HEADER_BYTES: Final = 4  # nfgenmsg
_TCP_STATES: Final = (
    "NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE",
    "SYN_SENT2",
)  # fmt: skip
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 58: "icmpv6", 132: "sctp", 136: "udplite"}
_STATUS: Final = {0x2: "seen-reply", 0x4: "assured", 0x8: "confirmed", 0x10: "source-nat", 0x20: "destination-nat"}


def flows(table: Path = Path("/proc/thread-self/net/nf_conntrack")) -> Iterator[dict[str, Any]]:
    """Every flow, one at a time: a busy gateway has a million. The text table serves where ctnetlink isn't.

    Raises:
        FileNotFoundError: this kernel tracks no connections, or shows them in neither way.
        OSError: neither may be read.
    """
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            for message in netlink.dump(_GET_FLOWS, struct.pack("=4B", 0, 0, 0, 0)):
                yield _flow(message)
    except NetlinkError:
        with table.open("rb") as lines:
            for line in lines:
                yield {"line": line.decode(errors="backslashreplace").rstrip()}


def forget_all() -> int:
    """Make the kernel forget every flow; what is offloaded to a flow table ends with it. Returns how many there were.

    A namespace whose kernel tracks nothing has none.

    Raises:
        OSError: we may not.
    """
    with Netlink(NETLINK_NETFILTER) as netlink:
        try:
            count = _count(netlink)
            netlink.request(_DELETE_FLOWS, struct.pack("=4B", 0, 0, 0, 0))
        except NetlinkError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT):  # ctnetlink is not in this kernel
                return 0
            raise
    return count


def _count(netlink: Netlink) -> int:
    answers = netlink.request(_GET_STATISTICS, struct.pack("=4B", 0, 0, 0, 0))
    return sum(network_order(attributes(answer, _HEADER_BYTES).get(1)) or 0 for answer in answers)


def _flow(message: bytes) -> dict[str, Any]:
    found = attributes(message, _HEADER_BYTES)
    status = network_order(found.get(3)) or 0
    flow: dict[str, Any] = {
        "original": _tuple(found.get(1, b"")),
        "reply": _tuple(found.get(2, b"")),
        "status": [word for bit, word in _STATUS.items() if status & bit],
        "timeout_s": network_order(found.get(7)),
        "mark": network_order(found.get(8)),
        "zone": network_order(found.get(18)),
        "id": network_order(found.get(12)),
    }
    state = attributes(attributes(found.get(4, b"")).get(1, b"")).get(1)  # CTA_PROTOINFO > TCP > STATE
    if state is not None:
        flow["state"] = _TCP_STATES[state[0]] if state[0] < len(_TCP_STATES) else str(state[0])
    flow |= dict(_counters(found))
    started = attributes(found.get(20, b"")).get(1)  # CTA_TIMESTAMP_START, kept only where accounting is on
    return flow | ({"started_at_ns": network_order(started)} if started else {})


def _counters(found: dict[int, bytes]) -> Iterator[tuple[str, dict[str, int | None]]]:
    for kind, side in ((9, "original_count"), (10, "reply_count")):
        if kind in found:
            counted = attributes(found[kind])
            yield side, {"packets": network_order(counted.get(1)), "bytes": network_order(counted.get(2))}


def _tuple(raw: bytes) -> dict[str, Any]:
    found = attributes(raw)
    address, protocol = attributes(found.get(1, b"")), attributes(found.get(2, b""))
    number = network_order(protocol.get(1)) or 0
    result: dict[str, Any] = {
        "source": _host(address.get(1) or address.get(3)),
        "destination": _host(address.get(2) or address.get(4)),
        "protocol": _PROTOCOLS.get(number, str(number)),
    }
    for kind, key in ((2, "source_port"), (3, "destination_port"), (4, "id"), (5, "type"), (6, "code")):
        if kind in protocol:
            result[key] = network_order(protocol[kind])
    return result


def _host(raw: bytes | None) -> str:
    if raw is None or len(raw) not in (4, 16):
        return ""
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)
