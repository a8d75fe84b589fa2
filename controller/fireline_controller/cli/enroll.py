"""`fireline enroll`: let hosts in."""

from typing import TYPE_CHECKING, Annotated

import typer

from fireline_controller.cli import options, output, session

if TYPE_CHECKING:
    from fireline_wire.v1.control_pb2_grpc import ControlStub

app = typer.Typer(help="Let hosts into the fleet.", no_args_is_help=True)

_HELP = options.manual(
    "Print a one-time token with which one host joins.",
    "The token pins this controller's certificate authority; treat it like a password until it is used or expired. "
    "Hosts join at the daemon: keep `fireline serve` running meanwhile.",
    examples=(
        "fireline enroll token --host web1 --ttl 1h --label role=web",
        "web1# fireline-agent join --token TOKEN",
    ),
    exits="Exit status: 0 it is on stdout; 2 the name, a label or the duration is wrong; 4 a host of this name is in "
    "the fleet.",
)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@app.command("token", help=_HELP)
def token(
    host: Annotated[
        str, typer.Option("--host", metavar="NAME", help="The name that the host will have.", show_default=False)
    ],
    ttl: Annotated[
        str, typer.Option("--ttl", metavar="DURATION", help="How long the token can be used: 90s, 15m, 1h, 2d.")
    ] = "1h",
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="A label that the host shall have. Repeatable."),
    ] = None,
    address: Annotated[
        str,
        typer.Option(
            "--controller-address",
            metavar="ADDRESS:PORT",
            help="Where the host reaches this controller. Default: listen.advertise, or this machine's own address.",
        ),
    ] = "",
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Print a one-time token."""
    seconds = duration_s(ttl)
    pairs = dict(_pair(text) for text in labels or [])
    session.run(session.folder(state), lambda control: _token(control, host, seconds, pairs, address, json))


async def _token(
    control: "ControlStub", host: str, ttl_s: int, labels: dict[str, str], address: str, json: bool
) -> int:
    from fireline_wire.v1 import control_pb2

    request = control_pb2.CreateTokenRequest(host=host, labels=labels, controller_address=address)
    request.ttl.FromSeconds(ttl_s)
    reply = await control.CreateToken(request)
    if json:
        output.print_json({"token": reply.token, "expires_at": output.moment(reply.expires_at)})
    else:
        print(reply.token)
        output.say(f"for {host}, once, until {output.moment(reply.expires_at)}")
    return session.OK


def duration_s(text: str) -> int:
    """Seconds of a duration such as 90s, 15m, 1h, 2d; a wrong one ends the command."""
    unit = text[-1:]
    if unit not in _UNITS or not text[:-1].isdigit() or int(text[:-1]) == 0:
        session.fail(f"{text!r} is no duration: wanted a number and s, m, h or d, such as 15m", session.USAGE)
    return int(text[:-1]) * _UNITS[unit]


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        session.fail(f"{text!r}: wanted KEY=VALUE", session.USAGE)
    return key, value
