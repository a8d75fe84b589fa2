"""What a run does on real hosts: actions, captures and isolations, each under the request id that its move gives it.

The intents of actions are journaled for each host by the same code as an operator's own (remediating). When a run is
parked its hosts are left alone: they go on, and answer whoever asks again (I2).
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from fireline_controller import fanout, targets
from fireline_controller.engine import remediating, safeguard
from fireline_controller.engine.collect import Collection, Rooms
from fireline_controller.engine.feed import Feed
from fireline_controller.engine.isolations import Isolations
from fireline_controller.engine.operations import Running
from fireline_controller.engine.remediating import HostAction, Subject
from fireline_controller.engine.runs.deeds import Ends, Order
from fireline_controller.engine.runs.evidence import captures_of
from fireline_controller.engine.values import IsolationWish, News, Progress, TargetSpec, Wish
from fireline_controller.hosts import Command, Fleet
from fireline_controller.model import (
    ActionReport,
    Host,
    HostOutcome,
    Operation,
    Outcome,
    PolicyError,
)
from fireline_controller.profiles import Profile
from fireline_controller.runbooks.model import ActionCall
from fireline_controller.runbooks.record import HostEnd
from fireline_controller.store import Transaction
from fireline_wire.actions import BadValue, Risk, bounded, catalogue
from fireline_wire.isolation import Scope

Work = Callable[[Running, Host], Awaitable[HostOutcome]]
Asked = Callable[[Wish], AsyncIterator[News]]

# Outcomes after which a host may have done something without our knowing.
_MAY_HAVE: Final = frozenset({Outcome.UNREACHABLE, Outcome.TIMED_OUT, Outcome.CANCELLED})
_SHOWN_CHANGES: Final = 5  # of a plan, in its words: more is for `fireline action run --plan`
_MOST_CHARACTERS: Final = 2000  # of a plan in words, which goes into the record of the run and the journal

# Of one host's answer in the record of a run, which is read whole before each move.
_RESULT_BYTES: Final = 64 << 10


class HostDeeds:
    """See Deeds. `profile` gives a capture profile by its name."""

    def __init__(self, rooms: Rooms, fleet: Fleet, isolations: Isolations, profile: Callable[[str], Profile]) -> None:
        self._rooms = rooms
        self._fleet = fleet
        self._isolations = isolations
        self._profile = profile

    async def plan(self, order: Order) -> Ends:
        """See Deeds."""
        timeout_s = order.timeout_s or self._rooms.settings.fanout.host_deadline_s

        async def work(running: Running, host: Host) -> HostOutcome:
            call = ActionCall(order.what, order.given[host.name])
            return await remediating.plan(self._subject(running, host), call, timeout_s=timeout_s)

        return tuple(map(_planned, await self._fanned_out(order, "plan", work)))

    async def apply(self, order: Order) -> Ends:
        """See Deeds."""
        unkept = await self._unkept(order)

        async def work(running: Running, host: Host) -> HostOutcome:
            if host.name in unkept:
                wanted = ", ".join(catalogue()[order.what].evidence)
                said = f"destroys what no sealed evidence keeps: wanted a capture with {wanted} in this run"
                return HostOutcome(host.name, Outcome.DENIED, f"{order.what} {said}", "no_evidence")
            return await self._action(order, running, host, order.move.plans[host.name]).apply()

        outcomes = await self._fanned_out(order, "remediate", work)
        return tuple(_applied(order, outcome) for outcome in outcomes)

    async def undo(self, order: Order) -> Ends:
        """See Deeds."""

        async def work(running: Running, host: Host) -> HostOutcome:
            action = self._action(order, running, host, "", applied=order.move.plans[host.name])
            return await action.undo()

        return tuple(
            HostEnd(o.host, o.outcome, o.detail, o.reason) for o in await self._fanned_out(order, "undo", work)
        )

    async def capture(self, order: Order) -> Ends:
        """See Deeds."""
        try:
            wanted = captures_of(order, self._profile)
        except BadValue as error:
            return tuple(HostEnd(host, Outcome.FAILED, str(error), "invalid_request") for host in order.move.hosts)

        async def work(running: Running, host: Host) -> HostOutcome:
            outcome = HostOutcome(host.name, Outcome.OK)
            for number, profile in enumerate(wanted, start=1):
                request_id = f"{running.operation.id}.{number}"
                outcome = await self._captured(running, host, profile, request_id)
                if outcome.reason == "incomplete" and order.run.tenure > 1:
                    # It may have been stopped half-way when its controller was, and would tell the same for ever.
                    outcome = await self._captured(running, host, profile, f"{request_id}.{order.run.tenure}")
                if outcome.outcome is not Outcome.OK:
                    break
            return outcome

        return tuple(
            HostEnd(o.host, o.outcome, o.detail, o.reason, evidence_id=o.evidence_id)
            for o in await self._fanned_out(order, "capture", work)
        )

    async def isolate(self, order: Order) -> Ends:
        """See Deeds."""
        how = IsolationWish(scope=Scope.parse(order.what))
        return await self._asked(order, lambda wish: self._isolations.isolate(wish, how))

    async def release(self, order: Order) -> Ends:
        """See Deeds."""
        return await self._asked(order, self._isolations.release)

    async def _unkept(self, order: Order) -> frozenset[str]:
        """The hosts on which something would be destroyed that is in no evidence (I3)."""
        spec = catalogue()[order.what]
        if spec.risk is not Risk.DESTRUCTIVE:
            return frozenset()
        found = set[str]()
        for host in order.move.hosts:
            wanted = spec.evidence_orders(order.given[host])
            found.update(await safeguard.unkept(self._rooms, [host], wanted, order.run.started_at))
        return frozenset(found)

    async def _captured(self, running: Running, host: Host, profile: Profile, request_id: str) -> HostOutcome:
        """One capture; one that is sealed already is not made again."""
        operation = replace(running.operation, id=request_id, profile=profile.name)
        command = replace(running.command, operation_id=request_id)
        kept = await self._rooms.store.read(lambda tx: _sealed(tx, host.name, request_id))
        if kept:
            return HostOutcome(host.name, Outcome.OK, "sealed before", evidence_id=kept)
        own = replace(running, operation=operation, command=command)
        client = self._fleet.client(host)
        return await Collection(self._rooms, own, host, client, profile, request_id, ()).run()

    async def _asked(self, order: Order, ask: Asked) -> Ends:
        """An operation of its own, which does nothing where its end is reached already."""
        named = TargetSpec((targets.fold(order.move.hosts),))
        frozen = targets.freeze(order.move.hosts, spelled=named.terms[0])
        run = order.run
        wish = Wish(
            run.operator, named, f"{run.id}: {run.reason or run.runbook}", run.incident_id, frozen.sha256,
            host_deadline_s=order.timeout_s,
        )  # fmt: skip
        ends: dict[str, HostEnd] = {}
        try:
            async for news in ask(wish):
                if isinstance(news, Progress):
                    order.tell(news.host, news.doing)
                elif isinstance(news, HostOutcome):
                    ends[news.host] = HostEnd(news.host, news.outcome, news.detail, news.reason)
        except PolicyError as error:
            return tuple(HostEnd(host, Outcome.DENIED, str(error), error.reason) for host in order.move.hosts)
        return tuple(ends[host] for host in order.move.hosts)

    def _action(self, order: Order, running: Running, host: Host, plan: str, *, applied: str = "") -> HostAction:
        planned = order.planned.get(host.name, HostEnd(host.name, Outcome.OK, change_count=1))
        report = ActionReport(
            action=order.what,
            params=dict(order.given.get(host.name, {})),
            plan_sha256=plan,
            risk=str(catalogue()[order.what].risk),
            summary=planned.effect,
            change_count=planned.change_count,
            request_id=applied,
            can_undo=bool(applied) and planned.can_undo and planned.outcome not in _MAY_HAVE,
        )
        return HostAction(self._subject(running, host), report, order.request_id(host.name), is_left=order.is_left)

    def _subject(self, running: Running, host: Host) -> Subject:
        return Subject(self._rooms, running, host, self._fleet.client(host))

    async def _fanned_out(self, order: Order, kind: str, work: Work) -> Sequence[HostOutcome]:
        known = {host.name: host for host in await self._rooms.store.hosts()}
        here = [known[name] for name in order.move.hosts if name in known]
        gone = [name for name in order.move.hosts if name not in known]
        running = await self._running(order, kind)
        settings = self._rooms.settings.fanout
        limits = fanout.Limits(
            host_deadline_s=order.timeout_s or settings.host_deadline_s,
            overall_deadline_s=order.timeout_s or settings.overall_deadline_s,
            concurrency=settings.concurrency if kind == "capture" else max(len(here), 1),
        )
        outcomes = await fanout.fan_out(
            here,
            lambda host: work(running, host),
            limits=limits,
            budget=fanout.Budget(len(here)),
            cancel=order.stop,
            on_outcome=lambda outcome: order.tell(outcome.host, ""),
        )
        lost = [HostOutcome(name, Outcome.FAILED, "no longer in the fleet", "not_found") for name in gone]
        return [*outcomes, *lost]

    async def _running(self, order: Order, kind: str) -> Running:
        run, move = order.run, order.move
        now = self._rooms.now()
        target = targets.freeze(move.hosts, spelled=run.spelled)
        operation = Operation(
            f"{run.id}.{move.step}.{move.attempt}", kind, run.incident_id, run.operator, run.reason, target, now
        )
        command = Command(
            request_id=operation.id,
            operation_id=operation.id,
            incident_id=run.incident_id,
            operator=run.operator,
            reason=run.reason,
            deadline=now + timedelta(seconds=order.timeout_s or self._rooms.settings.fanout.overall_deadline_s),
            fence_token=0,
        )
        head = await self._rooms.store.read(lambda tx: tx.head())
        return Running(operation, command, head, time.monotonic(), _Told(order))


class _Told(Feed):
    """Progress of hosts, for whoever watches the run."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self._order = order

    def tell(self, news: News) -> None:
        """See Feed."""
        if isinstance(news, Progress):
            self._order.tell(news.host, news.doing)


def _planned(outcome: HostOutcome) -> HostEnd:
    report = outcome.action
    if outcome.outcome is not Outcome.OK or report is None:
        return HostEnd(outcome.host, outcome.outcome, outcome.detail, outcome.reason)
    is_empty = not report.change_count
    return HostEnd(
        outcome.host,
        outcome.outcome,
        outcome.detail,
        result=bounded(report.result, _RESULT_BYTES),
        plan_sha256="" if is_empty else report.plan_sha256,
        effect=_in_words(report),
        change_count=report.change_count,
    )


def _in_words(report: ActionReport) -> str:
    """A plan for people: in short, the first of its changes, and what it warns of."""
    shown = [change.does for change in report.changes[:_SHOWN_CHANGES]]
    more = report.change_count - len(shown)
    changes = ", ".join([*shown, f"{more} more"] if shown and more > 0 else shown)
    told = f"{report.summary}: {changes}" if changes else report.summary
    return "; ".join((told, *report.warnings))[:_MOST_CHARACTERS]


def _applied(order: Order, outcome: HostOutcome) -> HostEnd:
    report = outcome.action
    undoable = bool(catalogue()[order.what].undo)
    can_undo = report.can_undo if report is not None else False
    in_doubt = undoable and outcome.outcome in _MAY_HAVE
    return HostEnd(
        outcome.host,
        outcome.outcome,
        outcome.detail,
        outcome.reason,
        result=bounded(report.result, _RESULT_BYTES) if report is not None else {},
        request_id=order.request_id(outcome.host),
        can_undo=can_undo or in_doubt,
    )


def _sealed(tx: Transaction, host: str, operation_id: str) -> str:
    """The whole evidence of a capture that was sealed before; empty for none."""
    found = [e.id for e in tx.evidence_list(host=host) if e.operation_id == operation_id and not e.partial]
    return found[0] if found else ""
