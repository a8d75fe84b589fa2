"""`fireline runbook`: the procedures, read, checked, suggested and exported. Running one is another file's."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from fireline_controller.cli import options, output, session

if TYPE_CHECKING:
    from fireline_controller.runbooks.examined import Known
    from fireline_controller.runbooks.loading import Source
    from fireline_controller.runbooks.model import Runbook
    from fireline_wire.v1 import control_pb2
    from fireline_wire.v1.control_pb2_grpc import ControlStub

app = typer.Typer(help="Procedures: checked, planned, run durably, taken back.", no_args_is_help=True)

_NAME = Annotated[str, typer.Argument(metavar="RUNBOOK", help="Its name, as `fireline runbook list` has it.")]
_FOLDER = "runbooks"
_T = TypeVar("_T")

_LIST_HELP = options.manual(
    "List the built-in runbooks, and those in the state folder.",
    "Your own are `runbooks/NAME.yaml` in the state folder. One that is wrong is named and hides no other.",
    examples=("fireline runbook list", "fireline runbook list --json"),
)


@app.command("list", help=_LIST_HELP)
def list_runbooks(json: options.Json = False, state: options.State = None) -> None:
    """List runbooks."""
    from fireline_controller.cli import runbook_views as views

    known, sources = _known(state), _sources(state)
    found = [(source, _loaded(source, known)) for source in sources]
    if json:
        output.print_json({"runbooks": [views.listed(s, r, known) for s, r in found]})
        return
    output.table(views.LIST_COLUMNS, [views.row(s, r, known) for s, r in found if not isinstance(r, str)])
    for _, problem in found:
        if isinstance(problem, str):
            first, *rest = problem.splitlines()
            output.warn(first + (f" (and {len(rest)} more)" if rest else ""))


_SHOW_HELP = options.manual(
    "Show what a runbook takes and does, step by step.",
    examples=("fireline runbook show disk-full", "fireline runbook show disk-full --json"),
    exits="Exit status: 0 shown; 2 it is wrong; 3 there is none of that name.",
)


@app.command("show", help=_SHOW_HELP)
def show(runbook: _NAME, json: options.Json = False, state: options.State = None) -> None:
    """Show a runbook."""
    from fireline_controller.cli import runbook_views as views

    known = _known(state)
    source, found = _found(runbook, state, known)
    if json:
        output.print_json(views.document(source, found, known))
    else:
        views.print_whole(source, found, known)


_CHECK_HELP = options.manual(
    "Check runbooks before there is an incident.",
    "Names everything that is wrong, each with its line and column and what to write instead: unknown actions and "
    "parameters, wrong types, conditions that can't be evaluated, steps that run in circles or are never reached, and "
    "steps that destroy what no capture before them has sealed. Asks no host and no controller.",
    examples=("fireline runbook check restart-shop.yaml", "fireline runbook check *.yaml --json"),
    exits="Exit status: 0 all are right; 1 something is wrong; 2 a file can't be read, or a profile is wrong.",
)


@app.command("check", help=_CHECK_HELP)
def check(
    file: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Runbooks.")],
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Check files."""
    from fireline_controller.runbooks import loading
    from fireline_controller.runbooks.parsing import RunbookError

    known = _known(state)
    wrong: dict[str, RunbookError] = {}
    for path in file:
        source = loading.Source(path.stem, str(path), _or_fail(partial(loading.read_file, path)), False)
        try:
            loading.load(source, known)
        except RunbookError as error:
            wrong[str(path)] = error
    if json:
        output.print_json({"files": [_checked(str(path), wrong.get(str(path))) for path in file]})
    else:
        for found in wrong.values():
            print("\n".join(map(output.printable, str(found).splitlines())))
        output.say(f"{output.counted(len(file) - len(wrong), 'runbook')} right, {len(wrong)} wrong")
    raise typer.Exit(session.SOME_NOT_OK if wrong else session.OK)


def _checked(file: str, error: Any) -> dict[str, Any]:
    problems = [vars(problem) for problem in error.problems] if error else []
    return {"file": file, "right": not problems, "problems": problems}


_SUGGEST_HELP = options.manual(
    "Suggest runbooks for an incident, with the reasons.",
    "By what its captures found, its alerts, its title, its hosts and its severity; a person chooses. Starts nothing.",
    examples=(
        "fireline runbook suggest INC-20260102-030405",
        "fireline runbook suggest INC-20260102-030405 --alert DatabaseConnectionFailure,service=postgres",
    ),
    exits="Exit status: 0 something fits; 3 nothing does, or there is no such incident.",
)


@app.command("suggest", help=_SUGGEST_HELP)
def suggest(
    incident: Annotated[str, typer.Argument(metavar="INCIDENT", help="Such as INC-20260102-030405.")],
    alert: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[,LABEL=VALUE]", help="An alert of the incident, with its labels; may be repeated."),
    ] = None,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Suggest runbooks."""
    alerts = [_alert(text) for text in alert or ()]
    session.run(session.folder(state), lambda control: _suggest(control, incident, alerts, json))


def _alert(text: str) -> tuple[str, dict[str, str]]:
    name, *labels = text.split(",")
    pairs = [label.partition("=") for label in labels]
    if not name or any(not (key and sign) for key, sign, _ in pairs):
        session.fail(f"--alert: wanted NAME or NAME,LABEL=VALUE, found {text!r}", session.USAGE)
    return name, {key: value for key, _, value in pairs}


async def _suggest(control: "ControlStub", incident: str, alerts: list[tuple[str, dict[str, str]]], json: bool) -> int:
    from fireline_wire.v1 import control_pb2

    known = [control_pb2.Alert(name=name, labels=labels) for name, labels in alerts]
    reply = await control.SuggestRunbooks(control_pb2.SuggestRunbooksRequest(incident_id=incident, alerts=known))
    if json:
        output.print_json(_suggested(reply))
    else:
        print(f"{incident}  {reply.severity}  {output.printable(reply.title)}")
        for text in reply.affected:
            print(f"affected: {output.printable(text)}")
        rows = [(s.name, str(s.points), "; ".join(s.reasons)) for s in reply.suggestions]
        output.table(("RUNBOOK", "POINTS", "BECAUSE"), rows)
    for problem in reply.problems:
        output.warn(problem)
    if not reply.suggestions:
        output.say("nothing speaks for a runbook; all of them: fireline runbook list")
    return session.OK if reply.suggestions else session.NOTHING_MATCHED


def _suggested(reply: "control_pb2.SuggestRunbooksReply") -> dict[str, Any]:
    return {
        "affected": list(reply.affected),
        "suggestions": [
            {"runbook": s.name, "summary": s.summary, "points": s.points, "reasons": list(s.reasons)}
            for s in reply.suggestions
        ],
        "problems": list(reply.problems),
    }


_SCHEMA_HELP = options.manual(
    "Print the JSON Schema of a runbook, for your editor.",
    "It completes keys and underlines what is misspelt; `fireline runbook check` knows more.",
    examples=("fireline runbook schema",),
)


@app.command("schema", help=_SCHEMA_HELP)
def schema() -> None:
    """Print the schema."""
    from fireline_controller.runbooks import schema as published

    print(published.text(), end="")


_EXPORT_HELP = options.manual(
    "Print a runbook as a CACAO 2.0 security playbook (JSON).",
    "For other tools to read. What the standard has no word for (approvals, rollback, batches, typed conditions) "
    "stands in an extension of each step.",
    examples=("fireline runbook export security-breach",),
    exits="Exit status: 0 printed; 2 it is wrong; 3 there is none of that name.",
)


@app.command("export", help=_EXPORT_HELP)
def export(runbook: _NAME, state: options.State = None) -> None:
    """Print a playbook."""
    from fireline_controller.runbooks import cacao

    known = _known(state)
    _, found = _found(runbook, state, known)
    output.print_json(cacao.playbook(found, known.catalogue))


def _known(state: Path | None) -> "Known":
    from fireline_controller.runbooks import loading

    return _or_fail(lambda: loading.known((session.folder(state) / "profiles",)))


def _sources(state: Path | None) -> "Iterable[Source]":
    from fireline_controller.runbooks import loading

    return _or_fail(lambda: loading.sources(session.folder(state) / _FOLDER))


def _found(name: str, state: Path | None, known: "Known") -> "tuple[Source, Runbook]":
    from fireline_controller.runbooks import loading

    source = _or_fail(lambda: loading.find(name, session.folder(state) / _FOLDER))
    return source, _or_fail(lambda: loading.load(source, known))


def _loaded(source: "Source", known: "Known") -> "Runbook | str":
    """The runbook, or what is wrong with it."""
    from fireline_controller.runbooks import loading
    from fireline_controller.runbooks.parsing import RunbookError

    try:
        return loading.load(source, known)
    except RunbookError as error:
        return str(error)


def _or_fail(work: Callable[[], _T]) -> _T:
    from fireline_controller.model import FirelineError

    try:
        return work()
    except FirelineError as error:
        session.fail(str(error), session.status_of(error.reason))
