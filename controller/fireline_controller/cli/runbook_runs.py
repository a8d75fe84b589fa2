"""`fireline runbook`: plan, run, watch, stop and take back."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fireline_controller.cli import approval, operations, options, output, runbook_follow, runbook_plan, session
from fireline_controller.cli.enroll import duration_s
from fireline_controller.cli.runbook_follow import View

if TYPE_CHECKING:
    from fireline_wire.v1 import control_pb2
    from fireline_wire.v1.control_pb2_grpc import ControlStub


_NAME = Annotated[str, typer.Argument(metavar="RUNBOOK", help="Such as disk-full.")]
_RUN = Annotated[str, typer.Argument(metavar="RUN", help="Such as run-19b7ca98c88-5e6f7a8b.")]
_Params = Annotated[
    list[str] | None,
    typer.Option(
        "--param", "-p", metavar="NAME=VALUE", help="A parameter of the runbook. Repeatable.", show_default=False
    ),
]
_EXAMPLE = "run-19b7ca98c88-5e6f7a8b"
_FOLLOW_EXITS = (
    "Exit status: 0 succeeded; 1 failed, cancelled or rolled back; 2 usage; 3 no such runbook, run or host; 4 refused: "
    "not confirmed, approval is needed, a precondition, or others change a host; 5 the controller failed, and the run "
    "is parked; 130 interrupted: the run is parked, or goes on where a daemon drives it."
)

_PLAN_HELP = options.manual(
    "Show a whole run before anything happens.",
    "Every step with its risk, who must agree, on which hosts as far as its condition is known by now, what its action "
    "would do there, and what follows a failure. Hosts are asked for plans; nothing is changed.",
    examples=(
        "fireline runbook plan disk-full -t role=db",
        "fireline runbook plan db-pool-exhausted -t db1 -p older_than=10m --json",
    ),
    exits="Exit status: 0 shown; 2 usage or a wrong parameter; 3 no such runbook or host; 4 a precondition is not met.",
)


def plan(
    runbook: _NAME,
    target: options.Target = None,
    without: options.Except = None,
    param: _Params = None,
    incident: options.IncidentId = "",
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Show what a run would do."""
    wish = operations.Wish(target or [], without or [], incident=incident, json=json)
    session.run(session.folder(state), lambda control: _plan(control, runbook, wish, param or []))


async def _plan(control: "ControlStub", runbook: str, wish: operations.Wish, params: list[str]) -> int:
    found = await control.PlanRun(_request(wish.options(), runbook, params))
    if wish.json:
        output.print_json(runbook_plan.document(found))
    else:
        runbook_plan.show(found)
    return session.OK


_RUN_HELP = options.manual(
    "Run a runbook on hosts, every step on record before it is done.",
    "Without --target on the hosts that the incident was opened for. "
    "The run goes on after any crash of the controller and does nothing twice. It keeps the version of the runbook "
    "that it began with. While it runs nobody else changes its hosts. Ctrl-C leaves it: a daemon goes on with it; "
    "without one it is parked until `fireline runbook resume`.",
    examples=(
        "fireline runbook run unhealthy-containers -i INC-20260102-030405",
        "fireline runbook run disk-full -t db1 --plan",
        "fireline runbook run disk-full -t db1 -p older_than=7d --reason drill --wait 5m --jsonl",
    ),
    exits=_FOLLOW_EXITS,
)


def run(
    runbook: _NAME,
    target: options.Target = None,
    without: options.Except = None,
    param: _Params = None,
    reason: options.Reason = "",
    incident: options.IncidentId = "",
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done, and do nothing.")] = False,
    wait: Annotated[
        str,
        typer.Option(
            "--wait",
            metavar="DURATION",
            help="Wait so long for hosts that others change now, as 5m.",
            show_default=False,
        ),
    ] = "",
    yes: options.Yes = False,
    break_glass: options.BreakGlass = "",
    json: options.Json = False,
    json_lines: options.JsonLines = False,
    state: options.State = None,
) -> None:
    """Run a runbook."""
    wish = operations.Wish(
        target or [], without or [], reason=reason, incident=incident, yes=yes, json=json, json_lines=json_lines,
        break_glass=break_glass,
    )  # fmt: skip
    if plan:
        session.run(session.folder(state), lambda control: _plan(control, runbook, wish, param or []))
    if not reason.strip() and not incident:
        session.fail("--reason is missing: why, for the record (or --incident)", session.USAGE)
    wait_s = duration_s(wait) if wait else 0
    place = session.folder(state)
    is_here = session.is_embedded(place)
    session.run(place, lambda control: _run(control, runbook, wish, param or [], wait_s, is_here))


async def _run(
    control: "ControlStub", runbook: str, wish: operations.Wish, params: list[str], wait_s: int, is_here: bool
) -> int:
    confirmed = await operations.confirmed(control, wish)
    request = _request(confirmed, runbook, params)
    request.is_confirmed = wish.yes
    request.wait.FromSeconds(wait_s)
    begun = await control.StartRun(request)
    return await runbook_follow.follow(control, begun.id, View(wish.json, wish.json_lines), is_here=is_here)


_STATUS_HELP = options.manual(
    "Show the newest runs, or one with all that was done.",
    examples=("fireline runbook status", f"fireline runbook status {_EXAMPLE}"),
    exits="Exit status: 0 shown; 3 no such run.",
)


def status(
    run: Annotated[str, typer.Argument(metavar="[RUN]", help="One run.", show_default=False)] = "",
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="The newest so many.")] = 20,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Show runs."""
    work = (lambda control: _show(control, run, json)) if run else (lambda control: _list(control, limit, json))
    session.run(session.folder(state), work)


async def _list(control: "ControlStub", limit: int, json: bool) -> int:
    from fireline_wire.v1 import runs_pb2

    reply = await control.ListRuns(runs_pb2.ListRunsRequest(limit=limit))
    if json:
        output.print_json({"runs": [runbook_follow.run_document(one) for one in reply.runs]})
    elif not reply.runs:
        output.say("nothing was run yet: fireline runbook run RUNBOOK -t HOSTS")
    else:
        rows = [
            (
                r.id,
                r.state,
                f"{r.runbook} {r.version}",
                r.hosts,
                r.operator,
                output.moment(r.started_at),
                r.position or r.why,
            )
            for r in reply.runs
        ]
        output.table(("RUN", "IS", "RUNBOOK", "HOSTS", "BY", "SINCE", "AT"), rows)
    return session.OK


async def _show(control: "ControlStub", run_id: str, json: bool) -> int:
    from fireline_wire.v1 import runs_pb2

    found = await control.ShowRun(runs_pb2.ShowRunRequest(id=run_id))
    if json:
        moves = [runbook_follow.move_document(move) for move in found.moves]
        document = runbook_follow.run_document(found.run)
        output.print_json({**document, "note": found.note, "approval": found.approval_id, "moves": moves})
        return session.OK
    fields = {
        name: value for name, value in runbook_follow.run_document(found.run).items() if value and name != "params"
    }
    output.table(("FIELD", "VALUE"), [(name, str(value)) for name, value in fields.items()])
    for move in found.moves:
        for line in runbook_follow.move_lines(move):
            print(line)
    for note in filter(None, found.note.split("\n")):
        output.say(output.printable(note))
    return session.OK


_APPROVE_HELP = options.manual(
    "Approve or deny the step that a run waits with.",
    "A denial ends the run, and whoever started it can't approve it. "
    "`fireline approval show REQUEST` shows exactly what is asked for.",
    examples=(f"fireline --as bob runbook approve {_EXAMPLE}", f"fireline --as bob runbook approve {_EXAMPLE} --deny"),
    exits="Exit status: 0 done; 3 no such run, or it waits for nobody; 4 your word does not count.",
)


def approve(
    run: _RUN,
    reason: options.Reason = "",
    deny: Annotated[bool, typer.Option("--deny", help="Deny it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask once more.")] = False,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Approve a step."""
    session.run(session.folder(state), lambda control: _approve(control, run, reason, deny, yes, json))


async def _approve(control: "ControlStub", run_id: str, reason: str, deny: bool, yes: bool, json: bool) -> int:
    from fireline_wire.v1 import runs_pb2

    found = await control.ShowRun(runs_pb2.ShowRunRequest(id=run_id))
    if not found.approval_id:
        session.fail(f"{run_id} ({found.run.state}) waits for no approval", session.NOTHING_MATCHED)
    if deny:
        return await approval.decide(control, found.approval_id, False, reason, json)
    return await approval.approve_shown(control, found.approval_id, reason, yes, json)


_DONE_HELP = options.manual(
    "Say that a step by hand is done, failed or not needed.",
    examples=(
        f'fireline runbook done {_EXAMPLE} cable --note "both ends were loose"',
        f'fireline runbook done {_EXAMPLE} cable --failed --note "no spare"',
    ),
    exits="Exit status: 0 on record; 2 the step does not wait for that; 3 no such run or step.",
)


def done(
    run: _RUN,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The step's id.")],
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="What was done, for the record.")] = "",
    failed: Annotated[bool, typer.Option("--failed", help="It was tried and failed.")] = False,
    skip: Annotated[bool, typer.Option("--skip", help="It is not needed.")] = False,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Say what came of a step that is done by hand."""
    if failed and skip:
        session.fail("--failed and --skip are two different words: say one", session.USAGE)
    word = "failed" if failed else "skipped" if skip else "done"
    session.run(session.folder(state), lambda control: _say(control, run, step, word, note, json))


async def _say(control: "ControlStub", run_id: str, step: str, word: str, note: str, json: bool) -> int:
    from fireline_wire.v1 import runs_pb2

    found = await control.SayStep(runs_pb2.SayStepRequest(id=run_id, step=step, word=word, note=note))
    if json:
        output.print_json(runbook_follow.run_document(found))
    else:
        print(f"{run_id}: step {step}: {word}")
    return session.OK


_CANCEL_HELP = options.manual(
    "Cancel a run, stopping its hosts between two changes.",
    "Its steps of `finally` are still done. What was done stays done: `fireline runbook rollback` takes it back.",
    examples=(f'fireline runbook cancel {_EXAMPLE} --reason "wrong hosts"',),
    exits=_FOLLOW_EXITS,
)


def cancel(
    run: _RUN,
    reason: options.Reason = "",
    json: options.Json = False,
    json_lines: options.JsonLines = False,
    state: options.State = None,
) -> None:
    """Cancel a run."""
    _wish(state, run, "cancel", reason, View(json, json_lines))


_ROLLBACK_HELP = options.manual(
    "Take back what a run did, the last step first.",
    "Also of a run that has ended. Each step by its own rollback, or by its action's undo. "
    "What can't be taken back is said and keeps nothing else.",
    examples=(f'fireline runbook rollback {_EXAMPLE} --reason "it made things worse"',),
    exits=_FOLLOW_EXITS,
)


def rollback(
    run: _RUN,
    reason: options.Reason = "",
    json: options.Json = False,
    json_lines: options.JsonLines = False,
    state: options.State = None,
) -> None:
    """Take a run back."""
    _wish(state, run, "rollback", reason, View(json, json_lines))


def _wish(state: Path | None, run_id: str, wish: str, reason: str, view: View) -> None:
    place = session.folder(state)
    is_here = session.is_embedded(place)
    session.run(place, lambda control: _wished(control, run_id, wish, reason, view, is_here))


async def _wished(control: "ControlStub", run_id: str, wish: str, reason: str, view: View, is_here: bool) -> int:
    from fireline_wire.v1 import runs_pb2

    told = await runbook_follow.told(control, run_id)
    await control.WishRun(runs_pb2.WishRunRequest(id=run_id, wish=wish, reason=reason))
    ended = await runbook_follow.follow(control, run_id, view, is_here=is_here, told=told)
    return session.OK if ended == session.SOME_NOT_OK and await _is(control, run_id, wish) else ended


async def _is(control: "ControlStub", run_id: str, wish: str) -> bool:
    """Whether a run ended as it was wanted."""
    from fireline_wire.v1 import runs_pb2

    found = await control.ShowRun(runs_pb2.ShowRunRequest(id=run_id))
    return found.run.state == {"cancel": "cancelled", "rollback": "rolled_back"}[wish]


_RESUME_HELP = options.manual(
    "Go on with a run that was parked or lost its controller.",
    "One that is driven by a living controller is only watched. What was under way is asked for again under its own "
    "request ids: the hosts do nothing twice.",
    examples=(f"fireline runbook resume {_EXAMPLE}",),
    exits=_FOLLOW_EXITS,
)


def resume(
    run: _RUN,
    json: options.Json = False,
    json_lines: options.JsonLines = False,
    state: options.State = None,
) -> None:
    """Go on with a run."""
    place = session.folder(state)
    is_here = session.is_embedded(place)
    session.run(place, lambda control: _resume(control, run, View(json, json_lines), is_here))


async def _resume(control: "ControlStub", run_id: str, view: View, is_here: bool) -> int:
    from fireline_wire.v1 import runs_pb2

    told = await runbook_follow.told(control, run_id)
    await control.ResumeRun(runs_pb2.ResumeRunRequest(id=run_id))
    return await runbook_follow.follow(control, run_id, view, is_here=is_here, told=told)


def _request(chosen: "control_pb2.OperationOptions", runbook: str, params: list[str]) -> "control_pb2.StartRunRequest":
    from fireline_wire.v1 import control_pb2

    pairs = [text.partition("=") for text in params]
    for name, equals, _ in pairs:
        if not (name and equals):
            session.fail(f"--param {name!r}: wanted NAME=VALUE", session.USAGE)
    given = {name: value for name, _, value in pairs}
    return control_pb2.StartRunRequest(options=chosen, runbook=runbook, params=given)


def add_to(app: typer.Typer) -> None:
    """Add these commands to those of runbooks."""
    app.command("plan", help=_PLAN_HELP)(plan)
    app.command("run", help=_RUN_HELP)(run)
    app.command("status", help=_STATUS_HELP)(status)
    app.command("approve", help=_APPROVE_HELP)(approve)
    app.command("done", help=_DONE_HELP)(done)
    app.command("cancel", help=_CANCEL_HELP)(cancel)
    app.command("rollback", help=_ROLLBACK_HELP)(rollback)
    app.command("resume", help=_RESUME_HELP)(resume)
