"""The `fireline` door: opens the command line, or says which extra is missing."""

import os
import sys
from typing import Final

# gRPC reads in the one thread that waits for its connections. By its default it hands each event to one of four
# threads: when a thousand hosts answer at once that is thousands of wake-ups more, a fifth of the fan-out's processor
# time, and on a busy machine a third of its duration. A gRPC that no longer knows the switch says so in its log.
GRPC_SWITCHES: Final = {"GRPC_EXPERIMENTS": "-event_engine_client"}


def main() -> int:
    """Run the command line and return its exit status."""
    for name, value in GRPC_SWITCHES.items():
        os.environ.setdefault(name, value)  # before gRPC is imported: it looks once
    try:
        import typer  # noqa: F401  # only whether it is there: the agent's install has none
    except ModuleNotFoundError:
        print(
            "fireline: typer is not installed. This host has the agent only; "
            "for the controller: pip install 'fireline[controller]'",
            file=sys.stderr,
        )
        return 1
    from fireline_controller.cli.app import app

    app()
    return 0


if __name__ == "__main__":
    sys.exit(main())
