"""What operators do on the hosts of a run while it waits for a person: the run's locks let just that through.

A step by hand asks for actions that nobody could know before; without this the run itself would be in their way.
"""

import re
from collections.abc import Sequence
from typing import Final

from fireline_controller import targets
from fireline_controller.model import NotFound, PolicyError
from fireline_controller.runbooks.record import ENDED, Part
from fireline_controller.store import Transaction

_RUN: Final = re.compile(r"run-[0-9a-f]+-[0-9a-f]+\Z")


def require(tx: Transaction, run_id: str, hosts: Sequence[str]) -> None:
    """Check that a run waits for a person now, on these hosts.

    Raises:
        NotFound: there is no such run.
        PolicyError: it has nothing done by hand now, or on other hosts.
    """
    waiting = _waiting(tx, run_id)
    if not waiting:
        message = f"--run {run_id}: it has nothing done by hand now (`fireline runbook status {run_id}`)"
        raise PolicyError(message, reason="invalid_request")
    its = sorted({host for found in waiting.values() for host in found})
    if strange := sorted(set(hosts) - set(its)):
        where = f"step {', '.join(waiting)} is on {targets.fold(its)}, not on {targets.fold(strange)}"
        raise PolicyError(f"--run {run_id}: {where}", reason="invalid_request")


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
