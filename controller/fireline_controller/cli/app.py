"""The `fireline` command: nouns, and the few commands that have none."""

import getpass
import re
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated

import typer

from fireline_controller.cli import (
    action,
    analyze,
    approval,
    capture,
    enroll,
    evidence,
    host,
    incident,
    isolate,
    isolation,
    journal,
    operator,
    options,
    output,
    runbook,
    runbook_runs,
    session,
)

app = typer.Typer(
    help=options.manual(
        "Incident response for a fleet: one command captures every host's state as sealed evidence, and everything is "
        "on one provable record.",
        "`fireline COMMAND --help` says more of each command, with examples.",
        examples=(
            "fireline init --operator alice",
            "fireline serve",
            "fireline enroll token --host web1",
            'fireline incident open P1 "checkout is down" --target env=prod',
        ),
        exits="Exit status of every command: 0 done, every host ok; 1 some host not ok, or something does not verify; "
        "2 usage or settings; 3 nothing matched; 4 refused; 5 the controller itself failed, or its state folder is not "
        "whole; 130 interrupted.",
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="What is set, and where from.", no_args_is_help=True)

app.add_typer(incident.app, name="incident")
app.command("capture", help=capture.HELP)(capture.capture)
app.command("isolate", help=isolate.HELP)(isolate.isolate)
app.command("release", help=isolate.RELEASE_HELP)(isolate.release)
app.add_typer(isolation.app, name="isolation")
app.add_typer(action.app, name="action")
app.add_typer(analyze.app, name="analyze")
app.add_typer(evidence.app, name="evidence")
runbook_runs.add_to(runbook.app)
app.add_typer(runbook.app, name="runbook")
app.add_typer(host.app, name="host")
app.add_typer(enroll.app, name="enroll")
app.add_typer(operator.app, name="operator")
app.add_typer(approval.app, name="approval")
app.add_typer(journal.app, name="journal")
app.add_typer(config_app, name="config")


@app.callback(invoke_without_command=True)
def main(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    as_operator: Annotated[
        str,
        typer.Option(
            "--as",
            envvar=session.OPERATOR,
            metavar="NAME",
            help="The operator whose key is used. Default: the one that `fireline init` made.",
            show_default=False,
        ),
    ] = "",
    controller: Annotated[
        str,
        typer.Option(
            "--controller",
            envvar=session.CONTROLLER,
            metavar="ADDRESS:PORT",
            help="A controller on another machine, instead of the state folder's.",
            show_default=False,
        ),
    ] = "",
    keys: Annotated[
        str,
        typer.Option(
            "--keys",
            envvar=session.KEYS,
            metavar="FOLDER",
            help="Your key folder, as `fireline operator add --out` wrote it.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Print the version, or go on to the command."""
    session.choose(**{session.OPERATOR: as_operator, session.CONTROLLER: controller, session.KEYS: keys})
    if show_version:
        print(f"fireline {version('fireline')}")
        raise typer.Exit


_INIT_HELP = options.manual(
    "Make the state folder: authority, keys, journal, store.",
    "A second time changes nothing and says so. A folder that is half there is refused, and what is missing is named.",
    examples=("fireline init --operator alice", "fireline init --state /var/lib/fireline"),
    exits="Exit status: 0 it is there and whole; 2 the name or the settings are wrong; 5 it can't be made, or is half "
    "made or broken, as every other command says too.",
)


@app.command("init", help=_INIT_HELP)
def init(
    operator: Annotated[
        str,
        typer.Option("--operator", metavar="NAME", help="Your name in certificates and journal. Default: your login."),
    ] = "",
    state: options.State = None,
) -> None:
    """Make the state folder."""
    from fireline_controller import state as folder
    from fireline_controller.model import FirelineError

    place = session.folder(state)
    name = operator or re.sub(r"[^a-z0-9-]+", "-", getpass.getuser().lower()).strip("-") or "operator"
    try:
        made = folder.make(place, operator=name, now=datetime.now(UTC))
    except FirelineError as error:
        session.fail(str(error), session.status_of(error.reason))
    if made:
        print(f"{place}: ready; you are {name!r}; authority SHA-256 {made.authority.ca_sha256}")
        output.say("next: fireline serve, and in another terminal: fireline enroll token --host NAME")
    else:
        print(f"{place}: is there already and is complete; nothing was changed")


_SERVE_HELP = options.manual(
    "Run the controller: hosts join here, commands answer faster.",
    "Serves until SIGTERM or Ctrl-C. Commands on the same state folder find it by themselves; without it each of them "
    "runs the same controller inside its own process.",
    "With recovery.enabled it restarts containers that fail, within recovery's own rules; --observe says what that "
    "would be, in its log and in the journal, and touches nothing.",
    examples=("fireline serve --state /var/lib/fireline", "fireline serve --observe"),
    exits="Exit status: 0 told to stop; 2 there is no state folder, or its settings are wrong; 5 it could not start, "
    "for example because another one serves this folder.",
)


@app.command("serve", help=_SERVE_HELP)
def serve(
    observe: Annotated[
        bool, typer.Option("--observe", help="Say what the recovery would restart, and touch nothing.")
    ] = False,
    state: options.State = None,
) -> None:
    """Run the controller as a daemon."""
    from fireline_controller import daemon
    from fireline_controller.model import FirelineError

    try:
        status = daemon.serve(session.folder(state), observe=observe)
    except FirelineError as error:
        session.fail(str(error), session.status_of(error.reason))
    raise typer.Exit(status)


_SHOW_HELP = options.manual(
    "Show every setting, its value and where that came from.",
    "From the least to the strongest: default, fireline.toml in the state folder, environment. A command's own options "
    "win over all of them.",
    examples=("fireline config show", "FIRELINE_FANOUT_CONCURRENCY=200 fireline config show --json"),
)


@config_app.command("show", help=_SHOW_HELP)
def config_show(json: options.Json = False, state: options.State = None) -> None:
    """Show every setting."""
    from fireline_controller import config
    from fireline_controller.model import FirelineError

    try:
        found = list(config.origins(session.folder(state) / "fireline.toml"))
    except FirelineError as error:
        session.fail(str(error), session.status_of(error.reason))
    if json:
        output.print_json({o.key: {"value": o.value, "source": o.source} for o in found})
    else:
        output.table(
            ("SETTING", "VALUE", "FROM", "WHAT"), [(o.key, str(o.value), o.source, o.description) for o in found]
        )
