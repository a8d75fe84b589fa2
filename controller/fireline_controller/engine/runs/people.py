"""What a run waits for people for: approval of a step, and what is done by hand.

Both are moves like others: what is waited for is on record before anybody waits, with the time at which it is over, so
that a controller which takes the run up waits on for the same and not a moment longer.
"""

import hashlib
import secrets
from dataclasses import replace
from datetime import datetime, timedelta

from fireline_controller import policy, targets
from fireline_controller.engine import permits
from fireline_controller.engine.runs import entries
from fireline_controller.model import Outcome, PolicyError
from fireline_controller.policy import Approval, Demand
from fireline_controller.runbooks.ground import Ground
from fireline_controller.runbooks.model import Manual, Step
from fireline_controller.runbooks.record import HostEnd, Move, Part, Run, Taken
from fireline_controller.store import Transaction

REQUEST = "approval"  # in an APPROVE move's plans: the request's id
_SHOWN_HOSTS = 20  # whose effect stands in a request; the plans of all are in it
_SHOWN_EFFECTS = 3  # in its one sentence


def asked(tx: Transaction, run: Run, ground: Ground, move: Move, now: datetime) -> Move:
    """Ask for approval of a step, of an action by its plans and values; the move with the request's id in it."""
    step, planned = ground.steps[move.step], ground.ends(move.step, Part.PLAN) or {}
    if step.approval is None:
        raise RuntimeError(f"step {step.id} needs no approval")
    filled = ground.taken[Move(step.id, Part.BEGIN).key].move.filled
    hosts = targets.fold(move.hosts)
    plans = {host: planned[host] for host in move.hosts if host in planned}
    parameters = {
        "run": run.id,
        "step": step.id,
        "does": entries.kind(step),
        "given": {targets.fold(one.hosts): dict(one.given) for one in filled},
        "plans": {host: end.plan_sha256 for host, end in plans.items()},
        "effects": {host: end.effect for host, end in list(plans.items())[:_SHOWN_HOSTS]},
    }
    summary = f"{run.runbook} ({run.id}): step {step.id}: {step.title or entries.kind(step)} on {hosts}"
    if effects := dict.fromkeys(end.effect for end in plans.values()):
        summary += f": {'; '.join(list(effects)[:_SHOWN_EFFECTS])}{'; …' if len(effects) > _SHOWN_EFFECTS else ''}"
    approval = Approval(
        id=f"apr-{int(now.timestamp() * 1000):011x}-{secrets.token_hex(4)}",
        digest=hashlib.sha256(f"{run.id}/{step.id}/{','.join(move.hosts)}".encode()).hexdigest(),
        action="runbook",
        summary=summary,
        hosts=hosts,
        parameters=parameters,
        requester=run.operator,
        reason=run.reason,
        incident_id=run.incident_id,
        asked_at=now,
        expires_at=now + timedelta(seconds=step.approval.timeout_s),
        demands=(Demand(step.approval.count, step.approval.operators),),
    )
    tx.put_approval(approval)
    words = f"{run.operator} asks for approval: {summary}"
    tx.append(replace(permits.entry(approval, "asked", run.operator, now, words), operation_id=run.id))
    return replace(move, plans={REQUEST: approval.id})


def heard(tx: Transaction, run: Run, move: Move, operators: frozenset[str], now: datetime) -> HostEnd | None:
    """What became of the request; None while it is open. One that is met is spent."""
    approval = tx.approval(move.plans[REQUEST])
    standing = policy.standing(approval, now)
    if standing == "spent":
        return HostEnd("", Outcome.OK, f"approved by {_voices(approval)}")
    if standing == "denied":
        last = approval.votes[-1]
        return HostEnd("", Outcome.DENIED, f"{last.by} denied it{f': {last.reason}' if last.reason else ''}", "denied")
    if standing == "expired":
        if not approval.ended:
            tx.put_approval(replace(approval, ended="expired"))
            words = "expired without being approved"
            tx.append(replace(permits.entry(approval, "expired", "controller", now, words), operation_id=run.id))
        wanted = policy.in_words(approval.demands)
        return HostEnd("", Outcome.DENIED, f"not approved in time: it needed {wanted} ({approval.id})", "expired")
    if policy.is_met(approval, operators):
        tx.spend_approval(approval.id, f"{run.id}/{move.step}", now)
        words = f"used by step {move.step} of {run.id}"
        tx.append(replace(permits.entry(approval, "spent", run.operator, now, words), operation_id=run.id))
        return HostEnd("", Outcome.OK, f"approved by {_voices(approval)}")
    return None


def done(tx: Transaction, run: Run, step: Step, move: Move, now: datetime) -> HostEnd | None:
    """What somebody said of a step that is done by hand; None while nobody has, and its time is not over."""
    taken = next(t for t in tx.moves(run.id) if t.move.key == move.key)
    if taken.ends is not None:
        return taken.ends[0]
    if step.timeout_s and now >= taken.since + timedelta(seconds=step.timeout_s):
        said = f"nobody said within {step.timeout_s} s that it was done"
        return HostEnd("", Outcome.TIMED_OUT, said, "deadline", is_out_of_time=True)
    return None


def withdrawn(tx: Transaction, run: Run, move: Move, now: datetime) -> None:
    """Nobody needs to approve any more: the run is cancelled."""
    approval = tx.approval(move.plans[REQUEST])
    if policy.standing(approval, now) == "open":
        tx.put_approval(replace(approval, ended="expired"))
        words = f"withdrawn: {run.id} was cancelled"
        tx.append(replace(permits.entry(approval, "expired", "controller", now, words), operation_id=run.id))


def by_hand(run: Run, record: tuple[Taken, ...], step: Step) -> Move:
    """The move that waits for a person at this step.

    Raises:
        PolicyError: the step is none that is done by hand, or does not wait now.
    """
    if not isinstance(step.do, Manual):
        raise PolicyError(f"{run.id}: step {step.id} is not done by hand but by Fireline", reason="invalid_request")
    for taken in record:
        if taken.move.part is Part.MANUAL and taken.move.step == step.id and taken.ends is None:
            return taken.move
    raise PolicyError(f"{run.id}: step {step.id} does not wait for anybody now", reason="invalid_request")


def _voices(approval: Approval) -> str:
    return ", ".join(vote.by for vote in approval.votes if vote.approves)
