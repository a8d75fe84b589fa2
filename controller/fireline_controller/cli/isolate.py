"""`fireline isolate` and `fireline release`: cut hosts off, let them back."""

from typing import TYPE_CHECKING, Annotated

import typer

from fireline_controller.cli import isolation, operations, options, output, session
from fireline_controller.cli.enroll import duration_s

if TYPE_CHECKING:
    from fireline_wire.v1 import control_pb2
    from fireline_wire.v1.control_pb2_grpc import ControlStub

HELP = options.manual(
    "Cut hosts off from all but the controllers, each proved dark.",
    "Captures what is volatile, puts the rules in force under a lease, comes back on a new connection while other "
    "hosts look whether anything still answers, and only then makes them stand. What can't be proved is let back; what "
    "is lost in between the host's kernel lets back by itself when the lease is over.",
    "--plan shows what would happen, on which hosts, what stays reachable and whom it would hurt; nothing is changed. "
    "With -v also the rules themselves.",
    "Scopes: host, container:NAME, compose:SERVICE, image:REFERENCE, paused:NAME, peer:ADDRESS[/PREFIX], user:NAME, "
    "process:PID.",
    examples=(
        'fireline isolate -t web[1-3] --reason "planted binary" -i INC-20260102-030405',
        "fireline isolate -t web1 --reason drill --plan",
        "fireline isolate -t web1 --reason drill --now --allow 192.0.2.7:22/tcp",
        'fireline isolate -t role=web --reason "ransom note" --hold 24h --force "all of them are infected"',
    ),
    exits=options.FAN_OUT_EXITS,
)
RELEASE_HELP = options.manual(
    "Let hosts back, with everything that is isolated on them.",
    "Says of each host whether its rules are what they were before, and whether its ports answer again. Orders that "
    "wait for a host are withdrawn. Nothing being isolated is no error.",
    examples=('fireline release -t web[1-3] --reason "reinstalled"',),
    exits=options.FAN_OUT_EXITS,
)


def isolate(
    target: options.Target = None,
    without: options.Except = None,
    reason: options.Reason = "",
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done, and do nothing.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="With --plan: show the rules too.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Capture nothing first: what is lost by that is lost.")] = False,
    scope: Annotated[str, typer.Option("--scope", metavar="SCOPE", help="The part of the host to cut off.")] = "host",
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="ADDR:PORT/PROTO",
            help="What stays reachable besides the controllers, as 192.0.2.7:22/tcp. Repeatable.",
            show_default=False,
        ),
    ] = None,
    lease: Annotated[
        int,
        typer.Option(
            "--lease",
            metavar="SECONDS",
            min=0,
            help="Until the kernel lets back what was not proved. Default: as configured.",
            show_default=False,
        ),
    ] = 0,
    force: Annotated[
        str,
        typer.Option(
            "--force",
            metavar="REASON",
            help="Cut off the last healthy member of a group all the same; why goes into the journal.",
            show_default=False,
        ),
    ] = "",
    unproved: Annotated[
        str,
        typer.Option(
            "--unproved",
            metavar="REASON",
            help="Keep a host cut off that nobody could prove dark; why goes into the journal.",
            show_default=False,
        ),
    ] = "",
    hold: Annotated[
        str,
        typer.Option(
            "--hold",
            metavar="DURATION",
            help="Keep the order so long for hosts that can't be reached, as 24h.",
            show_default=False,
        ),
    ] = "",
    retry_of: options.RetryOf = "",
    incident: options.IncidentId = "",
    yes: options.Yes = False,
    break_glass: options.BreakGlass = "",
    max_fail: options.MaxFail = "",
    host_deadline: options.HostDeadline = 0,
    deadline: options.OverallDeadline = 0,
    concurrency: options.Concurrency = 0,
    json: options.Json = False,
    json_lines: options.JsonLines = False,
    state: options.State = None,
) -> None:
    """Cut hosts off."""
    from fireline_wire.v1 import control_pb2

    wish = operations.Wish(
        target or [], without or [], retry_of, reason, incident, yes, max_fail, host_deadline, deadline, concurrency,
        json, json_lines, break_glass,
    )  # fmt: skip
    how = control_pb2.IsolationWish(
        scope=scope, allowances=allow or [], lease_s=lease, now=now, force=force, unproved=unproved
    )
    if hold:
        how.hold.FromSeconds(duration_s(hold))
    if plan:
        session.run(session.folder(state), lambda control: isolation.plan(control, wish, how, verbose))
    _require_reason(reason)
    session.run(session.folder(state), lambda control: _isolate(control, wish, how))


def release(
    target: options.Target = None,
    without: options.Except = None,
    reason: options.Reason = "",
    retry_of: options.RetryOf = "",
    incident: options.IncidentId = "",
    yes: options.Yes = False,
    break_glass: options.BreakGlass = "",
    max_fail: options.MaxFail = "",
    host_deadline: options.HostDeadline = 0,
    deadline: options.OverallDeadline = 0,
    concurrency: options.Concurrency = 0,
    json: options.Json = False,
    json_lines: options.JsonLines = False,
    state: options.State = None,
) -> None:
    """Let hosts back."""
    wish = operations.Wish(
        target or [], without or [], retry_of, reason, incident, yes, max_fail, host_deadline, deadline, concurrency,
        json, json_lines, break_glass,
    )  # fmt: skip
    _require_reason(reason)
    session.run(session.folder(state), lambda control: _release(control, wish))


def _require_reason(reason: str) -> None:
    if not reason.strip():
        session.fail("--reason is missing: why, for the record", session.USAGE)


async def _isolate(control: "ControlStub", wish: operations.Wish, how: "control_pb2.IsolationWish") -> int:
    from fireline_wire.v1 import control_pb2

    options = await operations.confirmed(control, wish)
    events = control.IsolateHosts(control_pb2.IsolateHostsRequest(options=options, wish=how))
    seen, interrupted = await operations.follow(control, events, wish)
    return operations.report(seen, interrupted, wish, _isolation_table)


async def _release(control: "ControlStub", wish: operations.Wish) -> int:
    from fireline_wire.v1 import control_pb2

    options = await operations.confirmed(control, wish)
    events = control.ReleaseHosts(control_pb2.ReleaseHostsRequest(options=options))
    seen, interrupted = await operations.follow(control, events, wish)
    return operations.report(seen, interrupted, wish, operations.outcome_table)


def _isolation_table(seen: operations.Followed) -> None:
    """Hosts, how it is known that they are dark, and how long that took at most."""
    operations.outcome_table(seen)
    dark = [h.isolation for h in seen.hosts if h.isolation.committed_ms]
    if not dark:
        return
    proved = [times.proved_ms for times in dark if times.proved_ms]
    parts = [f"armed {output.seconds(max(times.armed_ms for times in dark))} after the command"]
    if proved:
        parts.append(f"proved dark {output.seconds(max(proved))}")
    parts.append(f"standing {output.seconds(max(times.committed_ms for times in dark))}")
    print(f"\n{output.counted(len(dark), 'host')} isolated: {', '.join(parts)}")
    output.say("let them back: fireline release -t HOSTS --reason WHY; from a console: fireline isolation code HOST")
