"""Hosts in trouble: a full disk, a full table of flows, a clock that jumps. Dark and proved, or as it was."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from fireline_agent.hands.namespaces import entered
from fireline_agent.hands.netlink import NETLINK_NETFILTER, attribute
from fireline_wire.v1 import isolation_pb2
from tests.integration.agent.agents import refusal
from tests.integration.conftest import need
from tests.integration.isolation.ground import Ground, ground, ruleset
from tests.lab import NETNS, default_backend

pytestmark = pytest.mark.netns

_MOST_FLOWS = 300_000  # a machine that takes more is not filled in a test
_LIMIT = Path("/proc/sys/net/netfilter/nf_conntrack_max")
_BATCH = 400
_NESTED = 0x8000  # NLA_F_NESTED
_ASSURED = 0x2 | 0x4 | 0x8  # a full table makes room by forgetting those that are not
_CREATE = 0x1 | 0x400  # NLM_F_REQUEST, NLM_F_CREATE
_TRACKING = """
table inet theirs {
  chain input { type filter hook input priority filter; policy accept; ct state invalid drop
  }
}
"""


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Ground]:
    """One host."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    with ground(tmp_path) as made:
        yield made


async def test_a_full_disk_refuses_an_isolation_and_lets_one_go(lone: Ground) -> None:
    """Nothing is armed that could not be written down; what was armed before is released all the same."""
    host = lone.lab["web-1"]
    first, second = lone.order(host), lone.order(host)
    async with lone.connected(host) as controller:
        await controller.isolate(first, host)
        host.disk_full()
        refused = await refusal(controller.arm(second))
        standing = await controller.status()
        released = await controller.release(first.order_id)
        rules = ruleset(host)
        host.disk_free()
        late = await refusal(controller.arm(second))

    assert refused.reason == "disk_full"
    assert [s.order_id for s in standing.isolations] == [first.order_id]
    assert (list(released.order_ids), rules) == ([first.order_id], "")
    assert late.reason == "fenced"


@pytest.mark.slow
async def test_a_full_table_of_flows_keeps_no_controller_out(lone: Ground) -> None:
    """The controllers' connections are not tracked, and all that is tracked is forgotten."""
    limit = _most_flows()
    need(0 < limit <= _MOST_FLOWS, f"a table of {limit} flows is too large to be filled")
    host = lone.lab["web-1"]
    host.run(["nft", "-f", "-"], text=_TRACKING)
    order = lone.order(host)
    async with lone.connected(host) as controller:
        await controller.status()
        with entered(f"/proc/{host.init_pid}/ns/net"):  # type: ignore[attr-defined]  # a namespace host
            _fill(limit)
        # A SYN that finds no room is dropped: this is what the isolation must not suffer from.
        blocked = await _is_shut_out(host.address)
        armed = await controller.arm(order)
        async with lone.connected(host) as again:
            await again.confirm(order, armed.nonce)
        state = await controller.commit(order)
        released = await controller.release(order.order_id)

    assert blocked
    assert armed.flows_dropped > limit * 0.9
    assert state.phase == isolation_pb2.IsolationState.PHASE_COMMITTED
    assert released.restored


def _most_flows() -> int:
    return int(_LIMIT.read_text()) if _LIMIT.exists() else 0


async def _is_shut_out(address: str) -> bool:
    with socket.socket() as knocking:
        knocking.settimeout(0.5)
        try:
            knocking.connect((address, 7700))
        except TimeoutError:
            return True
        return False


def _fill(limit: int) -> None:
    """Make the kernel remember flows that there never were (linux/netfilter/nfnetlink_conntrack.h)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as door:
        for start in range(0, limit + _BATCH, _BATCH):
            door.send(b"".join(map(_flow, range(start, start + _BATCH))))


def _flow(number: int) -> bytes:
    source, place = socket.inet_aton(f"198.19.{number >> 16 & 255}.{number >> 8 & 255}"), bytes((198, 18, 255, 1))
    forth, back = _tuple(source, place, number & 255), _tuple(place, source, number & 255, is_reply=True)
    body = struct.pack("=4B", socket.AF_INET, 0, 0, 0)
    body += attribute(1 | _NESTED, forth) + attribute(2 | _NESTED, back) + attribute(7, struct.pack(">I", 600))
    body += attribute(3, struct.pack(">I", _ASSURED))
    return struct.pack("=IHHII", 16 + len(body), 1 << 8, _CREATE, 0, 0) + body


def _tuple(source: bytes, destination: bytes, port: int, *, is_reply: bool = False) -> bytes:
    ports = (5000, 1000 + port) if is_reply else (1000 + port, 5000)
    addresses = attribute(1, source) + attribute(2, destination)
    protocol = (
        attribute(1, b"\x11") + attribute(2, struct.pack(">H", ports[0])) + attribute(3, struct.pack(">H", ports[1]))
    )
    return attribute(1 | _NESTED, addresses) + attribute(2 | _NESTED, protocol)
