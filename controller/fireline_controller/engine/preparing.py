"""Before a host is cut off: what that would do there, what is seen of it from outside, and its state sealed (I3)."""

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta

from fireline_controller.engine import isolation_entries as entries
from fireline_controller.engine.grounds import Subject, is_own, require_enrolled, said_own, withdraw, withdraw_waiting
from fireline_controller.engine.looking import Views, Witnesses
from fireline_controller.hosts import IsolationPlan, vantage
from fireline_controller.isolation import How, Isolation, Phase, Verdict, judge
from fireline_controller.model import Denied, HostError, HostOutcome, Outcome, Unreachable
from fireline_controller.store import Transaction
from fireline_wire.isolation import Opening


@dataclass(frozen=True)
class Prepared:
    """A host that can be cut off. `draft` is the order without its fence token.

    `captured`: the outcome of the capture; of nothing, where none was wanted. `captured_ms` is from the command.
    """

    draft: Isolation
    plan: IsolationPlan
    witnesses: Witnesses
    before: Views
    captured: HostOutcome
    captured_ms: int = 0


async def prepare(subject: Subject) -> Prepared:
    """Plan, look and capture. Nothing on the host is changed.

    Raises:
        HostError: the host can't be isolated, or its evidence not sealed. An order for a host that can't be reached is
            kept where that was asked for, and the message says so.
        FirelineError: the controller itself failed.
    """
    draft = await subject.ground.orders.draft(
        subject.host, subject.wish, now=subject.rooms.now(), of=subject.running.operation
    )
    way = await vantage.way_to(subject.host.address)
    if is_own(way):
        message = f"{subject.host.name}: it is this controller's own host: it is never isolated"
        raise Denied(message, reason="lockout")
    try:
        plan = await _plan(subject, draft, way)
        return await _prepared(subject, draft, _with_known(plan, way))
    except Unreachable as error:
        if subject.wish.hold_s and not subject.ground.waiting:
            raise await _held(subject, draft, error) from None
        raise


async def standing_already(subject: Subject) -> HostOutcome | None:
    """The outcome for a host on which the same thing stands already; it is left alone.

    It was silent before, so to isolate it anew could not be proved, and to let it back for that would open it. That it
    stands is the host's word: it counts with a record of ours, and with witnesses who see it as dark as then (I4).

    Raises:
        HostError: the host can't be asked, somebody else is isolating it now, or it is not what it says.
    """
    try:
        status = await subject.client.isolation_status(timeout_s=subject.command_s)
    except Unreachable:
        return None  # told, and kept where that was asked for, by what comes next
    same = [s for s in status.isolations if s.scope == str(subject.wish.scope) and s.phase != "none"]
    if not same:
        return None
    by = f"order {same[0].order_id} of {same[0].operator or 'somebody'}"
    if same[0].phase != "committed":
        raise subject.failed(f"it is being isolated now, by {by}: wait for the end of that", "busy")
    verdict = await _still_dark(subject, same[0].order_id)
    if not verdict.is_proved:
        raise subject.failed(f"it says that it is isolated already, by {by}: {verdict.sentence}", "not_proved")
    await subject.record(lambda tx: _note_standing(tx, subject, same[0].order_id))
    detail = f"isolated already, by {by}: {verdict.sentence}; to change what stays open, release it first"
    return HostOutcome(subject.host.name, Outcome.OK, detail)


async def _still_dark(subject: Subject, order_id: str) -> Verdict:
    known = await subject.record(lambda tx: tx.isolations({Phase.COMMITTED}, subject.host.name))
    own = next((one for one in known if one.order_id == order_id), None)
    if own is None:
        return Verdict(False, "this controller has no record of that; release it first")
    if not subject.is_whole or not own.places:
        return Verdict(True, "by its kernel")
    opened = {*own.controllers, *(Opening.parse(text).address for text in own.allowances)}
    agent_port = int(subject.host.address.rpartition(":")[2])
    seen = await subject.witnesses(opened).at(own.places, open_port=agent_port)
    then = {name: [replace(sight, how=How.CONNECTED) for sight in sights] for name, sights in seen.items()}
    return judge(then, seen)


def _note_standing(tx: Transaction, subject: Subject, order_id: str) -> None:
    """What waited for the host waits no more."""
    now = subject.rooms.now()
    for waiting in tx.isolations({Phase.PENDING}, subject.host.name):
        if waiting.scope == str(subject.wish.scope):
            withdraw(tx, waiting, now, f"not needed: {order_id} stands")


async def _plan(subject: Subject, draft: Isolation, way: vantage.Way | None) -> IsolationPlan:
    subject.tell("planning")
    order = subject.ground.orders.sign(draft, draft.ordered_at)
    plan = await subject.client.plan_isolation(order, timeout_s=subject.command_s)
    if plan.refusal:
        raise subject.failed(f"can't be isolated: {plan.refusal}", "unsupported")
    if (why := said_own(plan, way)) and not subject.wish.force:
        message = f"{subject.host.name}: {why}; to isolate it all the same: --force REASON"
        raise Denied(message, reason="lockout")
    return plan


def _with_known(plan: IsolationPlan, way: vantage.Way | None) -> IsolationPlan:
    """The plan with the one place to look at that is not the host's word: where this controller reaches it."""
    if way is None or way.is_loopback:
        return plan
    addresses, ports = dict.fromkeys((way.remote, *plan.addresses)), dict.fromkeys((way.port, *plan.ports))
    return replace(plan, addresses=tuple(addresses), ports=tuple(ports), agent_port=way.port)


async def _prepared(subject: Subject, draft: Isolation, plan: IsolationPlan) -> Prepared:
    witnesses = subject.witnesses({*draft.controllers, *(opening.address for opening in subject.wish.allowances)})
    addresses = plan.addresses if subject.is_whole else ()
    looking = asyncio.ensure_future(witnesses.before(addresses, plan.ports, plan.agent_port))
    try:
        if subject.wish.now:
            nothing = HostOutcome(subject.host.name, Outcome.OK)
            return Prepared(draft, plan, witnesses, await looking, nothing)
        captured = await _evidence(subject)
        captured_ms = subject.running.elapsed_ms()
        return Prepared(draft, plan, witnesses, await looking, captured, captured_ms)
    finally:
        looking.cancel()


async def _evidence(subject: Subject) -> HostOutcome:
    try:
        return await subject.capture(subject.ground.volatile)
    except Unreachable:
        raise
    except HostError as error:
        message = f"{error}: not isolated, for nothing is sealed; to isolate without evidence: --now"
        raise type(error)(message, reason=error.reason, retry_helps=error.retry_helps) from None


async def _held(subject: Subject, draft: Isolation, error: Unreachable) -> Unreachable:
    now = subject.rooms.now()
    until = now + timedelta(seconds=subject.wish.hold_s)
    order = replace(draft, phase=Phase.PENDING, not_after=until)

    def record(tx: Transaction) -> None:
        require_enrolled(tx, subject.host)
        withdraw_waiting(tx, order, f"replaced by {order.order_id}")
        tx.put_isolation(order)
        tx.append(entries.held(order, now, str(error)))

    await subject.record(record)
    kept = f"the order is kept until {until:%Y-%m-%d %H:%M:%S} UTC, and carried out by the daemon once the host is seen"
    return Unreachable(f"{error}; {kept}", reason=error.reason, retry_helps=True)
