"""Runs as messages."""

import json
from datetime import datetime

from fireline_controller import targets
from fireline_controller.control import wire
from fireline_controller.engine.runs.following import is_driven
from fireline_controller.engine.runs.values import (
    HostDoing,
    MoveBegun,
    MoveEnded,
    PlannedStep,
    RunNews,
    RunOrder,
    RunPlan,
)
from fireline_controller.model import Outcome
from fireline_controller.runbooks.record import HostEnd, Move, Run
from fireline_wire.v1 import common_pb2, control_pb2, runs_pb2


def order(request: control_pb2.StartRunRequest, operator: str) -> RunOrder:
    """What an operator wants run."""
    wait_s = request.wait.ToMilliseconds() / 1000
    wish = wire.wish(request.options, operator)
    return RunOrder(request.runbook, wish, dict(request.params), wait_s, is_confirmed=request.is_confirmed)


def record(run: Run, now: datetime) -> runs_pb2.RunRecord:
    """A run."""
    message = runs_pb2.RunRecord(
        id=run.id,
        runbook=run.runbook,
        version=run.version,
        sha256=run.sha256,
        params_json=json.dumps(dict(run.params)),
        hosts=targets.fold(sorted({host for hosts in run.hosts.values() for host in hosts})),
        target=run.spelled,
        incident_id=run.incident_id,
        operator=run.operator,
        reason=run.reason,
        started_at=wire.stamp(run.started_at),
        state=run.state,
        why=run.why,
        wish=run.wish,
        wished_by=run.wished_by,
        position=run.position,
        driven=is_driven(run, now),
    )
    if run.finished_at is not None:
        message.finished_at.CopyFrom(wire.stamp(run.finished_at))
    return message


def event(news: RunNews, now: datetime) -> runs_pb2.RunEvent:
    """One piece of news."""
    if isinstance(news, MoveBegun):
        begun = runs_pb2.MoveBegun(move=_move(news.move), words=news.words, at=wire.stamp(news.at))
        return runs_pb2.RunEvent(begun=begun)
    if isinstance(news, MoveEnded):
        return runs_pb2.RunEvent(ended=ended(news))
    if isinstance(news, HostDoing):
        doing = runs_pb2.HostDoing(step=news.step, host=news.host, doing=news.doing)
        return runs_pb2.RunEvent(doing=doing)
    return runs_pb2.RunEvent(seen=runs_pb2.RunSeen(run=record(news.run, now), note=news.note))


def ended(news: MoveEnded) -> runs_pb2.MoveEnded:
    """What came of a move."""
    return runs_pb2.MoveEnded(
        move=_move(news.move),
        words=news.words,
        hosts=[_end(end) for end in news.ends],
        at=wire.stamp(news.at),
        is_over=news.is_over,
        can_go_back=news.can_go_back,
    )


def plan(found: RunPlan) -> runs_pb2.PlanRunReply:
    """A run that was only looked at."""
    return runs_pb2.PlanRunReply(
        runbook=found.runbook,
        version=found.version,
        sha256=found.sha256,
        hosts=found.hosts,
        steps=[_planned(step) for step in found.steps],
        problems=found.problems,
    )


def _planned(step: PlannedStep) -> runs_pb2.PlannedStep:
    effects = [
        runs_pb2.PlannedEffect(host=one.host, outcome=_outcome(one.outcome), effect=one.effect) for one in step.effects
    ]
    return runs_pb2.PlannedStep(
        step=step.step,
        title=step.title,
        does=step.does,
        risk=step.risk,
        hosts=step.hosts,
        open_hosts=step.open_hosts,
        when=step.when,
        approval=step.approval,
        on_failure=step.on_failure,
        rollback=step.rollback,
        effects=effects,
    )


def _move(move: Move) -> runs_pb2.RunMove:
    hosts = targets.fold(move.hosts)
    return runs_pb2.RunMove(step=move.step, part=move.part, batch=move.batch, attempt=move.attempt, hosts=hosts)


def _end(end: HostEnd) -> runs_pb2.RunHostEnd:
    return runs_pb2.RunHostEnd(
        host=end.host,
        outcome=_outcome(end.outcome),
        detail=end.detail,
        reason=end.reason,
        result_json=json.dumps(dict(end.result)) if end.result else "",
        effect=end.effect,
        evidence_id=end.evidence_id,
    )


def _outcome(outcome: Outcome | str) -> common_pb2.Outcome.ValueType:
    return common_pb2.Outcome.Value(f"OUTCOME_{outcome.upper()}")
