"""`fireline journal`: the record, read and proved."""

import json as jsonlib
from typing import TYPE_CHECKING, Annotated

import typer

from fireline_controller.cli import options, output, session

if TYPE_CHECKING:
    from fireline_wire.v1.control_pb2_grpc import ControlStub

app = typer.Typer(help="The record of everything: verify, export.", no_args_is_help=True)


_VERIFY_HELP = options.manual(
    "Prove that no line was changed, removed, moved or cut off.",
    "Checks the chain of hashes, the signed checkpoints, and the head that is kept apart from the store.",
    examples=("fireline journal verify", "fireline journal verify --json"),
    exits="Exit status: 0 it verifies; 1 it does not, and the lines are named.",
)


@app.command("verify", help=_VERIFY_HELP)
def verify(json: options.Json = False, state: options.State = None) -> None:
    """Verify the journal."""
    session.run(session.folder(state), lambda control: _verify(control, json))


async def _verify(control: "ControlStub", json: bool) -> int:
    from fireline_wire.v1 import control_pb2

    reply = await control.VerifyJournal(control_pb2.VerifyJournalRequest())
    if json:
        output.print_json(
            {
                "verified": not reply.problems,
                "problems": list(reply.problems),
                "lines": reply.lines,
                "checkpoints": reply.checkpoints,
                "head": reply.head_hash,
            }
        )
    elif reply.problems:
        print("journal: NOT VERIFIED")
        for problem in reply.problems:
            print(f"  {output.printable(problem)}")
    else:
        lines, checkpoints = output.counted(reply.lines, "line"), output.counted(reply.checkpoints, "checkpoint")
        print(f"journal: verified: {lines}, {checkpoints}, head {reply.head_hash[:16]}")
    return session.SOME_NOT_OK if reply.problems else session.OK


_EXPORT_HELP = options.manual(
    "Print the lines as they are hashed, one JSON object each.",
    examples=("fireline journal export", "fireline journal export -i INC-20260102-030405"),
)


@app.command("export", help=_EXPORT_HELP)
def export(
    incident: options.IncidentId = "",
    first: Annotated[int, typer.Option("--from", metavar="N", min=1, help="The first line's number.")] = 1,
    state: options.State = None,
) -> None:
    """Print the lines of the journal."""
    session.run(session.folder(state), lambda control: print_lines(control, incident, first, True))


async def print_lines(control: "ControlStub", incident: str, first: int, json: bool) -> int:
    """Lines of the journal: canonical JSON, or a table for a person."""
    from fireline_wire.v1 import control_pb2

    request = control_pb2.ReadJournalRequest(incident_id=incident, from_seq=first)
    lines = [line async for line in control.ReadJournal(request)]
    if incident and first == 1 and not lines:
        session.fail(f"the journal has no line of {incident}; see `fireline incident list`", session.NOTHING_MATCHED)
    if json:
        for line in lines:
            output.print_json_line(jsonlib.loads(line.line_json) | {"hash": line.hash})
    else:
        rows = [(str(n.seq), output.moment(n.at), n.actor, n.host, n.kind, n.summary) for n in lines]
        output.table(("LINE", "AT", "WHO", "HOST", "KIND", "WHAT"), rows)
    return session.OK
