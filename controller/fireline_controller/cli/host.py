"""`fireline host`: the fleet."""

from typing import TYPE_CHECKING, Annotated

import typer

from fireline_controller.cli import operations, options, output, session

if TYPE_CHECKING:
    from fireline_wire.v1 import control_pb2
    from fireline_wire.v1.control_pb2_grpc import ControlStub

app = typer.Typer(help="The fleet: list, show, label, ping, renew, remove.", no_args_is_help=True)

_PING_HELP = options.manual(
    "Send every host a command that does nothing.",
    "It goes the way that every command goes: certificate, role, policy and ledger of the host.",
    examples=("fireline host ping -t all", "fireline host ping -t 'role=web,env!=dev' --except web7 --json"),
    exits=options.FAN_OUT_EXITS,
)
_RENEW_HELP = options.manual(
    "Give hosts new certificates for new keys, now.",
    "The controller renews what is due by itself; this is for keys that may have been copied. The key is made on the "
    "host and never leaves it. The former certificate runs out by itself: to refuse it at once, remove the host and "
    "enrol it again.",
    examples=("fireline host renew -t web1 --reason 'break-in on web1'", "fireline host renew -t all --max-fail 10%"),
    exits=options.FAN_OUT_EXITS,
)
_NAME = Annotated[str, typer.Argument(metavar="HOST", help="The host's name.")]


_LIST_HELP = options.manual(
    "List the enrolled hosts with labels and certificates.",
    "Asks no host: what is shown is what the controller knows.",
    examples=("fireline host list", "fireline host list -t role=web --json"),
)


@app.command("list", help=_LIST_HELP)
def list_hosts(
    target: options.Target = None,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """List the enrolled hosts."""
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


_SHOW_HELP = options.manual(
    "Ask one host what it is, what it lacks, how its clock is.",
    examples=("fireline host show web1",),
    exits="Exit status: 0 it answered; 1 it did not, and the outcome says why; 3 no such host.",
)


@app.command("show", help=_SHOW_HELP)
def show(
    name: _NAME,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Ask one host what it is."""
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
        "isolation": reply.isolation,
        "clock_offset_ms": reply.clock_offset_ns / 1e6,
        "spool_free_bytes": reply.spool_free_bytes,
        "collectors": list(reply.collectors),
        "actions": list(reply.actions),
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


_LABEL_HELP = options.manual(
    "Set or remove labels, by which targets select hosts.",
    "They live on the controller, never on the host.",
    examples=("fireline host label -t web1 tier=critical", "fireline host label -t 'web[01-20]' tier-"),
)


@app.command("label", help=_LABEL_HELP)
def label(
    changes: Annotated[list[str], typer.Argument(metavar="CHANGE...", help="KEY=VALUE sets, KEY- removes.")],
    target: options.Target = None,
    reason: options.Reason = "",
    state: options.State = None,
) -> None:
    """Set or remove labels."""
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


_REMOVE_HELP = options.manual(
    "Take a host out: certificates revoked, connections cut.",
    "Its evidence stays. The name can be enrolled again, as a new generation that the old key can't pass for.",
    examples=('fireline host remove web1 --reason "decommissioned"',),
    exits="Exit status: 0 it is removed; 3 no such host.",
)


@app.command("remove", help=_REMOVE_HELP)
def remove(
    name: _NAME,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; it goes into the journal.", show_default=False)
    ],
    state: options.State = None,
) -> None:
    """Take a host out of the fleet."""
    session.run(session.folder(state), lambda control: _remove(control, name, reason))


async def _remove(control: "ControlStub", name: str, reason: str) -> int:
    from fireline_wire.v1 import control_pb2

    record = await control.RemoveHost(control_pb2.RemoveHostRequest(name=name, reason=reason))
    output.say(f"{record.name} is removed; its certificate {record.certificate_serial_hex} is revoked")
    return session.OK


@app.command("ping", help=_PING_HELP)
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


@app.command("renew", help=_RENEW_HELP)
def renew(
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
    """Renew certificates now."""
    wish = operations.Wish(
        target or [], without or [], retry_of, reason, "", yes, max_fail, host_deadline, deadline, concurrency,
        json, json_lines,
    )  # fmt: skip
    session.run(session.folder(state), lambda control: _renew(control, wish))


async def _renew(control: "ControlStub", wish: operations.Wish) -> int:
    from fireline_wire.v1 import control_pb2

    options = await operations.confirmed(control, wish)
    events = control.RenewHosts(control_pb2.RenewHostsRequest(options=options))
    seen, interrupted = await operations.follow(control, events, wish)
    return operations.report(seen, interrupted, wish, operations.outcome_table)
