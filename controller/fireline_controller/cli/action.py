"""`fireline action`: what can be done on hosts, planned and seen before it is done, proved after, taken back."""

import asyncio
import json as encoding
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from fireline_controller.cli import actions, operations, options, output, session

if TYPE_CHECKING:
    from fireline_wire.actions import ActionSpec
    from fireline_wire.v1 import control_pb2
    from fireline_wire.v1.control_pb2_grpc import ControlStub

app = typer.Typer(help="Do something on hosts: list, show, run, apply, undo.", no_args_is_help=True)

_NAME = Annotated[str, typer.Argument(metavar="ACTION", help="The action's name, as `container.restart`.")]
_OPERATION = Annotated[str, typer.Argument(metavar="OPERATION", help="The operation's id, as op-….")]
_WITHOUT_EVIDENCE = Annotated[
    str,
    typer.Option(
        "--without-evidence",
        metavar="WHY",
        help="Destroy what no sealed evidence keeps; why goes into the journal.",
        show_default=False,
    ),
]
_OF_RUN = Annotated[
    str,
    typer.Option(
        "--run",
        metavar="RUN",
        help="The run that has this done by hand now, on its hosts, which nobody else may change.",
        show_default=False,
    ),
]
_YES = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before acting, nor before addressing many hosts.")]


@dataclass(frozen=True)
class _How:
    """What `run` and `apply` have in common beside the fan-out's options."""

    without_evidence: str = ""
    run: str = ""
    plan_only: bool = False


_LIST_HELP = options.manual(
    "List the actions.",
    "What a host's own policy allows of them: `fireline host show HOST`.",
    examples=("fireline action list", "fireline action list --risk destructive"),
)


@app.command("list", help=_LIST_HELP)
def list_(
    risk: Annotated[
        str, typer.Option("--risk", metavar="RISK", help="Only read, reversible, disruptive or destructive ones.")
    ] = "",
    json: options.Json = False,
) -> None:
    """List the actions."""
    from fireline_wire.actions import Risk, catalogue

    if risk and risk not in list(Risk):
        session.fail(f"--risk: wanted {', '.join(Risk)}, found {risk!r}", session.USAGE)
    specs = [spec for spec in catalogue().values() if risk in ("", spec.risk)]
    if json:
        output.print_json({"actions": [spec.to_document() for spec in specs]})
    else:
        output.table(("ACTION", "RISK", "DOES"), [(s.name, str(s.risk), s.summary) for s in specs])


_SHOW_HELP = options.manual(
    "Show what an action takes, tells and risks.",
    examples=("fireline action show security.quarantine_file",),
    exits="Exit status: 0; 3 there is no such action.",
)


@app.command("show", help=_SHOW_HELP)
def show(name: _NAME, json: options.Json = False) -> None:
    """Show an action."""
    spec = _spec(name)
    if json:
        output.print_json(spec.to_document())
    else:
        actions.print_spec(spec)


_RUN_HELP = options.manual(
    "Plan an action on hosts, show the plan, ask, and do exactly that.",
    "Each host plans for itself; hosts with the same plan are shown together. Nothing but the plan is done: a host "
    "that has changed since refuses. After it each host looks whether it helped. An action that only reads shows what "
    "it found. What would be destroyed is captured and sealed first.",
    "--plan ends after the plan; `fireline action apply OPERATION` does it later.",
    examples=(
        "fireline action run security.quarantine_file -t web1 -p path=/tmp/.x --reason intrusion",
        "fireline action run system.process_kill -t role=web -p command=miner --plan",
    ),
    exits=options.FAN_OUT_EXITS,
)


@app.command("run", help=_RUN_HELP)
def run(
    name: _NAME,
    target: options.Target = None,
    without: options.Except = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param", "-p", metavar="KEY=VALUE", help="A parameter of the action. Repeatable.", show_default=False
        ),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done, and do nothing.")] = False,
    reason: options.Reason = "",
    incident: options.IncidentId = "",
    without_evidence: _WITHOUT_EVIDENCE = "",
    of_run: _OF_RUN = "",
    yes: _YES = False,
    break_glass: options.BreakGlass = "",
    max_fail: options.MaxFail = "",
    host_deadline: options.HostDeadline = 0,
    deadline: options.OverallDeadline = 0,
    concurrency: options.Concurrency = 0,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Plan, ask, apply."""
    from fireline_wire.actions import BadValue, Risk

    spec = _spec(name)
    try:
        given = actions.parsed(spec, param or [])
    except BadValue as error:
        session.fail(str(error), session.USAGE)
    if not plan and spec.risk is not Risk.READ:
        _require_reason(reason)
    wish = operations.Wish(
        target or [], without or [], "", reason, incident, yes, max_fail, host_deadline, deadline, concurrency,
        json, False, break_glass,
    )  # fmt: skip
    how = _How(without_evidence, of_run, plan or spec.risk is Risk.READ)
    work = encoding.dumps(given)
    session.run(session.folder(state), lambda control: _run(control, wish, spec, work, how))


_APPLY_HELP = options.manual(
    "Do what an earlier plan says, on its hosts.",
    "A host that has changed since it was planned refuses. --retry-of does it on those hosts of an earlier application "
    "of the same plan that did not end ok; what a host has begun or done before is not done twice.",
    examples=('fireline action apply op-019b0f3c2a1-5e6f7a8b --reason "as planned"',),
    exits=options.FAN_OUT_EXITS,
)


@app.command("apply", help=_APPLY_HELP)
def apply(
    operation: _OPERATION,
    reason: options.Reason = "",
    incident: options.IncidentId = "",
    retry_of: options.RetryOf = "",
    without_evidence: _WITHOUT_EVIDENCE = "",
    of_run: _OF_RUN = "",
    yes: _YES = False,
    break_glass: options.BreakGlass = "",
    max_fail: options.MaxFail = "",
    host_deadline: options.HostDeadline = 0,
    deadline: options.OverallDeadline = 0,
    concurrency: options.Concurrency = 0,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Apply a plan."""
    _require_reason(reason)
    wish = operations.Wish(
        [], [], retry_of, reason, incident, yes, max_fail, host_deadline, deadline, concurrency, json, False,
        break_glass,
    )  # fmt: skip
    how = _How(without_evidence, of_run)
    session.run(session.folder(state), lambda control: _apply(control, wish, operation, how))


_UNDO_HELP = options.manual(
    "Take back what an application did.",
    "On each host the last change first. What can't be taken back is said, and keeps none of the others.",
    examples=('fireline action undo op-019b0f3c2a1-5e6f7a8b --reason "it was the wrong file"',),
    exits=options.FAN_OUT_EXITS,
)


@app.command("undo", help=_UNDO_HELP)
def undo(
    operation: _OPERATION,
    reason: options.Reason = "",
    incident: options.IncidentId = "",
    of_run: _OF_RUN = "",
    break_glass: options.BreakGlass = "",
    max_fail: options.MaxFail = "",
    host_deadline: options.HostDeadline = 0,
    deadline: options.OverallDeadline = 0,
    concurrency: options.Concurrency = 0,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Take an application back."""
    _require_reason(reason)
    wish = operations.Wish(
        [], [], "", reason, incident, False, max_fail, host_deadline, deadline, concurrency, json, False, break_glass
    )
    session.run(session.folder(state), lambda control: _undo(control, wish, operation, of_run))


def _spec(name: str) -> "ActionSpec":
    from fireline_wire.actions import catalogue, nearest

    if name not in catalogue():
        session.fail(f"there is no action {name!r}; {nearest(name, catalogue())}", session.NOTHING_MATCHED)
    return catalogue()[name]


def _require_reason(reason: str) -> None:
    if not reason.strip():
        session.fail("--reason is missing: why, for the record", session.USAGE)


async def _run(control: "ControlStub", wish: operations.Wish, spec: "ActionSpec", params_json: str, how: _How) -> int:
    from fireline_wire.actions import Risk
    from fireline_wire.v1 import control_pb2

    chosen = await operations.confirmed(control, wish)
    request = control_pb2.PlanActionsRequest(options=chosen, action=spec.name, params_json=params_json)
    seen, interrupted = await operations.follow(control, control.PlanActions(request), wish)
    has_work = any(h.action.change_count for h in seen.hosts)
    table = actions.result_table if spec.risk is Risk.READ else actions.plan_table
    if seen.started is None or interrupted or how.plan_only or not has_work:
        return operations.report(seen, interrupted, wish, table)
    if not wish.json:
        actions.plan_table(seen)
    status = await _apply(control, wish, seen.started.operation_id, how)
    is_whole = all(output.outcome_name(h.outcome) == "ok" for h in seen.hosts)
    return session.SOME_NOT_OK if status == session.OK and not is_whole else status


async def _apply(control: "ControlStub", wish: operations.Wish, plan: str, how: _How) -> int:
    from fireline_wire.v1 import control_pb2

    outlook = await control.ForeseeApply(control_pb2.ForeseeApplyRequest(plan_operation_id=plan))
    await _assented(outlook, plan, wish)
    chosen = wish.options()
    if not wish.retry_of:
        chosen.confirmed_sha256 = outlook.target.sha256
    if outlook.hosts_without_evidence and not how.without_evidence:
        status = await _captured(control, wish, plan, outlook.evidence)
        if status != session.OK:
            return status
    request = control_pb2.ApplyPlanRequest(
        options=chosen, plan_operation_id=plan, without_evidence=how.without_evidence, run_id=how.run
    )
    seen, interrupted = await operations.follow(control, control.ApplyPlan(request), wish)
    return operations.report(seen, interrupted, wish, actions.applied_table)


async def _assented(outlook: "control_pb2.ForeseeApplyReply", plan: str, wish: operations.Wish) -> None:
    """The operator's yes; the count of hosts where data would be destroyed."""
    if outlook.approval:
        output.warn(f"approval: {outlook.approval}")
    if outlook.hosts_without_evidence:
        kept = ", ".join(outlook.evidence)
        output.say(f"no sealed evidence yet of {output.fold(outlook.hosts_without_evidence)}: {kept} come first")
    if wish.yes:
        return
    question = f"{outlook.action} ({outlook.risk}) on {output.counted(outlook.changing, 'host')}"
    if not sys.stdin.isatty():
        later = f"say --yes, or later: fireline action apply {plan} --yes --reason WHY"
        session.fail(f"{question}: not confirmed, nothing was done; {later}", session.REFUSED)
    if outlook.risk == "destructive" or outlook.target.needs_confirmation:
        answer = await asyncio.to_thread(input, f"{question}. Type the number of hosts: ")
        is_meant = answer.strip() == str(outlook.changing)
    else:
        answer = await asyncio.to_thread(input, f"{question}. Go on? [y/N] ")
        is_meant = answer.strip().lower() in ("y", "yes")
    if not is_meant:
        session.fail(f"not confirmed, nothing was done; later: fireline action apply {plan}", session.REFUSED)


async def _captured(control: "ControlStub", wish: operations.Wish, plan: str, collectors: Sequence[str]) -> int:
    from fireline_wire.v1 import control_pb2

    request = control_pb2.CaptureForPlanRequest(options=wish.options(), plan_operation_id=plan)
    seen, interrupted = await operations.follow(control, control.CaptureForPlan(request), wish)
    is_whole = seen.finished is not None and set(seen.finished.counts) <= {"ok"}
    if is_whole and not interrupted:
        return session.OK
    output.warn(f"nothing was done: evidence ({', '.join(collectors)}) is not sealed on every host")
    return operations.report(seen, interrupted, wish, operations.outcome_table)


async def _undo(control: "ControlStub", wish: operations.Wish, operation: str, run_id: str) -> int:
    from fireline_wire.v1 import control_pb2

    request = control_pb2.UndoActionsRequest(options=wish.options(), operation_id=operation, run_id=run_id)
    seen, interrupted = await operations.follow(control, control.UndoActions(request), wish)
    return operations.report(seen, interrupted, wish, actions.applied_table)
