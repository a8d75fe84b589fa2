"""`fireline operator`: who may ask the controller."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fireline_controller.cli import options, output, session
from fireline_controller.model import FirelineError

if TYPE_CHECKING:
    from fireline_wire.v1 import control_pb2
    from fireline_wire.v1.control_pb2_grpc import ControlStub

app = typer.Typer(help="The operators: add, list, remove.", no_args_is_help=True)

_NAME = Annotated[str, typer.Argument(metavar="NAME", help="The operator's name, as in certificates and journal.")]

_ADD_HELP = options.manual(
    "Make a key and a certificate for another operator.",
    "The key is kept in this state folder, for whoever works on this machine: fireline --as NAME. That tells honest "
    "operators apart; whoever can read the state folder can use every key in it. With --out the key is written for an "
    "operator who works elsewhere, and no copy stays here.",
    examples=(
        "fireline operator add bob",
        "fireline operator add carol --out carol-keys",
        "carol# fireline --controller 198.51.100.7:7702 --keys carol-keys host list",
    ),
    exits="Exit status: 0 added; 2 the name is none, or the folder exists; 4 the name is taken, or approval is needed.",
)


@app.command("add", help=_ADD_HELP)
def add(
    name: _NAME,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Write the key folder here and keep no copy.", show_default=False),
    ] = None,
    reason: options.Reason = "",
    break_glass: options.BreakGlass = "",
    state: options.State = None,
) -> None:
    """Add an operator."""
    if out is None and session.is_remote():
        session.fail("the controller is elsewhere: say --out FOLDER, where the key shall be written", session.USAGE)
    if out is not None and out.exists():
        session.fail(f"{out} exists already; name another with --out", session.USAGE)
    place = session.folder(state)
    session.run(place, lambda control: _add(control, name, out, place / "keys", reason, break_glass))


async def _add(control: "ControlStub", name: str, out: Path | None, keys: Path, reason: str, break_glass: str) -> int:
    from fireline_controller import pki
    from fireline_wire.v1 import control_pb2

    key, signing_request = pki.new_request()
    reply = await control.AddOperator(
        control_pb2.AddOperatorRequest(
            name=name, signing_request_pem=signing_request, reason=reason, break_glass=break_glass
        )
    )
    if reply.warning:
        output.warn(reply.warning)
    try:
        if out is None:
            pki.OperatorKeys(keys).keep(name, key, reply.chain_pem)
        else:
            pki.hand_over(out, key, reply.chain_pem, reply.ca_pem)
    except FirelineError as error:
        advice = f"{name} is an operator without a key now: fireline operator remove {name}, then add it again"
        session.fail(f"{error}; {advice}", session.CONTROLLER_FAILED)
    if out is None:
        output.say(f"{name} is an operator; on this machine: fireline --as {name} COMMAND")
    else:
        output.say(f"{name} is an operator; hand {out} over on a safe way, and remove it here")
    return session.OK


_LIST_HELP = options.manual(
    "List the operators with their certificates.", examples=("fireline operator list", "fireline operator list --json")
)


@app.command("list", help=_LIST_HELP)
def list_operators(json: options.Json = False, state: options.State = None) -> None:
    """List the operators."""
    session.run(session.folder(state), lambda control: _list(control, json))


async def _list(control: "ControlStub", json: bool) -> int:
    from fireline_wire.v1 import control_pb2

    reply = await control.ListOperators(control_pb2.ListOperatorsRequest())
    if json:
        output.print_json({"operators": [_document(o) for o in reply.operators]})
    else:
        rows = [(o.name, _until(o), "state folder" if o.has_key_here else "handed over") for o in reply.operators]
        output.table(("OPERATOR", "CERTIFICATE UNTIL", "KEY"), rows)
    return session.OK


def _until(operator: "control_pb2.OperatorRecord") -> str:
    return output.moment(operator.certificate_not_after) or "renewed by itself"


def _document(operator: "control_pb2.OperatorRecord") -> dict[str, object]:
    return {
        "operator": operator.name,
        "certificate_serial": operator.certificate_serial_hex,
        "certificate_not_after": output.moment(operator.certificate_not_after),
        "has_key_here": operator.has_key_here,
    }


_REMOVE_HELP = options.manual(
    "Take an operator's rights away: certificate revoked, calls cut.",
    "What the operator approved and nobody used yet does not count any more. What the operator had begun on hosts "
    "goes on; another one can interrupt it.",
    examples=('fireline operator remove bob --reason "left the team"',),
    exits="Exit status: 0 removed; 3 no such operator; 4 refused: yourself, the one that `fireline init` made, or "
    "approval is needed.",
)


@app.command("remove", help=_REMOVE_HELP)
def remove(
    name: _NAME,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; it goes into the journal.", show_default=False)
    ],
    break_glass: options.BreakGlass = "",
    state: options.State = None,
) -> None:
    """Remove an operator."""
    session.run(session.folder(state), lambda control: _remove(control, name, reason, break_glass))


async def _remove(control: "ControlStub", name: str, reason: str, break_glass: str) -> int:
    from fireline_wire.v1 import control_pb2

    request = control_pb2.RemoveOperatorRequest(name=name, reason=reason, break_glass=break_glass)
    reply = await control.RemoveOperator(request)
    if reply.warning:
        output.warn(reply.warning)
    output.say(f"{name} is removed; revoked: {', '.join(reply.revoked_serials_hex)}")
    return session.OK
