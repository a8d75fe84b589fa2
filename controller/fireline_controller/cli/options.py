"""The options that commands share, each declared once."""

from pathlib import Path
from typing import Annotated

import typer

State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar="FIRELINE_STATE",
        help="State folder: keys, store, evidence. Default: $XDG_STATE_HOME/fireline.",
        show_default=False,
    ),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        help="Hosts: names, ranges, groups (web[01-20], @db), label selectors (role=db,env!=dev) or all. Repeatable.",
        show_default=False,
    ),
]
Except = Annotated[
    list[str] | None,
    typer.Option("--except", help="Hosts to leave out, in the same form; wins over --target.", show_default=False),
]
RetryOf = Annotated[
    str,
    typer.Option("--retry-of", help="Only the hosts of this operation that did not end ok.", show_default=False),
]
Reason = Annotated[str, typer.Option("--reason", help="Why; it goes into the journal and the evidence.")]
IncidentId = Annotated[str, typer.Option("--incident", "-i", help="The incident this belongs to.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before addressing many hosts.")]
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
    float, typer.Option("--host-deadline", metavar="SECONDS", help="For one host. 0: as configured.")
]
OverallDeadline = Annotated[
    float, typer.Option("--deadline", metavar="SECONDS", help="For the whole operation. 0: as configured.")
]
Concurrency = Annotated[
    int, typer.Option("--concurrency", "-c", min=0, help="How many hosts work at once. 0: as configured.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
JsonLines = Annotated[bool, typer.Option("--jsonl", help="One JSON object a line, as things happen.")]
