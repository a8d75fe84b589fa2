"""The `fireline` command: nouns, and the few commands that have none."""

import getpass
import re
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated

import typer

from fireline_controller.cli import capture, enroll, evidence, host, incident, journal, options, output, session

app = typer.Typer(
    help="""Incident response for a fleet: one command captures every host's state as sealed evidence, and
    everything is on one provable record.

    First steps: fireline init, then fireline serve, then fireline enroll token --host NAME.""",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="What is set, and where from.", no_args_is_help=True)

app.add_typer(incident.app, name="incident")
app.command("capture", help=capture.HELP)(capture.capture)
app.add_typer(evidence.app, name="evidence")
app.add_typer(host.app, name="host")
app.add_typer(enroll.app, name="enroll")
app.add_typer(journal.app, name="journal")
app.add_typer(config_app, name="config")


@app.callback(invoke_without_command=True)
def main(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Print the version, or go on to the command."""
    if show_version:
        print(f"fireline {version('fireline')}")
        raise typer.Exit


@app.command("init")
def init(
    operator: Annotated[
        str, typer.Option("--operator", help="Your name in certificates and journal. Default: your login name.")
    ] = "",
    state: options.State = None,
) -> None:
    """Make the state folder: authority, certificates, journal key, store. A second time changes nothing.

    Example:

      fireline init --operator alice
    """
    from fireline_controller import state as folder
    from fireline_controller.model import FirelineError

    place = session.folder(state)
    name = operator or re.sub(r"[^a-z0-9-]+", "-", getpass.getuser().lower()).strip("-") or "operator"
    try:
        made = folder.make(place, operator=name, now=datetime.now(UTC))
    except FirelineError as error:
        session.fail(str(error), session.CONTROLLER_FAILED)
    if made:
        print(f"{place}: ready; you are {name!r}; authority SHA-256 {made.authority.ca_sha256}")
        output.say("next: fireline serve, and in another terminal: fireline enroll token --host NAME")
    else:
        print(f"{place}: is there already and is complete; nothing was changed")


@app.command("serve")
def serve(state: options.State = None) -> None:
    """Run the controller as a daemon: hosts join here, and commands answer faster.

    Example:

      fireline serve --state /var/lib/fireline
    """
    from fireline_controller import daemon
    from fireline_controller.model import FirelineError

    try:
        status = daemon.serve(session.folder(state))
    except FirelineError as error:
        session.fail(str(error), session.CONTROLLER_FAILED)
    raise typer.Exit(status)


@config_app.command("show")
def config_show(json: options.Json = False, state: options.State = None) -> None:
    """Show every setting, its value and where that came from."""
    from fireline_controller import config
    from fireline_controller.model import FirelineError

    try:
        found = list(config.origins(session.folder(state) / "fireline.toml"))
    except FirelineError as error:
        session.fail(str(error), session.USAGE)
    if json:
        output.print_json({o.key: {"value": o.value, "source": o.source} for o in found})
    else:
        output.table(
            ("SETTING", "VALUE", "FROM", "WHAT"), [(o.key, str(o.value), o.source, o.description) for o in found]
        )
