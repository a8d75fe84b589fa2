"""`fireline analyze`: one question about logs or databases to many hosts, answered in one table."""

import json as encoding
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fireline_controller.cli import actions, operations, options, output, session

if TYPE_CHECKING:
    from fireline_controller.analysis import Table
    from fireline_wire.v1.control_pb2_grpc import ControlStub

app = typer.Typer(help="Ask many hosts about their logs or databases: log, postgres.", no_args_is_help=True)
log_app = typer.Typer(help="Search logs, count errors, rank response times.", no_args_is_help=True)
postgres_app = typer.Typer(
    help="What databases do, who holds whom up, who takes all connections.", no_args_is_help=True
)
app.add_typer(log_app, name="log")
app.add_typer(postgres_app, name="postgres")

_READING = 0.75  # of a host's deadline, for the reading itself

_Path = Annotated[
    list[str] | None,
    typer.Option(
        "--path",
        metavar="PATH",
        help="A log, a pattern as '/var/log/shop/*.log', or a folder with all below; on the hosts. Repeatable.",
        show_default=False,
    ),
]
_Container = Annotated[
    list[str] | None,
    typer.Option(
        "--container",
        metavar="NAME",
        help="A container's name or Compose service, for its log. Repeatable.",
        show_default=False,
    ),
]
_Service = Annotated[
    str,
    typer.Option(
        "--service",
        metavar="NAME",
        help="The container or Compose service that the server runs in. Default: the host's own server, or the only "
        "container of its image.",
        show_default=False,
    ),
]
_Param = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-p",
        metavar="KEY=VALUE",
        help="Another parameter of the action (`fireline action show`). Repeatable.",
        show_default=False,
    ),
]

_SEARCH_HELP = options.manual(
    "Find lines in the logs of hosts and their containers.",
    "Rotated and compressed parts are read too. All lines are counted, the newest of each host are shown; secrets in "
    "them are masked. --regex takes the pattern as a regular expression.",
    examples=(
        "fireline analyze log search 'connection pool' -t role=web --path /var/log/mosaic -p context=2",
        "fireline analyze log search --regex 'timeout after [0-9]{3,}' -t web[1-3] --container api",
    ),
    exits=options.FAN_OUT_EXITS,
)


@log_app.command("search", help=_SEARCH_HELP)
def search(
    pattern: Annotated[str, typer.Argument(metavar="TEXT", help="What a line must hold, literally.")],
    target: options.Target = None,
    without: options.Except = None,
    path: _Path = None,
    container: _Container = None,
    regex: Annotated[bool, typer.Option("--regex", "-E", help="TEXT is a regular expression.")] = False,
    param: _Param = None,
    incident: options.IncidentId = "",
    yes: options.Yes = False,
    host_deadline: options.HostDeadline = 0,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Search logs."""
    given = {"regex" if regex else "text": pattern, **_logs(path, container, host_deadline)}
    wish = _wish(target, without, incident, yes=yes, host_deadline=host_deadline, json=json)
    _ask("logs.search", given, param, wish, state)


_ERRORS_HELP = options.manual(
    "Count the lines with errors, by the hour, over all hosts.",
    "What counts as an error: -p words=ERROR,FATAL. Hours are those that the logs have, in their own zones.",
    examples=("fireline analyze log errors -t all --path '/var/log/mosaic/*.log'",),
    exits=options.FAN_OUT_EXITS,
)


@log_app.command("errors", help=_ERRORS_HELP)
def errors(
    target: options.Target = None,
    without: options.Except = None,
    path: _Path = None,
    container: _Container = None,
    param: _Param = None,
    incident: options.IncidentId = "",
    yes: options.Yes = False,
    host_deadline: options.HostDeadline = 0,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Count errors."""
    wish = _wish(target, without, incident, yes=yes, host_deadline=host_deadline, json=json)
    _ask("logs.errors", _logs(path, container, host_deadline), param, wish, state)


_TIMES_HELP = options.manual(
    "Rank response times by host and over the fleet.",
    "Average, P50, P95 and P99 by nearest rank; of all hosts together over all their values, not over their figures.",
    "The value is the number after -p key=response_time; -p value=last takes the last field of its line.",
    examples=(
        "fireline analyze log response-times -t role=web --path /var/log/mosaic/api.log",
        "fireline analyze log response-times -t web1 --container api -p key=duration_ms",
    ),
    exits=options.FAN_OUT_EXITS,
)


@log_app.command("response-times", help=_TIMES_HELP)
def response_times(
    target: options.Target = None,
    without: options.Except = None,
    path: _Path = None,
    container: _Container = None,
    param: _Param = None,
    incident: options.IncidentId = "",
    yes: options.Yes = False,
    host_deadline: options.HostDeadline = 0,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Rank response times."""
    wish = _wish(target, without, incident, yes=yes, host_deadline=host_deadline, json=json)
    _ask("logs.response_times", _logs(path, container, host_deadline), param, wish, state)


def _postgres_command(verb: str, action: str, help_text: str) -> None:
    """One of the questions to databases: they differ in nothing but the action."""

    @postgres_app.command(verb, help=help_text)
    def ask(
        target: options.Target = None,
        without: options.Except = None,
        service: _Service = "",
        param: _Param = None,
        incident: options.IncidentId = "",
        yes: options.Yes = False,
        host_deadline: options.HostDeadline = 0,
        json: options.Json = False,
        state: options.State = None,
    ) -> None:
        wish = _wish(target, without, incident, yes=yes, host_deadline=host_deadline, json=json)
        _ask(action, {"service": service} if service else {}, param, wish, state)


_postgres_command(
    "activity",
    "postgres.activity",
    options.manual(
        "Show what every session does, the longest at it first.",
        "Values in statements are masked.",
        examples=("fireline analyze postgres activity -t role=db --service postgres",),
        exits=options.FAN_OUT_EXITS,
    ),
)
_postgres_command(
    "long-running",
    "postgres.long_running",
    options.manual(
        "Show sessions that have been at it for too long.",
        "They run one statement, or are idle in a transaction. How long is too long: -p older_than=10m. End them: "
        "fireline action run postgres.terminate.",
        examples=("fireline analyze postgres long-running -t role=db -p older_than=10m",),
        exits=options.FAN_OUT_EXITS,
    ),
)
_postgres_command(
    "blocking",
    "postgres.blocking",
    options.manual(
        "Show who holds up whom, as a tree for each host.",
        examples=("fireline analyze postgres blocking -t db1",),
        exits=options.FAN_OUT_EXITS,
    ),
)
_postgres_command(
    "connections",
    "postgres.connections",
    options.manual(
        "Count connections by application, role and state.",
        "Says how full each server is, the fullest first.",
        examples=("fireline analyze postgres connections -t role=db",),
        exits=options.FAN_OUT_EXITS,
    ),
)


def _logs(path: list[str] | None, container: list[str] | None, host_deadline: float) -> dict[str, Any]:
    if not path and not container:
        session.fail("no logs are named: give --path or --container", session.USAGE)
    given: dict[str, Any] = {"paths": path or [], "containers": container or []}
    if host_deadline:  # a host that stops before it has the time to say what it knows by then
        given["within"] = max(1, int(host_deadline * _READING))
    return given


def _wish(
    target: list[str] | None, without: list[str] | None, incident: str, *, yes: bool, host_deadline: float, json: bool
) -> operations.Wish:
    return operations.Wish(
        target or [], without or [], incident=incident, yes=yes, host_deadline_s=host_deadline, json=json
    )


def _ask(action: str, given: Mapping[str, Any], params: list[str] | None, wish: operations.Wish, state: Any) -> None:
    from fireline_wire.actions import BadValue, catalogue

    spec = catalogue()[action]
    try:
        work = {**given, **actions.parsed(spec, params or [])}
        spec.check(work)
    except BadValue as error:
        session.fail(str(error), session.USAGE)
    work_json = encoding.dumps(work)
    session.run(session.folder(state), lambda control: _run(control, wish, action, work_json))


async def _run(control: "ControlStub", wish: operations.Wish, action: str, params_json: str) -> int:
    from fireline_wire.v1 import control_pb2

    chosen = await operations.confirmed(control, wish)
    request = control_pb2.PlanActionsRequest(options=chosen, action=action, params_json=params_json)
    seen, interrupted = await operations.follow(control, control.PlanActions(request), wish)
    return operations.report(
        seen,
        interrupted,
        wish,
        lambda seen: _print(seen, _folded(action, seen)),
        more=lambda seen: {"table": _document(_folded(action, seen))},
    )


def _folded(action: str, seen: operations.Followed) -> "Table":
    from fireline_controller.analysis import fold

    answered = [host for host in seen.hosts if host.HasField("action")]
    return fold(action, {host.host: encoding.loads(host.action.result_json or "{}") for host in answered})


def _print(seen: operations.Followed, table: "Table") -> None:
    """The table, what is to know of it, and what the hosts had to say; hosts that did not answer as everywhere."""
    if table.rows:
        output.table([column.upper() for column in table.columns], [tuple(map(_cell, row)) for row in table.rows])
    for note in table.notes:
        print(note)
    actions.print_warnings(seen.hosts)
    actions.print_unanswered(seen.hosts)


def _document(table: "Table") -> dict[str, Any]:
    from fireline_controller.analysis import rows_as_objects

    return {"rows": list(rows_as_objects(table)), "notes": list(table.notes)}


def _cell(value: "str | int | float | None") -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
