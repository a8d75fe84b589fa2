"""The options that commands share, each declared once, and the form of a command's help."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

FAN_OUT_EXITS = (
    "Exit status: 0 every host ok; 1 some host not ok; 2 usage, or no target; 3 the target matches nothing, or names "
    "what is not known; 4 refused or not confirmed; 5 the controller itself failed; 130 interrupted, and what still "
    "runs is said."
)


def manual(summary: str, *paragraphs: str, examples: Sequence[str], exits: str = "") -> str:
    """A command's help: a sentence that lists of commands show whole, what else is to know, examples, exit status.

    Example lines are kept as they are; everything else is wrapped.
    """
    lines = "\n".join(f"  {example}" for example in examples)
    blocks = [summary, *paragraphs, f"Example{'s' if len(examples) > 1 else ''}:", f"\b\n{lines}", exits]
    return "\n\n".join(block for block in blocks if block)


State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar="FIRELINE_STATE",
        metavar="FOLDER",
        help="State folder: keys, store, evidence. Default: $XDG_STATE_HOME/fireline.",
        show_default=False,
    ),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        metavar="HOSTS",
        help="Hosts: names, ranges, groups (web[01-20], @db), label selectors (role=db,env!=dev) or all. Repeatable.",
        show_default=False,
    ),
]
Except = Annotated[
    list[str] | None,
    typer.Option(
        "--except",
        metavar="HOSTS",
        help="Hosts to leave out, in the same form; wins over --target.",
        show_default=False,
    ),
]
RetryOf = Annotated[
    str,
    typer.Option(
        "--retry-of",
        metavar="OPERATION",
        help="The hosts of this operation that did not end ok, instead of --target.",
        show_default=False,
    ),
]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; it goes into the journal.", show_default=False)
]
IncidentId = Annotated[
    str, typer.Option("--incident", "-i", metavar="INCIDENT", help="The incident it belongs to.", show_default=False)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before addressing many hosts.")]
BreakGlass = Annotated[
    str,
    typer.Option(
        "--break-glass",
        metavar="REASON",
        help="Go on without the approval that the policy wants, where it allows that; it is told to everybody.",
        show_default=False,
    ),
]
MaxFail = Annotated[
    str,
    typer.Option(
        "--max-fail",
        metavar="N|P%",
        help="Start no new work once more hosts than this have not ended ok; unreachable ones count.",
        show_default=False,
    ),
]
HostDeadline = Annotated[
    float,
    typer.Option(
        "--host-deadline", metavar="SECONDS", help="For one host. Default: as configured.", show_default=False
    ),
]
OverallDeadline = Annotated[
    float,
    typer.Option(
        "--deadline", metavar="SECONDS", help="For the whole operation. Default: as configured.", show_default=False
    ),
]
Concurrency = Annotated[
    int,
    typer.Option(
        "--concurrency",
        "-c",
        metavar="N",
        min=0,
        help="How many hosts work at once. Default: as configured.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
JsonLines = Annotated[bool, typer.Option("--jsonl", help="One JSON object a line, as things happen.")]
