"""`fireline capture`: collect the state of hosts as sealed evidence."""

from typing import TYPE_CHECKING, Annotated

import typer

from fireline_controller.cli import operations, options, output, session

if TYPE_CHECKING:
    from fireline_wire.v1.control_pb2_grpc import ControlStub

HELP = options.manual(
    "Collect the state of every host as sealed, verified evidence.",
    "Profiles are lists of collectors with limits: `initial` is what a first look needs, `volatile` is everything that "
    "is gone after a restart, `breach` that and the files that changed of late, `image` the raw image of a disk.",
    "An image is taken in parts where it does not fit at once: `fireline evidence image` puts them together.",
    "--retry-of goes to the hosts that did not end ok, takes up what lies on them, and uses that "
    "operation's own profile.",
    examples=(
        'fireline capture -t all --profile volatile --reason "odd traffic"',
        "fireline capture -t web[01-20] -i INC-20260102-030405 --max-fail 10%",
        "fireline capture -t db1 --profile image --param disk_image.source=/dev/vda --host-deadline 3600",
        "fireline capture --retry-of op-19b7ca98c88-5e6f7a8b --json",
    ),
    exits=options.FAN_OUT_EXITS,
)


def capture(
    target: options.Target = None,
    without: options.Except = None,
    profile: Annotated[
        str,
        typer.Option("--profile", "-p", metavar="NAME", help="initial, volatile, breach, image, or your own."),
    ] = "initial",
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            metavar="COLLECTOR.NAME=VALUE",
            help="A parameter beyond the profile's own, as JSON or as text. Repeatable.",
            show_default=False,
        ),
    ] = None,
    incident: options.IncidentId = "",
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
    """Collect the state of hosts."""
    wish = operations.Wish(
        target or [], without or [], retry_of, reason, incident, yes, max_fail, host_deadline, deadline, concurrency,
        json, json_lines,
    )  # fmt: skip
    session.run(session.folder(state), lambda control: _capture(control, wish, profile, _params(param or [])))


def _params(given: list[str]) -> dict[str, str]:
    """COLLECTOR.NAME=VALUE each, as name to JSON: what is no JSON is taken as a text, such as a path."""
    import json

    found = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or "." not in name:
            session.fail(f"--param {one!r}: wanted COLLECTOR.NAME=VALUE", session.USAGE)
        try:
            json.loads(value)
        except (ValueError, RecursionError):
            value = json.dumps(value)
        found[name] = value
    return found


async def _capture(control: "ControlStub", wish: operations.Wish, profile: str, params: dict[str, str]) -> int:
    from fireline_wire.v1 import control_pb2

    options = await operations.confirmed(control, wish)
    request = control_pb2.CaptureHostsRequest(options=options, profile=profile, params=params)
    events = control.CaptureHosts(request)
    seen, interrupted = await operations.follow(control, events, wish)
    return operations.report(seen, interrupted, wish, evidence_table)


def evidence_table(seen: operations.Followed) -> None:
    """Hosts and evidence, what crossed the wire, and what stands out."""
    operations.outcome_table(seen)
    sealed = [h for h in seen.hosts if h.evidence_id]
    if not sealed:
        return
    total = sum(h.total_bytes for h in sealed)
    artifacts = output.counted(sum(h.artifacts for h in sealed), "artifact")
    line = f"\n{output.size(total)} in {artifacts} of {output.counted(len(sealed), 'host')}"
    if known := sum(h.deduplicated_bytes for h in sealed):
        line += f", {output.size(known)} of it already in the vault"
    if again := sum(h.resent_bytes for h in sealed):
        line += f", {output.size(again)} sent again after a broken connection"
    print(f"{line}; sealed {output.seconds(max(h.sealed_ms for h in sealed))} after the command")
    output.print_findings([f for h in sealed for f in h.findings])
