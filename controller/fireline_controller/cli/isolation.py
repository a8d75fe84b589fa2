"""`fireline isolation`: who is cut off and how that is known, what isolating would do, the codes for consoles."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fireline_controller.cli import operations, options, output, session

if TYPE_CHECKING:
    from fireline_wire.v1 import control_pb2, isolation_pb2
    from fireline_wire.v1.control_pb2_grpc import ControlStub

app = typer.Typer(help="Who is cut off: status, code.", no_args_is_help=True)

_STATUS_HELP = options.manual(
    "Show what is in force, by the kernel of each host.",
    "Beside it stands what is on record: orders that wait for a host, and hosts that can't be asked.",
    examples=("fireline isolation status", "fireline isolation status -t role=web --json"),
    exits="Exit status: 0 every host was asked; 1 some could not be, and what is known of them is said; 3 no host.",
)


@app.command("status", help=_STATUS_HELP)
def status(target: options.Target = None, json: options.Json = False, state: options.State = None) -> None:
    """Show what is in force."""
    session.run(session.folder(state), lambda control: _status(control, target or [], json))


async def _status(control: "ControlStub", target: list[str], json: bool) -> int:
    from fireline_wire.v1 import control_pb2

    request = control_pb2.ShowIsolationsRequest(target=control_pb2.TargetSpec(terms=target))
    reply = await control.ShowIsolations(request)
    if json:
        output.print_json({"hosts": [_host_document(host) for host in reply.hosts]})
    else:
        rows = [row for host in reply.hosts for row in _rows(host)]
        if rows:
            output.table(("HOST", "SCOPE", "IS", "SINCE", "BY", "WHY", "HOW IT IS KNOWN"), rows)
        else:
            output.say(f"{output.counted(len(reply.hosts), 'host')} asked: nothing is isolated")
    all_ok = all(output.outcome_name(host.outcome) == "ok" for host in reply.hosts)
    return session.OK if all_ok else session.SOME_NOT_OK


def _rows(host: "control_pb2.HostIsolation") -> Iterator[tuple[str, ...]]:
    """A line for each isolation by the host's kernel, for what waits for it, and for what can't be known."""
    proofs = {record.order_id: record.proof for record in host.records}
    for state in host.status.isolations:
        drifts = f"; put back {state.drifts} times" if state.drifts else ""
        known = proofs.get(state.order_id, "not on record here") or "not proved yet"
        proof = f"its kernel; {known}{drifts}"
        yield host.host, state.scope, _phase(state), output.moment(state.armed_at), state.operator, state.reason, proof
    is_silent = output.outcome_name(host.outcome) != "ok"
    for record in host.records:
        if record.phase == "pending":
            known = f"waits for the host until {output.moment(record.not_after)}"
        elif is_silent:
            known = f"as last known: {host.detail}"
        else:
            continue
        at = output.moment(record.committed_at) or output.moment(record.ordered_at)
        yield host.host, record.scope, record.phase, at, record.operator, record.reason, known
    if is_silent and not host.records:
        yield host.host, "", "not known", "", "", "", host.detail


def _phase(state: "isolation_pb2.IsolationState") -> str:
    phase = phase_name(state.phase)
    return f"{phase}, {state.lease_left_ms / 1000:.0f} s left" if state.lease_left_ms else phase


def phase_name(value: int) -> str:
    """The word for a phase."""
    from fireline_wire.v1 import isolation_pb2

    name = isolation_pb2.IsolationState.Phase.Name(isolation_pb2.IsolationState.Phase.ValueType(value))
    return name.removeprefix("PHASE_").lower()


def _host_document(host: "control_pb2.HostIsolation") -> dict[str, Any]:
    return {
        "host": host.host,
        "outcome": output.outcome_name(host.outcome),
        "detail": host.detail,
        "capability": host.status.capability,
        "isolations": [_state_document(state) for state in host.status.isolations],
        "ended": [{"order": e.order_id, "how": e.how, "at": output.moment(e.at)} for e in host.status.ended],
        "records": [_record_document(record) for record in host.records],
    }


def _state_document(state: "isolation_pb2.IsolationState") -> dict[str, Any]:
    return {
        "order": state.order_id,
        "scope": state.scope,
        "phase": phase_name(state.phase),
        "lease_left_ms": state.lease_left_ms,
        "controllers": list(state.controllers),
        "armed_at": output.moment(state.armed_at),
        "operator": state.operator,
        "incident": state.incident_id,
        "reason": state.reason,
        "drifts": state.drifts,
        "dropped_packets": state.dropped_packets,
    }


def _record_document(record: "control_pb2.IsolationRecord") -> dict[str, Any]:
    return {
        "order": record.order_id,
        "scope": record.scope,
        "phase": record.phase,
        "operator": record.operator,
        "reason": record.reason,
        "incident": record.incident_id,
        "ordered_at": output.moment(record.ordered_at),
        "committed_at": output.moment(record.committed_at),
        "not_after": output.moment(record.not_after),
        "proof": record.proof,
    }


_CODE_HELP = options.manual(
    "Show the one-time code that lets a host back on its console.",
    "For `fireline-agent release --code` on a host that no controller reaches. It works once, its use is reported when "
    "the host is seen again, and that it was shown is in the journal. What policy.toml says of a release holds for it.",
    examples=('fireline isolation code web1 --reason "datacentre moves, nobody can reach it"',),
    exits="Exit status: 0 it is on stdout; 2 no reason; 3 no such host, or nothing is in force there; "
    "4 approval is needed.",
)


@app.command("code", help=_CODE_HELP)
def code(
    host: Annotated[str, typer.Argument(metavar="HOST", help="The host's name.")],
    reason: options.Reason = "",
    break_glass: options.BreakGlass = "",
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Show the code of a host."""
    session.run(session.folder(state), lambda control: _code(control, host, reason, break_glass, json))


async def _code(control: "ControlStub", host: str, reason: str, break_glass: str, json: bool) -> int:
    from fireline_wire.v1 import control_pb2

    reply = await control.ShowIsolationCode(
        control_pb2.ShowIsolationCodeRequest(host=host, reason=reason, break_glass=break_glass)
    )
    if reply.warning:
        output.warn(reply.warning)
    if json:
        codes = [{"order": c.order_id, "scope": c.scope, "code": c.code, "operator": c.operator} for c in reply.codes]
        output.print_json({"host": host, "codes": codes})
    else:
        output.table(("SCOPE", "CODE", "BY", "AT"), [
            (c.scope, c.code, c.operator, output.moment(c.ordered_at)) for c in reply.codes
        ])  # fmt: skip
    return session.OK


async def plan(control: "ControlStub", wish: operations.Wish, how: "control_pb2.IsolationWish", verbose: bool) -> int:
    """Show what isolating would do; 4 where it would be refused."""
    from fireline_wire.v1 import control_pb2

    reply = await control.PlanIsolations(control_pb2.PlanIsolationsRequest(target=wish.options().target, wish=how))
    if wish.json:
        hosts = [_plan_document(host) for host in reply.hosts]
        output.print_json(
            {"targets": len(hosts), "hurts": list(reply.hurts), "approval": reply.approval, "hosts": hosts}
        )
    else:
        for host in reply.hosts:
            _print_plan(host, verbose)
        for sentence in reply.hurts:
            output.warn(f"hurts: {sentence}" + ("" if how.force else "; refused without --force REASON"))
        if reply.approval:
            output.warn(f"approval: {reply.approval}")
    if reply.hurts and not how.force:
        return session.REFUSED
    all_able = all(output.outcome_name(h.outcome) == "ok" and not h.plan.refusal for h in reply.hosts)
    return session.OK if all_able else session.SOME_NOT_OK


def _plan_document(host: "control_pb2.PlannedIsolation") -> dict[str, Any]:
    plan = host.plan
    return {
        "host": host.host,
        "outcome": output.outcome_name(host.outcome),
        "detail": host.detail,
        "scope": host.scope,
        "open": list(host.open),
        "witnesses": list(host.witnesses),
        "capability": plan.capability,
        "refusal": plan.refusal,
        "lacks": list(plan.lacks),
        "effects": list(plan.effects),
        "interfaces": list(plan.interfaces),
        "addresses": list(plan.addresses),
        "ports": list(plan.ports),
        "ruleset_sha256": plan.ruleset_sha256,
        "transaction": plan.transaction,
    }


def _print_plan(host: "control_pb2.PlannedIsolation", verbose: bool) -> None:
    plan = host.plan
    if output.outcome_name(host.outcome) != "ok":
        print(f"{host.host}: {output.outcome_name(host.outcome)}: {output.printable(host.detail)}")
        return
    facts = {
        "refused": plan.refusal,
        "can be isolated": plan.capability,
        "stays reachable": ", ".join(host.open),
        "would be cut off": "; ".join(plan.effects),
        "interfaces": ", ".join(plan.interfaces),
        "can't be done here": "; ".join(plan.lacks),
        "looked at": f"{', '.join(plan.addresses)}, ports {', '.join(map(str, plan.ports))}",
        "by": ", ".join(host.witnesses) or "this controller alone",
    }
    print(f"{host.host}: {host.scope}")
    for name, fact in facts.items():
        if fact:
            print(f"  {name}: {output.printable(fact)}")
    if verbose:
        print("".join(f"    {output.printable(line)}\n" for line in plan.transaction.splitlines()), end="")
