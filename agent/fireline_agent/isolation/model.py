"""What the rooms of isolation hand one another: this host's network, what its kernel can do, who the agent is."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from fireline_wire.isolation import IsolationOrder

TABLE_PREFIX: Final = "fireline_"
FAMILIES: Final = ("inet", "netdev", "bridge")


class Phase(StrEnum):
    """How far an isolation has come, as it stands on the disk; the kernel knows what is left of the lease."""

    ARMED = "armed"
    CONFIRMED = "confirmed"
    COMMITTED = "committed"
    RELEASING = "releasing"


@dataclass(frozen=True)
class Link:
    """One network interface. `master_kind` is empty where it has no master."""

    name: str
    kind: str = ""
    master_kind: str = ""
    is_loopback: bool = False


@dataclass(frozen=True)
class Identity:
    """How the kernel tells the agent's own packets from those of other programs.

    `cgroup` is its group of version 2 as (level, path below /sys/fs/cgroup), where there is one other than the root.
    """

    uid: int
    port: int
    cgroup: tuple[int, str] | None = None


@dataclass(frozen=True)
class Network:
    """What there is in a network namespace. `prefixes6` are the IPv6 networks that are on a link.

    `redirecting` are links with a filter of tc that may send frames on to another link, `xdp_sockets` the open sockets
    of AF_XDP: both go around every rule.
    """

    links: tuple[Link, ...] = ()
    addresses: tuple[str, ...] = ()
    prefixes6: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    redirecting: tuple[str, ...] = ()
    xdp_sockets: int = 0


@dataclass(frozen=True)
class Capability:
    """What this kernel and its nft can do, found by trial. `refusal` says why nothing can be isolated, or is empty."""

    refusal: str = ""
    has_ingress: bool = True
    has_egress: bool = True
    has_bridge: bool = True
    has_cgroup: bool = True

    @property
    def line(self) -> str:
        """What `host show` prints."""
        if self.refusal:
            return f"not at all: {self.refusal}"
        lacking = [words for has, words in self._parts() if not has]
        return f"without {', '.join(lacking)}" if lacking else "full"

    def _parts(self) -> tuple[tuple[bool, str], ...]:
        return (
            (self.has_ingress, "netdev ingress"),
            (self.has_egress, "netdev egress"),
            (self.has_bridge, "bridge hook"),
        )

    @property
    def lacks(self) -> tuple[str, ...]:
        """What follows from it, each a sentence."""
        return tuple(sentence for has, sentence in self._sentences() if not has and not self.refusal)

    def _sentences(self) -> tuple[tuple[bool, str], ...]:
        return (
            (self.has_ingress, "netdev ingress: frames of macvlan children and raw readers come in"),
            (self.has_egress, "netdev egress (Linux 5.16): raw frames and macvlan children go out"),
            (
                self.has_bridge,
                "bridge hook: containers on one bridge reach each other where bridge-nf-call-iptables is 0",
            ),
        )


@dataclass(frozen=True)
class Place:
    """A container's network namespace: the path that opens it, what is put in force there, on which interfaces."""

    label: str
    namespace: str
    transaction: str
    interfaces: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """One isolation as it would be carried out here.

    `left_ms` is the lease, None for ever; `replaced` are orders that end with it. `tables` are the families that the
    transaction makes the order's table in; `places` are where, in containers. `refusal` is empty where it can be done.
    """

    order: IsolationOrder
    left_ms: int | None = None
    replaced: tuple[str, ...] = ()
    transaction: str = ""
    places: tuple[Place, ...] = ()
    tables: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    refusal: str = ""


@dataclass(frozen=True)
class Cut:
    """A connection that was ended, and whose it was. `pid` is 0 where nobody could be seen to hold it."""

    protocol: str
    local: str
    remote: str
    state: str
    pid: int = 0
    process: str = ""
    container: str = ""


@dataclass(frozen=True)
class Standing:
    """An isolation as it stands: the order, and what the kernel says of it."""

    order: IsolationOrder
    phase: Phase
    is_in_force: bool
    lease_left_ms: int
    armed_at: str
    drifts: int
    dropped_packets: int


@dataclass(frozen=True)
class Ended:
    """An isolation that ended otherwise than by Release. `at` is RFC 3339 UTC."""

    order_id: str
    how: str
    at: str


@dataclass(frozen=True)
class Report:
    """What a release found."""

    order_ids: tuple[str, ...] = ()
    is_restored: bool = True
    difference: str = ""
    applied_us: int = 0


@dataclass(frozen=True)
class Arming:
    """What Arm did. Times are microseconds since the given start."""

    nonce: bytes
    applied_us: int
    cut_us: int
    standing: Standing
    lacks: tuple[str, ...] = ()
    cut: Sequence[Cut] = field(default=())
    flows_dropped: int = 0


def table_name(order_id: str) -> str:
    """The name of an order's tables."""
    return TABLE_PREFIX + hashlib.sha256(order_id.encode()).hexdigest()[:8]
