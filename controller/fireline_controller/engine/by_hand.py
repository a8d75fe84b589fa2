"""What operators do on the hosts of a run while it waits for a person: the run's locks let just that through.

A step by hand asks for actions that nobody could know before; without this the run itself would be in their way. One
of them at a time changes a host, and the run goes on once the last has ended.
"""

import re
from collections.abc import Sequence
from typing import Final

from fireline_controller import targets
from fireline_controller.model import NotFound, PolicyError
from fireline_controller.runbooks.record import ENDED, Part
from fireline_controller.store import Transaction

_CHANGING: Final = frozenset({"remediate", "undo"})
_RUN: Final = re.compile(r"run-[0-9a-f]+-[0-9a-f]+\Z")


def require(tx: Transaction, run_id: str, hosts: Sequence[str], *, but: str = "") -> None:
    """Check that a run waits for a person now, on these hosts. `but`: the operation that asks.

    Raises:
        NotFound: there is no such run.
        PolicyError: it has nothing done by hand now, or on other hosts; host_locked: another operation changes one.
    """
    waiting = _waiting(tx, run_id)
    if not waiting:
        message = f"--run {run_id}: it has nothing done by hand now (`fireline runbook status {run_id}`)"
        raise PolicyError(message, reason="invalid_request")
    its = sorted({host for found in waiting.values() for host in found})
    if strange := sorted(set(hosts) - set(its)):
        where = f"step {', '.join(waiting)} is on {targets.fold(its)}, not on {targets.fold(strange)}"
        raise PolicyError(f"--run {run_id}: {where}", reason="invalid_request")
    require_idle(tx, hosts, but=but)


def require_idle(tx: Transaction, hosts: Sequence[str], *, but: str = "") -> None:
    """Check that no operation but this one changes any of these hosts now.

    Raises:
        PolicyError: host_locked: one does; says whose since when.
    """
    for other in tx.operations(unfinished=True):
        if other.id != but and other.kind in _CHANGING and not set(hosts).isdisjoint(other.target.hosts):
            since = f"since {other.started_at:%H:%M:%S} UTC"
            message = f"{other.operator}'s {other.id} still changes {other.target.folded} {since}: wait for its end"
            raise PolicyError(message, reason="host_locked")


def advice(tx: Transaction, owner: str) -> str:
    """How to do what a step by hand asks for, where the owner of a lock is a run that waits with one; else empty."""
    try:
        waiting = _waiting(tx, owner) if _RUN.match(owner) else {}
    except NotFound:
        return ""
    return f"if its step {', '.join(waiting)} asks for this, say --run {owner}" if waiting else ""


def _waiting(tx: Transaction, run_id: str) -> dict[str, tuple[str, ...]]:
    """The steps by hand that it waits with, and their hosts."""
    if tx.run(run_id).state in ENDED:
        return {}
    moves = (taken.move for taken in tx.moves(run_id) if taken.ends is None)
    return {move.step: move.hosts for move in moves if move.part is Part.MANUAL}
