"""`fireline incident`: open one, look at it, write into its record."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fireline_controller.cli import capture, evidence, journal, operations, options, output, session

if TYPE_CHECKING:
    from fireline_wire.v1 import control_pb2
    from fireline_wire.v1.control_pb2_grpc import ControlStub

app = typer.Typer(help="The incident: open, look, note, timeline.", no_args_is_help=True)

_OPEN_HELP = options.manual(
    "Open an incident and capture its hosts, all at once.",
    "Ends with the table of hosts, their evidence, what stands out, and the time from the command to the last seal. "
    "Without --target nothing is captured; the incident is on record only.",
    examples=(
        'fireline incident open P1 "checkout is down" --target env=prod',
        'fireline incident open P2 "strange logins" -t web[1-3] -p volatile --json',
    ),
    exits=options.FAN_OUT_EXITS,
)
_ID = Annotated[str, typer.Argument(metavar="INCIDENT", help="Such as INC-20260102-030405.")]


@app.command("open", help=_OPEN_HELP)
def open_incident(
    severity: Annotated[str, typer.Argument(metavar="SEVERITY", help="P1 (complete outage) to P5 (for information).")],
    title: Annotated[str, typer.Argument(metavar="TITLE", help="What is wrong, in a few words.")],
    target: options.Target = None,
    without: options.Except = None,
    profile: Annotated[str, typer.Option("--profile", "-p", metavar="NAME", help="What to capture.")] = "initial",
    reason: options.Reason = "",
    yes: options.Yes = False,
    max_fail: options.MaxFail = "",
    host_deadline: options.HostDeadline = 0,
    deadline: options.OverallDeadline = 0,
    concurrency: options.Concurrency = 0,
    json: options.Json = False,
    json_lines: options.JsonLines = False,
    state: options.State = None,
) -> None:
    """Open an incident."""
    wish = operations.Wish(
        target or [], without or [], "", reason, "", yes, max_fail, host_deadline, deadline, concurrency,
        json, json_lines,
    )  # fmt: skip
    session.run(session.folder(state), lambda control: _open(control, wish, severity, title, profile))


async def _open(control: "ControlStub", wish: operations.Wish, severity: str, title: str, profile: str) -> int:
    from fireline_wire.v1 import control_pb2

    options = await operations.confirmed(control, wish)
    request = control_pb2.OpenIncidentRequest(severity=severity, title=title, options=options, profile=profile)
    seen, interrupted = await operations.follow(control, control.OpenIncident(request), wish)
    return operations.report(seen, interrupted, wish, capture.evidence_table)


_LIST_HELP = options.manual(
    "List incidents, the newest first.", examples=("fireline incident list", "fireline incident list --limit 5 --json")
)


@app.command("list", help=_LIST_HELP)
def list_incidents(
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="The newest so many.")] = 50,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """List incidents, the newest first."""
    session.run(session.folder(state), lambda control: _list(control, limit, json))


async def _list(control: "ControlStub", limit: int, json: bool) -> int:
    from fireline_wire.v1 import control_pb2

    reply = await control.ListIncidents(control_pb2.ListIncidentsRequest(limit=limit))
    if json:
        output.print_json({"incidents": [incident_document(i) for i in reply.incidents]})
    elif not reply.incidents:
        output.say('no incidents yet; open one: fireline incident open P1 "what is wrong" --target all')
    else:
        rows = [(i.id, i.severity, i.phase, output.moment(i.opened_at), i.opened_by, i.title) for i in reply.incidents]
        output.table(("INCIDENT", "SEVERITY", "PHASE", "OPENED", "BY", "TITLE"), rows)
    return session.OK


def incident_document(incident: "control_pb2.Incident") -> dict[str, Any]:
    """An incident with its stable keys."""
    return {
        "incident": incident.id,
        "severity": incident.severity,
        "title": incident.title,
        "phase": incident.phase,
        "opened_at": output.moment(incident.opened_at),
        "opened_by": incident.opened_by,
        "target": incident.target,
        "operations": list(incident.operations),
        "sealed_ms": incident.sealed_ms,
        "evidence": [evidence.record_document(e) for e in incident.evidence],
    }


_SHOW_HELP = options.manual(
    "Show one incident with its evidence.",
    examples=("fireline incident show INC-20260102-030405",),
    exits="Exit status: 0 shown; 3 no such incident.",
)


@app.command("show", help=_SHOW_HELP)
def show(incident: _ID, json: options.Json = False, state: options.State = None) -> None:
    """Show one incident with its evidence."""
    session.run(session.folder(state), lambda control: _show(control, incident, json))


async def _show(control: "ControlStub", incident_id: str, json: bool) -> int:
    from fireline_wire.v1 import control_pb2

    incident = await control.ShowIncident(control_pb2.ShowIncidentRequest(id=incident_id))
    if json:
        output.print_json(incident_document(incident))
        return session.OK
    print(f"{incident.id}  {incident.severity}  {incident.phase}  {output.printable(incident.title)}")
    target = output.printable(incident.target or "none")
    print(f"opened {output.moment(incident.opened_at)} by {incident.opened_by}, target: {target}")
    if incident.sealed_ms:
        print(f"first evidence of all hosts sealed {output.seconds(incident.sealed_ms)} after the command")
    evidence.print_records(incident.evidence)
    return session.OK


_NOTE_HELP = options.manual(
    "Write a remark into the incident's record.",
    "It is a line of the journal with your name, and can't be changed afterwards.",
    examples=('fireline incident note INC-20260102-030405 "customers told at 10:40"',),
)


@app.command("note", help=_NOTE_HELP)
def note(
    incident: _ID,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="One remark for the record.")],
    state: options.State = None,
) -> None:
    """Write a remark into the incident's record."""
    session.run(session.folder(state), lambda control: _note(control, incident, text))


async def _note(control: "ControlStub", incident_id: str, text: str) -> int:
    from fireline_wire.v1 import control_pb2

    line = await control.AddNote(control_pb2.AddNoteRequest(incident_id=incident_id, text=text))
    output.say(f"noted as line {line.seq} of the journal")
    return session.OK


_TIMELINE_HELP = options.manual(
    "Show everything that was decided, done and seen, in order.",
    "The lines of the journal that belong to the incident.",
    examples=("fireline incident timeline INC-20260102-030405",),
)


@app.command("timeline", help=_TIMELINE_HELP)
def timeline(incident: _ID, json: options.Json = False, state: options.State = None) -> None:
    """Show the incident's lines of the journal."""
    session.run(session.folder(state), lambda control: journal.print_lines(control, incident, 1, json))
