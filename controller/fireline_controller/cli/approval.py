"""`fireline approval`: what other operators ask leave for."""

import asyncio
import json as jsonlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fireline_controller.cli import options, output, session

if TYPE_CHECKING:
    from fireline_wire.v1 import control_pb2
    from fireline_wire.v1.control_pb2_grpc import ControlStub

app = typer.Typer(help="Two persons for one command: list, show, approve, deny.", no_args_is_help=True)

_ID = Annotated[str, typer.Argument(metavar="REQUEST", help="Such as apr-19b7ca98c88-5e6f7a8b.")]
_EXAMPLE = "apr-19b7ca98c88-5e6f7a8b"

_LIST_HELP = options.manual(
    "List requests for approval, the newest first.",
    "A command asks by itself when policy.toml in the controller's state folder says that it needs approval.",
    examples=("fireline approval list", "fireline approval list --limit 5 --json"),
)


@app.command("list", help=_LIST_HELP)
def list_approvals(
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="The newest so many.")] = 50,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """List requests."""
    session.run(session.folder(state), lambda control: _list(control, limit, json))


async def _list(control: "ControlStub", limit: int, json: bool) -> int:
    from fireline_wire.v1 import control_pb2

    reply = await control.ListApprovals(control_pb2.ListApprovalsRequest(limit=limit))
    if json:
        output.print_json({"approvals": [_document(a) for a in reply.approvals]})
    elif not reply.approvals:
        output.say("nobody has asked for approval yet")
    else:
        rows = [
            (a.id, a.standing, a.requester, ", ".join(map(_said, a.votes)), output.moment(a.expires_at), a.summary)
            for a in reply.approvals
        ]
        output.table(("REQUEST", "IS", "BY", "SAID", "UNTIL", "WHAT"), rows)
    return session.OK


_SHOW_HELP = options.manual(
    "Show exactly what would be done, to which hosts.",
    examples=(f"fireline approval show {_EXAMPLE}",),
    exits="Exit status: 0 shown; 3 no such request.",
)


@app.command("show", help=_SHOW_HELP)
def show(request: _ID, json: options.Json = False, state: options.State = None) -> None:
    """Show one request."""
    session.run(session.folder(state), lambda control: _show(control, request, json))


async def _show(control: "ControlStub", request: str, json: bool) -> int:
    from fireline_wire.v1 import control_pb2

    _print(await control.ShowApproval(control_pb2.ShowApprovalRequest(id=request)), json)
    return session.OK


_DECIDE_EXITS = (
    "Exit status: 0 done; 3 no such request; 4 your word does not count: your own request, you are not among those who "
    "decide, or it has ended."
)
_APPROVE_HELP = options.manual(
    "Approve what another operator asks for.",
    "What would be done is shown first; on a terminal you are asked once more. The approval is for these hosts and "
    "these parameters only, for one command, and until the time that is shown.",
    examples=(
        f"fireline approval approve {_EXAMPLE}",
        f'fireline --as bob approval approve {_EXAMPLE} --reason "seen"',
    ),
    exits=_DECIDE_EXITS,
)


@app.command("approve", help=_APPROVE_HELP)
def approve(
    request: _ID,
    reason: options.Reason = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask once more.")] = False,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Approve a request."""
    session.run(session.folder(state), lambda control: approve_shown(control, request, reason, yes, json))


async def approve_shown(control: "ControlStub", request: str, reason: str, yes: bool, json: bool) -> int:
    """Approve a request, after a look at it where somebody is there to look."""
    from fireline_wire.v1 import control_pb2

    asked = await control.ShowApproval(control_pb2.ShowApprovalRequest(id=request))
    if sys.stdin.isatty() and not yes:
        _print(asked, json=False)
        answer = await asyncio.to_thread(input, "Approve this? Type yes: ")
        if answer.strip() != "yes":
            session.fail("not approved", session.REFUSED)
    return await decide(control, request, True, reason, json)


_DENY_HELP = options.manual(
    "Deny what another operator asks for.",
    "One denial ends the request, and the same can't be asked again before its time is over.",
    examples=(f'fireline approval deny {_EXAMPLE} --reason "the database restores until noon"',),
    exits=_DECIDE_EXITS,
)


@app.command("deny", help=_DENY_HELP)
def deny(
    request: _ID,
    reason: options.Reason = "",
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Deny a request."""
    session.run(session.folder(state), lambda control: decide(control, request, False, reason, json))


async def decide(control: "ControlStub", request: str, approves: bool, reason: str, json: bool) -> int:
    """Put a word on a request on record."""
    from fireline_wire.v1 import control_pb2

    decision = control_pb2.DecideApprovalRequest(id=request, approves=approves, reason=reason)
    decided = await control.DecideApproval(decision)
    _print(decided, json)
    if approves and not json:
        is_run = decided.action == "runbook"
        once = "the run goes on by itself" if is_run else "the requester repeats the same command"
        output.say(f"once all approvals are there, {once}")
    return session.OK


def _print(approval: "control_pb2.Approval", json: bool) -> None:
    document = _document(approval)
    if json:
        output.print_json(document)
        return
    fields = document | {
        "parameters": "; ".join(f"{name}: {_word(value)}" for name, value in document["parameters"].items() if value),
        "needs": " and ".join(approval.demands),
        "said": ", ".join(map(_said, approval.votes)),
    }
    output.table(("FIELD", "VALUE"), [(name, value) for name, value in fields.items() if value and name != "votes"])


def _word(value: object) -> str:
    return value if isinstance(value, str) else jsonlib.dumps(value)


def _said(vote: "control_pb2.Vote") -> str:
    because = f" ({vote.reason})" if vote.reason else ""
    return f"{vote.operator} {'approved' if vote.approves else 'denied'}{because}"


def _document(approval: "control_pb2.Approval") -> dict[str, Any]:
    """A request with its stable keys."""
    return {
        "approval": approval.id,
        "standing": approval.standing,
        "action": approval.action,
        "summary": approval.summary,
        "hosts": approval.hosts,
        "parameters": jsonlib.loads(approval.parameters_json or "{}"),
        "requester": approval.requester,
        "reason": approval.reason,
        "incident": approval.incident_id,
        "asked_at": output.moment(approval.asked_at),
        "expires_at": output.moment(approval.expires_at),
        "needs": list(approval.demands),
        "votes": [
            {"operator": v.operator, "at": output.moment(v.at), "approves": v.approves, "reason": v.reason}
            for v in approval.votes
        ],
        "used_by": approval.used_by,
        "digest": approval.digest,
    }
