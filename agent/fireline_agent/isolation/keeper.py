"""Carry out isolations of this host, step by step: arm, confirm, commit, amend, and say what stands.

The disk is written before the kernel is changed (invariant I6), under one lock with the console, the boot unit and the
watchdog. Blocking: the server runs it on threads. Leaves to others: letting go (releasing), finding and mending what
changed (upkeep), the rules (plan, rules).
"""

import hmac
import secrets
import time
from dataclasses import dataclass, replace
from typing import Final

from fireline_agent.errors import RefusedError
from fireline_agent.isolation.cutting import plain_address
from fireline_agent.isolation.ground import BY_CODE, LAPSED, Ground
from fireline_agent.isolation.means import Force, MeansError
from fireline_agent.isolation.model import Arming, Phase, Plan, Standing
from fireline_agent.isolation.orders import Signed
from fireline_agent.isolation.records import Record, advanced
from fireline_wire.isolation import IsolationOrder

_NONCE_BYTES: Final = 32
_UNDER_LEASE: Final = frozenset({Phase.ARMED, Phase.CONFIRMED})


@dataclass(frozen=True)
class Caller:
    """Where a call came from. `peer` tells one connection from another."""

    peer: str
    address: str


class Keeper(Ground):
    """Carries out what the controller asks. Safe from any thread."""

    def plan(self, signed: Signed) -> Plan:
        """What an order would do here.

        Raises:
            RefusedError: it is not believed.
        """
        order = self.orders.opened(signed)
        return self.means(order).plan(order, left_ms=order.lease_s * 1000)

    def arm(self, signed: Signed, caller: Caller, *, started_ns: int) -> Arming:
        """Put an order in force under its lease, and end what was connected.

        Args:
            signed: the order.
            caller: who would confirm it.
            started_ns: of the monotonic clock; times are measured from it.

        Raises:
            RefusedError: lockout, fenced, superseded, unsupported, disk_full, or it is not believed; nothing changed.
        """
        order = self.orders.opened(signed)
        _require_open(order, caller)
        with self.records.locked():
            planned, record = self._armed(order, signed, caller)
            applied_us = _since_us(started_ns)
        harvest = self.means(order).cut(order)
        cut_us = _since_us(started_ns)
        self.records.history.keep_cut(record.name, harvest.cut)
        left_ms = max(1, order.lease_s * 1000 - cut_us // 1000)
        return Arming(
            nonce=record.nonce,
            applied_us=applied_us,
            cut_us=cut_us,
            standing=_standing(record, Force(is_there=True, lease_left_ms=left_ms)),
            lacks=(*planned.lacks, *harvest.lacks),
            cut=harvest.cut,
            flows_dropped=harvest.flows,
        )

    def note_ruleset(self, order_id: str) -> None:
        """Keep the ruleset of everybody else, which Release compares with. Not in Arm: 10,000 rules take their time."""
        with self.records.locked():
            record = self._find(order_id)
            if record is not None:
                self.note_ruleset_of(record)

    def confirm(self, order_id: str, nonce: bytes, caller: Caller) -> Standing:
        """Note that the controller came back on a connection that was made after Arm.

        Raises:
            RefusedError: not_found, not_proved, disk_full.
        """
        with self.records.locked():
            record = self._known(order_id)
            if record.phase not in _UNDER_LEASE:
                raise RefusedError(
                    "invalid_request", f"order {order_id} is {record.phase}: there is nothing to confirm"
                )
            if not hmac.compare_digest(nonce, record.nonce):
                raise RefusedError("not_proved", f"order {order_id}: the nonce is not the one of Arm")
            if caller.peer == record.peer:
                raise RefusedError(
                    "not_proved", f"order {order_id}: this is the connection of Arm ({caller.peer}); make a new one"
                )
            force = self._unlapsed(record)
            confirmed = advanced(record, Phase.CONFIRMED)
            self.records.keep(confirmed)
            self.note(confirmed, "confirmed", peer=caller.peer)
            return _standing(confirmed, force)

    def commit(self, order_id: str) -> Standing:
        """End the lease.

        Raises:
            RefusedError: not_found; not_proved, where it was not confirmed or the lease has run out; disk_full.
        """
        with self.records.locked():
            record = self._known(order_id)
            if record.phase is Phase.COMMITTED:
                return _standing(record, self.look(record))
            if record.phase is not Phase.CONFIRMED:
                raise RefusedError("not_proved", f"order {order_id} is {record.phase}, wanted confirmed")
            self.note_ruleset_of(record)
            return self._committed(record)

    def amend(self, signed: Signed, caller: Caller) -> Standing:
        """Replace the addresses that stay open, in one transaction.

        Raises:
            RefusedError: not_found, lockout, fenced, unsupported, disk_full, or the order is not believed.
        """
        order = self.orders.opened(signed)
        _require_open(order, caller)
        with self.records.locked():
            self._require_unfenced(order)
            former = self._known(order.order_id)
            if former.order.scope != order.scope:
                raise RefusedError("invalid_request", f"order {order.order_id} is of {former.order.scope}")
            force = self._unlapsed(former) if former.phase in _UNDER_LEASE else Force(lease_left_ms=None)
            amended = replace(former, order=order, signed=signed)
            self.records.raise_fence(order.fence_token)
            self.records.keep(amended)
            try:
                self.put(amended, left_ms=force.lease_left_ms)
            except MeansError as error:
                self.records.keep(former)
                raise RefusedError("unsupported", f"the order stands as it was: {error}") from None
            self.note(amended, "amended", controllers=list(order.controllers))
        self.records.history.keep_cut(amended.name, self.means(order).cut(order).cut)
        return _standing(amended, self.look(amended))

    def status(self) -> tuple[list[Standing], list[str]]:
        """Every isolation of this host, read from the kernel; and those that it does not tell of, each a sentence.

        Raises:
            RefusedError: busy.
        """
        told: list[Standing] = []
        untold: list[str] = []
        if not self.records.is_there:
            return told, untold
        with self.records.locked():
            for record in self.live():
                try:
                    told.append(_standing(record, self.look(record, is_whole=True)))
                except RefusedError as error:
                    name = f"{record.order.scope} (order {record.order.order_id}, {record.phase})"
                    untold.append(f"{name}: whether it is in force can't be told: {error.message}")
        return told, untold

    def _armed(self, order: IsolationOrder, signed: Signed, caller: Caller) -> tuple[Plan, Record]:
        self._require_unfenced(order)
        found = self.records.all()
        former = next((record for record in found if record.order.order_id == order.order_id), None)
        self._require_unused(order, former)
        rivals = [r for r in found if r.order.scope == order.scope and r is not former]
        record = Record(
            order=order,
            signed=signed,
            phase=Phase.ARMED,
            nonce=secrets.token_bytes(_NONCE_BYTES),
            peer=caller.peer,
            armed_at=self.now().isoformat(),
            replaces=tuple(rival.order.order_id for rival in rivals),
        )
        planned = self.means(order).plan(order, left_ms=order.lease_s * 1000)
        if planned.refusal:
            raise RefusedError("unsupported", f"this host can't isolate {order.scope}: {planned.refusal}")
        self.records.save_room()
        self.records.raise_fence(order.fence_token)
        self.records.keep(record)
        try:
            self.put(record, left_ms=order.lease_s * 1000, replaced=record.replaces)
        except MeansError as error:
            self._undo(record)
            raise RefusedError("unsupported", f"nothing was changed: {error}") from None
        self.note(record, "armed", operator=order.operator, reason=order.reason, peer=caller.peer)
        return planned, record

    def _undo(self, record: Record) -> None:
        """A transaction that was cut short may have got through: what came of it goes away, or its lease runs out."""
        try:
            self.means(record.order).lift(record.order)
        except MeansError as error:
            self.note(record, "not taken away", why=str(error))
        self.records.forget(record.name)
        self.note(record, "not armed")

    def _committed(self, record: Record) -> Standing:
        committed = advanced(record, Phase.COMMITTED)
        self.records.keep(replace(committed, replaces=()))
        try:
            self.means(record.order).make_permanent(record.order)
        except MeansError as error:
            self.records.keep(record)
            raise RefusedError("not_proved", f"order {record.order.order_id}: the lease ran out: {error}") from None
        for order_id in record.replaces:
            self._drop_replaced(order_id)
        self.leases.pop(record.name, None)
        self.note(committed, "committed")
        return _standing(committed, Force(is_there=True, lease_left_ms=None))

    def _drop_replaced(self, order_id: str) -> None:
        for record in self.records.all():
            if record.order.order_id == order_id:
                self.records.forget(record.name)
                self.note(record, "superseded")

    def _unlapsed(self, record: Record) -> Force:
        force = self.look(record)
        if not force.is_there and force.lease_left_ms:
            force = self._completed(record, force.lease_left_ms)
        if not force.is_there or force.lease_left_ms == 0:
            raise RefusedError("not_proved", f"order {record.order.order_id}: the lease ran out, nothing is in force")
        return force

    def _completed(self, record: Record, left_ms: int) -> Force:
        """A process that came after Arm is stopped too: what starts again and again must not refuse its own stop."""
        try:
            self.put(record, left_ms=left_ms)
        except MeansError as error:
            raise RefusedError("unsupported", f"not all of {record.order.scope} can be stopped: {error}") from None
        return self.look(record)

    def _find(self, order_id: str) -> Record | None:
        return next((record for record in self.records.all() if record.order.order_id == order_id), None)

    def _known(self, order_id: str) -> Record:
        record = self._find(order_id)
        if record is None:
            raise RefusedError("not_found", f"this host has no isolation {order_id[:100]!r} in force")
        return record

    def _require_unfenced(self, order: IsolationOrder) -> None:
        newest = self.records.fence()
        if order.fence_token < newest:
            raise RefusedError(
                "fenced", f"order {order.order_id} has token {order.fence_token}, older than {newest}, seen here before"
            )

    def _require_unused(self, order: IsolationOrder, former: Record | None) -> None:
        if former is not None and former.phase not in _UNDER_LEASE:
            raise RefusedError("invalid_request", f"order {order.order_id} is {former.phase}: it can't be armed again")
        over = {"released", "superseded", LAPSED, BY_CODE}
        ended = (entry for entry in self.records.history.entries() if entry.get("what") in over)
        if former is None and any(entry.get("order_id") == order.order_id for entry in ended):
            raise RefusedError("superseded", f"order {order.order_id} has ended on this host: give a new one")


def _require_open(order: IsolationOrder, caller: Caller) -> None:
    try:
        is_open = str(plain_address(caller.address)) in order.controllers
    except ValueError:
        is_open = False
    if not is_open:
        raise RefusedError(
            "lockout",
            f"the call comes from {caller.address or 'no address'}, which is not among the controllers that the order "
            f"leaves open ({', '.join(order.controllers)}): it would cut the caller off; nothing was changed",
        )


def _standing(record: Record, force: Force) -> Standing:
    return Standing(
        order=record.order,
        phase=record.phase,
        is_in_force=force.is_there and force.lease_left_ms != 0,
        lease_left_ms=force.lease_left_ms or 0,
        armed_at=record.armed_at,
        drifts=record.drifts,
        dropped_packets=force.dropped_packets,
    )


def _since_us(started_ns: int) -> int:
    return max(0, (time.monotonic_ns() - started_ns) // 1000)
