"""`fireline host`: the fleet."""

from typing import TYPE_CHECKING, Annotated

import typer

from fireline_controller.cli import operations, options, output, session

if TYPE_CHECKING:
    from fireline_wire.v1 import control_pb2
    from fireline_wire.v1.control_pb2_grpc import ControlStub

app = typer.Typer(help="The fleet: who is in it, how each host is, who is thrown out.", no_args_is_help=True)

_PING_EXAMPLES = """\
Send every host a command that does nothing, by the way that every command takes: role, policy, ledger.

Examples:

  fireline host ping -t all

  fireline host ping -t 'role=web,env!=dev' --except web7 --json
"""


@app.command("list")
def list_hosts(
    target: options.Target = None,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """List the enrolled hosts with labels, addresses and how long their certificates last."""
    session.run(session.folder(state), lambda control: _list(control, target or [], json))


async def _list(control: "ControlStub", target: list[str], json: bool) -> int:
    from fireline_wire.v1 import control_pb2

    reply = await control.ListHosts(control_pb2.ListHostsRequest(target=control_pb2.TargetSpec(terms=target)))
    if json:
        output.print_json({"hosts": [host_document(h) for h in reply.hosts]})
    else:
        print_hosts(reply)
    return session.OK


def host_document(host: "control_pb2.HostRecord") -> dict[str, object]:
    """A host of the fleet with its stable keys."""
    return {
        "host": host.name,
        "address": host.address,
        "labels": dict(sorted(host.labels.items())),
        "enrolled_at": output.moment(host.enrolled_at),
        "certificate_not_after": output.moment(host.certificate_not_after),
        "certificate_serial": host.certificate_serial_hex,
        "generation": host.generation,
        "removed": host.removed,
    }


def print_hosts(reply: "control_pb2.ListHostsReply") -> None:
    """The fleet as a table."""
    if not reply.hosts:
        output.say("no hosts yet; make a token: fireline enroll token --host NAME")
        return
    output.table(
        ("HOST", "ADDRESS", "LABELS", "CERTIFICATE UNTIL"),
        [
            (
                h.name,
                h.address,
                ",".join(f"{k}={v}" for k, v in sorted(h.labels.items())),
                output.moment(h.certificate_not_after),
            )
            for h in reply.hosts
        ],
    )


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="The host's name.")],
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Ask one host what it is, what it lacks and how far its clock is off."""
    session.run(session.folder(state), lambda control: _show(control, name, json))


async def _show(control: "ControlStub", name: str, json: bool) -> int:
    from fireline_wire.v1 import control_pb2

    reply = await control.DescribeHost(control_pb2.DescribeHostRequest(name=name))
    document = host_document(reply.record) | {
        "outcome": output.outcome_name(reply.outcome),
        "detail": reply.detail,
        "agent_version": reply.agent_version,
        "boot_id": reply.boot_id,
        "kernel": reply.kernel,
        "operating_system": reply.operating_system,
        "cgroup": reply.cgroup,
        "clock_offset_ms": reply.clock_offset_ns / 1e6,
        "spool_free_bytes": reply.spool_free_bytes,
        "collectors": list(reply.collectors),
        "lacks": list(reply.lacks),
    }
    if json:
        output.print_json(document)
    else:
        output.table(("FIELD", "VALUE"), [(k, _cell(v)) for k, v in document.items() if v not in ("", [], {})])
    return session.OK if document["outcome"] == "ok" else session.SOME_NOT_OK


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items())
    return str(value)


@app.command("label")
def label(
    changes: Annotated[list[str], typer.Argument(help="KEY=VALUE sets, KEY- removes.")],
    target: options.Target = None,
    reason: options.Reason = "",
    state: options.State = None,
) -> None:
    """Set or remove labels. They live on the controller, never on the host."""
    session.run(session.folder(state), lambda control: _label(control, changes, target or [], reason))


async def _label(control: "ControlStub", changes: list[str], target: list[str], reason: str) -> int:
    from fireline_wire.v1 import control_pb2

    request = control_pb2.LabelHostsRequest(target=control_pb2.TargetSpec(terms=target), reason=reason)
    for change in changes:
        key, equals, value = change.partition("=")
        if equals:
            request.set[key] = value
        elif change.endswith("-"):
            request.remove.append(change[:-1])
        else:
            session.fail(f"{change!r}: wanted KEY=VALUE or KEY-", session.USAGE)
    print_hosts(await control.LabelHosts(request))
    return session.OK


@app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="The host's name.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the journal.", show_default=False)],
    state: options.State = None,
) -> None:
    """Take a host out of the fleet: its certificates are revoked, its connections cut. Its evidence stays."""
    session.run(session.folder(state), lambda control: _remove(control, name, reason))


async def _remove(control: "ControlStub", name: str, reason: str) -> int:
    from fireline_wire.v1 import control_pb2

    record = await control.RemoveHost(control_pb2.RemoveHostRequest(name=name, reason=reason))
    output.say(f"{record.name} is removed; its certificate {record.certificate_serial_hex} is revoked")
    return session.OK


@app.command("ping", help=_PING_EXAMPLES)
def ping(
    target: options.Target = None,
    without: options.Except = None,
    retry_of: options.RetryOf = "",
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
    """Reach every host."""
    wish = operations.Wish(
        target or [], without or [], retry_of, reason, "", yes, max_fail, host_deadline, deadline, concurrency,
        json, json_lines,
    )  # fmt: skip
    session.run(session.folder(state), lambda control: _ping(control, wish))


async def _ping(control: "ControlStub", wish: operations.Wish) -> int:
    from fireline_wire.v1 import control_pb2

    options = await operations.confirmed(control, wish)
    events = control.PingHosts(control_pb2.PingHostsRequest(options=options))
    seen, interrupted = await operations.follow(control, events, wish)
    return operations.report(seen, interrupted, wish, operations.outcome_table)
