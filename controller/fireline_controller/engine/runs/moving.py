"""One move of a run made on its hosts: its parameters, its clock, and the deed that it is."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from fireline_controller.engine.runs.deeds import Ends, Order, request_id
from fireline_controller.engine.runs.rooms import RunRooms
from fireline_controller.engine.runs.watching import Bell
from fireline_controller.model import Outcome
from fireline_controller.runbooks.filling import BadExpression
from fireline_controller.runbooks.ground import Ground, variables
from fireline_controller.runbooks.model import ActionCall, CaptureCall, IsolateCall, Step, Until
from fireline_controller.runbooks.record import ACTS, HostEnd, Move, Part, Run
from fireline_controller.runbooks.stepping import plans_of
from fireline_wire.actions import catalogue

_BACKWARD: Final = frozenset({Part.UNDO, Part.BACK_PLAN, Part.BACK})
_PLANS: Final = frozenset({Part.PLAN, Part.BACK_PLAN})
# What is left at least for a move that is taken up again, to hear from the hosts how it ended meanwhile.
_HEARING_S: Final = 30.0
_BACK_S: Final = 600.0  # of one move of the way back


class Mover:
    """Makes moves of a run as it is on record now.

    `stop` is set when operators want its end; `is_left` is true once it is parked.
    """

    def __init__(
        self,
        rooms: RunRooms,
        run: Run,
        ground: Ground,
        *,
        stop: asyncio.Event,
        is_left: Callable[[], bool],
        bell: Bell,
    ) -> None:
        self._rooms = rooms
        self._run = run
        self._ground = ground
        self._stop = stop
        self._is_left = is_left
        self._bell = bell

    async def make(self, move: Move) -> Sequence[HostEnd]:
        """Make a move; one end for each of its hosts."""
        step = self._ground.steps[move.step]
        if not move.hosts:
            return move.known
        stop = self._stop if self._may_be_stopped(step, move) else asyncio.Event()
        is_again = move.key in self._ground.taken
        if move.delay_s and not is_again:
            await _slept(move.delay_s, stop)
        left_s = self._left_s(step, move, is_again)
        if left_s is not None and left_s <= 0:
            return [_late(host, step) for host in move.hosts]
        try:
            ends = await self._made(step, move, left_s or 0.0, stop)
        finally:
            self._bell.quiet(step.id)
        return [*move.known, *(self._timed(step, move, end) for end in ends)]

    async def _made(self, step: Step, move: Move, left_s: float, stop: asyncio.Event) -> Ends:
        if move.part is Part.VERIFY and step.verify is not None:
            return await self._verified(step, move, step.verify, stop)
        order = self._order(step, move, _what(step, move), self._given(step, move), left_s, stop)
        deeds = self._rooms.deeds
        if move.part in _PLANS:
            return await deeds.plan(order)
        if move.part is Part.UNDO:
            return await (deeds.undo if isinstance(step.do, ActionCall) else deeds.release)(order)
        if move.part is Part.BACK or isinstance(step.do, ActionCall):
            return _applied(order, await deeds.apply(order))
        if isinstance(step.do, CaptureCall):
            return await deeds.capture(order)
        if isinstance(step.do, IsolateCall):
            return await self._isolated(step.do, order)
        raise RuntimeError(f"step {step.id}: nothing of it is done on hosts")

    async def _isolated(self, do: IsolateCall, order: Order) -> Ends:
        if do.is_back:
            return await self._rooms.deeds.release(order)
        ends = await self._rooms.deeds.isolate(order)
        return tuple(replace(end, can_undo=end.outcome is Outcome.OK) for end in ends)

    async def _verified(self, step: Step, move: Move, until: Until, stop: asyncio.Event) -> Ends:
        """Ask again until it is true on every host; at least once, also where the time ran out meanwhile."""
        loop = asyncio.get_running_loop()
        over_s = loop.time() + until.within_s - self._since_s(move)
        good: dict[str, HostEnd] = {}
        while True:
            todo = tuple(host for host in move.hosts if host not in good)
            asked = replace(move, hosts=todo)
            left_s = max(over_s - loop.time(), min(until.within_s, _HEARING_S))
            ends = await self._judged(step, asked, until, left_s, stop)
            good |= {host: end for host, end in ends.items() if end.outcome is Outcome.OK}
            if len(good) == len(move.hosts) or stop.is_set() or loop.time() + until.every_s > over_s:
                found = ends | good
                return tuple(found[host] for host in move.hosts)
            await _slept(until.every_s, stop)

    async def _judged(
        self, step: Step, asked: Move, until: Until, left_s: float, stop: asyncio.Event
    ) -> dict[str, HostEnd]:
        """One look at these hosts."""
        try:
            given = self._filled_now(step, until.call, asked.hosts)
        except BadExpression as error:
            return {host: HostEnd(host, Outcome.FAILED, str(error), "invalid_request") for host in asked.hosts}
        order = self._order(step, asked, until.call.action, given, left_s, stop)
        return {end.host: self._true(step, end, until) for end in await self._rooms.deeds.plan(order)}

    def _true(self, step: Step, end: HostEnd, until: Until) -> HostEnd:
        """The answer of a host, judged."""
        if end.outcome is not Outcome.OK:
            return end
        known = variables(self._ground, end.host) | {"result": dict(end.result)}
        try:
            is_true = self._ground.expressions.is_verified(step.id, until.until, known)
        except BadExpression as error:
            return replace(end, outcome=Outcome.FAILED, detail=str(error), reason="invalid_request")
        if is_true:
            return replace(end, detail=f"verified: {until.until}")
        said = f"not so within {until.within_s} s: {until.until}"
        return replace(end, outcome=Outcome.FAILED, detail=said, reason="not_verified")

    def _given(self, step: Step, move: Move) -> Mapping[str, Mapping[str, Any]]:
        """The parameters for each host, as they were decided when the step began, or its rollback was planned."""
        if move.part is Part.UNDO:
            return {}
        first = Part.BACK_PLAN if move.part in _BACKWARD else Part.BEGIN
        decided = move if move.part is first else self._ground.taken[Move(step.id, first).key].move
        given = {host: one.given for one in decided.filled for host in one.hosts}
        return {host: given.get(host, {}) for host in move.hosts}

    def _filled_now(self, step: Step, call: ActionCall, hosts: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        ground = self._ground
        return {host: ground.expressions.fill(step.id, call.given, variables(ground, host)) for host in hosts}

    def _order(
        self,
        step: Step,
        move: Move,
        what: str,
        given: Mapping[str, Mapping[str, Any]],
        timeout_s: float,
        stop: asyncio.Event,
    ) -> Order:
        def tell(host: str, doing: str) -> None:
            self._bell.tell(step.id, host, doing)

        return Order(
            run=self._run,
            step=step.id,
            move=move,
            what=what,
            given=given,
            timeout_s=timeout_s,
            planned=self._planned(step, move),
            evidence_for=self._evidence_for(step),
            is_left=self._is_left,
            stop=stop,
            tell=tell,
        )

    def _planned(self, step: Step, move: Move) -> Mapping[str, HostEnd]:
        """The plans that a move applies, or how the application ended that it takes back."""
        planned = None
        if move.part is Part.DO:
            planned = plans_of(step, self._ground, move)
        elif move.part is Part.UNDO:
            planned = self._ground.ends(move.step, Part.DO, move.batch, move.attempt)
        elif move.part is Part.BACK:
            planned = self._ground.ends(move.step, Part.BACK_PLAN, move.batch, move.attempt)
        return planned or {}

    def _evidence_for(self, step: Step) -> tuple[ActionCall, ...]:
        """The actions of later steps, with the parameters that say what is kept."""
        if not isinstance(step.do, CaptureCall):
            return ()
        found = []
        for name in step.do.evidence_for:
            do = self._ground.steps[name].do
            if isinstance(do, ActionCall):
                takes = catalogue()[do.action].evidence_takes  # the others may follow from steps in between
                given = {key: value for key, value in do.given.items() if key in takes}
                filled = self._ground.expressions.fill(name, given, variables(self._ground, ""))
                found.append(ActionCall(do.action, filled))
        return tuple(found)

    def _may_be_stopped(self, step: Step, move: Move) -> bool:
        """The way back and what is done finally are not stopped by the wish that brought them about."""
        return move.part not in _BACKWARD and step not in self._ground.runbook.finally_

    def _left_s(self, step: Step, move: Move, is_again: bool) -> float | None:
        """Seconds that the step has left; None: it has no clock."""
        if move.part in _BACKWARD:
            return _BACK_S
        if not step.timeout_s:
            return None
        left_s = step.timeout_s - self._spent_s(step)
        return max(left_s, _HEARING_S) if is_again else left_s

    def _spent_s(self, step: Step) -> float:
        """Since the step's first act; while others think about approving it nothing is done."""
        acts = [t.since for t in self._ground.record if t.move.step == step.id and t.move.part in ACTS]
        approved = self._ground.taken.get(Move(step.id, Part.APPROVE).key)
        thought = approved.until if approved is not None else None
        began = [since for since in acts if thought is None or since >= thought]
        return (self._rooms.now() - began[0]).total_seconds() if began else 0.0

    def _since_s(self, move: Move) -> float:
        """Since the move was begun, where that was before."""
        taken = self._ground.taken.get(move.key)
        if taken is None:
            return 0.0
        return (self._rooms.now() - taken.since).total_seconds()

    def _timed(self, step: Step, move: Move, end: HostEnd) -> HostEnd:
        is_over = bool(step.timeout_s) and end.outcome is Outcome.TIMED_OUT and move.part in ACTS
        return replace(end, is_out_of_time=True) if is_over and self._spent_s(step) >= step.timeout_s else end


def _what(step: Step, move: Move) -> str:
    do = step.rollback if move.part in (Part.BACK_PLAN, Part.BACK) else step.do
    if isinstance(do, ActionCall):
        return do.action
    if isinstance(do, CaptureCall):
        return do.profile
    return do.scope if isinstance(do, IsolateCall) else ""


def _applied(order: Order, ends: Ends) -> Ends:
    """The ends with the request ids that the way back needs."""
    run_id = order.run.id
    return tuple(replace(end, request_id=end.request_id or request_id(run_id, order.move, end.host)) for end in ends)


def _late(host: str, step: Step) -> HostEnd:
    said = f"the {step.timeout_s} s of the step were over before it was asked"
    return HostEnd(host, Outcome.TIMED_OUT, said, "deadline", is_out_of_time=True)


async def _slept(seconds: float, stop: asyncio.Event) -> None:
    """Sleep, or until told to stop."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
