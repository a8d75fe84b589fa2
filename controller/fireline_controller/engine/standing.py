"""The record of isolations brought in line with what the hosts' kernels say, and with the time."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from fireline_controller.engine import isolation_entries as entries
from fireline_controller.engine.grounds import withdraw
from fireline_controller.hosts import IsolationStatus
from fireline_controller.isolation import IN_FORCE, Isolation, Phase
from fireline_controller.store import Transaction


def reconcile(tx: Transaction, host: str, status: IsolationStatus, *, asked_at: datetime, now: datetime) -> None:
    """Put on record what became of a host's isolations, by its answer to a question that was asked at a time.

    Those that somebody is at work on, or was since then, are left alone: the answer may be older than what they did.
    """
    phases = {state.order_id: state.phase for state in status.isolations}
    ended = {one.order_id: one.how for one in status.ended}
    for isolation in tx.isolations(IN_FORCE, host):
        finished_at = tx.operation(isolation.operation_id).finished_at
        if finished_at is None or finished_at >= asked_at:
            continue
        found = _found(isolation, phases, ended, now)
        if found is not None:
            changed, what = found
            tx.put_isolation(changed)
            tx.append(entries.noticed(changed, now, f"{host}: {what}"))


def expire(tx: Transaction, now: datetime) -> None:
    """End the orders that have waited for their hosts for as long as they may."""
    for isolation in tx.isolations({Phase.PENDING}):
        if isolation.not_after is not None and isolation.not_after <= now:
            withdraw(tx, isolation, now, "out of time")


def _found(
    isolation: Isolation, phases: Mapping[str, str], ended: Mapping[str, str], now: datetime
) -> tuple[Isolation, str] | None:
    """The isolation as it turns out to be, and what is to be said of that; None where nothing is new."""
    phase = phases.get(isolation.order_id, "none")
    if phase == "committed":
        if isolation.phase is Phase.COMMITTED:
            return None
        what = "found committed, which the controller had not heard before it was stopped"
        return replace(isolation, phase=Phase.COMMITTED, committed_at=now, proof=what), what
    if phase != "none":
        return None  # its lease runs
    how = ended.get(isolation.order_id, "")
    if "console" in how:
        return replace(isolation, phase=Phase.BROKEN, ended_at=now), f"no longer isolated: {how}"
    said = how or ("it says that nothing is in force" if isolation.phase is Phase.COMMITTED else "its lease is over")
    return replace(isolation, phase=Phase.LIFTED, ended_at=now), f"not isolated: {said}"
