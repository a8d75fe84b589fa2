"""What goes to a host about its isolation and what comes back, as values; see `values`."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class SignedOrder:
    """An isolation order in its envelope, with the certificate of the controller that signed, leaf first, PEM."""

    envelope: bytes
    chain_pem: bytes


@dataclass(frozen=True)
class IsolationPlan:
    """What isolating would do on a host, and what the host can't do; `refusal` is why it can't be carried out at all.

    `addresses` and `ports` are where others could reach it over TCP, the agent's own port among them.
    """

    transaction: str
    capability: str
    lacks: tuple[str, ...]
    refusal: str
    addresses: tuple[str, ...]
    ports: tuple[int, ...]
    agent_port: int
    interfaces: tuple[str, ...]
    effects: tuple[str, ...]
    ruleset_sha256: str
    machine_id: str


@dataclass(frozen=True)
class CutConnection:
    """Somebody who was connected when the rules came into force."""

    protocol: str
    local: str
    remote: str
    state: str
    pid: int
    process: str
    container: str


@dataclass(frozen=True)
class IsolationState:
    """One isolation by the host's kernel. `phase`: none, armed, confirmed or committed."""

    order_id: str
    scope: str
    phase: str
    lease_left_ms: int
    controllers: tuple[str, ...]
    armed_at: datetime | None
    operator: str
    incident_id: str
    reason: str
    drifts: int
    dropped_packets: int


@dataclass(frozen=True)
class Armed:
    """The rules are in force under a lease. `nonce` is what Confirm must bring on a new connection."""

    nonce: bytes
    applied_us: int
    cut_us: int
    sockets_killed: int
    flows_dropped: int
    cut: tuple[CutConnection, ...]
    lacks: tuple[str, ...]
    replayed: bool


@dataclass(frozen=True)
class Released:
    """What was released, and whether the ruleset is what it was before; `difference` says where it is not."""

    order_ids: tuple[str, ...]
    restored: bool
    difference: str
    applied_us: int
    replayed: bool


@dataclass(frozen=True)
class EndedIsolation:
    """An isolation that ended other than by a release, and how."""

    order_id: str
    how: str
    at: datetime


@dataclass(frozen=True)
class IsolationStatus:
    """What is in force on a host, by its kernel."""

    isolations: tuple[IsolationState, ...]
    capability: str
    lacks: tuple[str, ...]
    ended: tuple[EndedIsolation, ...]
