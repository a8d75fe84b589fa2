"""Isolation's values to wire and back; see `wire`. Addresses must parse, lists and texts are bounded (I8)."""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

from fireline_controller.hosts import wire
from fireline_controller.hosts.values import BAD_DATA
from fireline_controller.hosts.values_isolation import (
    Armed,
    CutConnection,
    EndedIsolation,
    IsolationPlan,
    IsolationState,
    IsolationStatus,
    Released,
    SignedOrder,
)
from fireline_controller.isolation import How, Sight
from fireline_controller.model import HostFailed
from fireline_wire.v1 import isolation_pb2

MAX_ADDRESSES: Final = 64  # of one host: beyond, looking at them takes longer than a lease
MAX_PORTS: Final = 64
_NONCE_BYTES: Final = (16, 64)
_MAX_TRANSACTION: Final = 1 << 20  # characters; a ruleset for a person to read
_MAX_ISOLATIONS: Final = 100


def signed(order: SignedOrder) -> isolation_pb2.SignedOrder:
    """A signed order."""
    return isolation_pb2.SignedOrder(envelope=order.envelope, chain_pem=order.chain_pem)


def plan(said: isolation_pb2.IsolationPlan, *, host: str) -> IsolationPlan:
    """What the host would do.

    Raises:
        HostFailed: an address is none, a port is none, or there are too many.
    """
    return IsolationPlan(
        transaction=_lines(said.transaction),
        capability=wire.text(said.capability),
        lacks=_texts(said.lacks),
        refusal=wire.text(said.refusal),
        addresses=_addresses(said.addresses, host),
        ports=_ports(said.ports, host),
        agent_port=said.agent_port,
        interfaces=_texts(said.interfaces),
        effects=_texts(said.effects),
        ruleset_sha256=wire.text(said.ruleset_sha256),
        machine_id=wire.text(said.machine_id),
    )


def armed(said: isolation_pb2.Armed, *, host: str) -> Armed:
    """How arming went.

    Raises:
        HostFailed: the nonce is too short to prove anything, or too long.
    """
    low, high = _NONCE_BYTES
    if not low <= len(said.nonce) <= high:
        raise _bad(host, f"its nonce has {len(said.nonce)} bytes, wanted {low} to {high}")
    return Armed(
        nonce=said.nonce,
        applied_us=said.applied_us,
        cut_us=said.cut_us,
        sockets_killed=said.sockets_killed,
        flows_dropped=said.flows_dropped,
        cut=tuple(_cut(c) for c in said.cut[: wire.MAX_ITEMS]),
        lacks=_texts(said.lacks),
        replayed=said.replayed,
    )


def state(said: isolation_pb2.IsolationState, *, host: str) -> IsolationState:
    """One isolation.

    Raises:
        HostFailed: its time is no time.
    """
    known = said.phase in isolation_pb2.IsolationState.Phase.values()
    phase = isolation_pb2.IsolationState.Phase.Name(said.phase) if known else "PHASE_UNSPECIFIED"
    return IsolationState(
        order_id=wire.text(said.order_id),
        scope=wire.text(said.scope),
        phase=phase.removeprefix("PHASE_").lower(),
        lease_left_ms=said.lease_left_ms,
        controllers=_texts(said.controllers),
        armed_at=wire.moment(said.armed_at, host) if said.HasField("armed_at") else None,
        operator=wire.text(said.operator),
        incident_id=wire.text(said.incident_id),
        reason=wire.text(said.reason),
        drifts=said.drifts,
        dropped_packets=said.dropped_packets,
    )


def released(said: isolation_pb2.Released) -> Released:
    """How a release went."""
    return Released(
        order_ids=_texts(said.order_ids),
        restored=said.restored,
        difference=wire.text(said.difference),
        applied_us=said.applied_us,
        replayed=said.replayed,
    )


def status(said: isolation_pb2.IsolationStatus, *, host: str) -> IsolationStatus:
    """What is in force.

    Raises:
        HostFailed: a time in it is no time.
    """
    return IsolationStatus(
        isolations=tuple(state(s, host=host) for s in said.isolations[:_MAX_ISOLATIONS]),
        capability=wire.text(said.capability),
        lacks=_texts(said.lacks),
        ended=tuple(
            EndedIsolation(wire.text(e.order_id), wire.text(e.how), wire.moment(e.at, host))
            for e in said.ended[:_MAX_ISOLATIONS]
        ),
    )


def sights(
    reply: isolation_pb2.LookReply, addresses: Sequence[str], ports: Sequence[int], *, host: str
) -> tuple[Sight, ...]:
    """What a witness saw.

    Raises:
        HostFailed: not exactly one sight for each address and port that it was asked for.
    """
    wanted = sorted((address, port) for address in addresses for port in ports)
    if sorted((s.address, s.port) for s in reply.seen) != wanted:
        raise _bad(host, f"as a witness it told of {len(reply.seen)} places, wanted each of {len(wanted)} once")
    return tuple(Sight(s.address, s.port, _HOWS.get(s.how, How.UNREACHABLE)) for s in reply.seen)


_HOWS: Final = {
    isolation_pb2.Seen.HOW_CONNECTED: How.CONNECTED,
    isolation_pb2.Seen.HOW_REFUSED: How.REFUSED,
    isolation_pb2.Seen.HOW_SILENT: How.SILENT,
}


def _cut(said: isolation_pb2.CutConnection) -> CutConnection:
    return CutConnection(
        protocol=wire.text(said.protocol),
        local=wire.text(said.local),
        remote=wire.text(said.remote),
        state=wire.text(said.state),
        pid=said.pid,
        process=wire.text(said.process),
        container=wire.text(said.container),
    )


def _texts(said: Sequence[str]) -> tuple[str, ...]:
    return tuple(wire.text(t) for t in said[: wire.MAX_ITEMS])


def _lines(said: str) -> str:
    kept = said[:_MAX_TRANSACTION]
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in kept)


def _addresses(said: Sequence[str], host: str) -> tuple[str, ...]:
    """Each as it is commonly written, once. A witness that connects to loopback would see itself."""
    if len(said) > MAX_ADDRESSES:
        raise _bad(host, f"it has {len(said)} addresses, wanted at most {MAX_ADDRESSES}")
    return tuple(dict.fromkeys(_address(one, host) for one in said))


def _address(said: str, host: str) -> str:
    try:
        parsed = ipaddress.ip_address(said)
    except ValueError:
        raise _bad(host, f"it calls {wire.text(said)[:100]!r} its address") from None
    if parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast or parsed.is_link_local or "%" in said:
        raise _bad(host, f"it says that others reach it at {parsed}")
    return str(parsed)


def _ports(said: Iterable[int], host: str) -> tuple[int, ...]:
    ports = tuple(dict.fromkeys(said))
    if len(ports) > MAX_PORTS or not all(1 <= port <= 65535 for port in ports):
        raise _bad(host, f"it names {len(ports)} ports: wanted at most {MAX_PORTS}, each from 1 to 65535")
    return ports


def _bad(host: str, what: str) -> HostFailed:
    return HostFailed(f"{host}: {what}", reason=BAD_DATA)
