"""One host without an engine, whose agent a test alone gives orders to, and whose rules and world it may break."""

from dataclasses import dataclass

import grpc

from fireline_wire.v1 import isolation_pb2
from tests.isolation.ordering import Order, Ordering
from tests.lab import Host, Vantage, eventually

LEASE_S = 6
LAPSED_S = LEASE_S + 4.0  # a loaded machine looks late
REPAIRED_S = 8.0
COMMITTED = isolation_pb2.IsolationState.PHASE_COMMITTED


@dataclass(frozen=True)
class Lone:
    """A host, the world, and orders to its agent."""

    host: Host
    outsider: Vantage
    ordering: Ordering
    former: str  # the ruleset of before

    def order(self) -> Order:
        """An order with a short lease."""
        return self.ordering.signed(lease_s=LEASE_S)

    def restart(self) -> None:
        """Start the agent where it does not run, and wait until it answers."""
        self.host.start_agent()
        eventually(self.answers, within_s=20, what="the agent to answer", every_s=0.1)

    def standing(self) -> list[tuple[str, int]]:
        """What is in force by the kernel: order and phase."""
        return [(state.order_id, state.phase) for state in self.ordering.status().isolations]

    def is_former(self) -> bool:
        """Whether the rules are what they were, byte by byte."""
        return ruleset(self.host) == self.former

    def answers(self) -> bool:
        """Whether the agent does."""
        try:
            self.ordering.status()
        except grpc.RpcError:
            return False
        return True


def ruleset(host: Host) -> str:
    """The rules of now, without counters."""
    return host.vantage.run(["nft", "-s", "list", "ruleset"])


OWN_RULES = """
table inet own {
  set friends { type ipv4_addr; elements = { 198.18.0.1 } }
  chain input { type filter hook input priority filter; policy accept;
    ip saddr @friends counter accept
    tcp dport 1 drop
  }
}
"""
