"""The `fireline` door: opens the command line, or says which extra is missing."""

import sys


def main() -> int:
    """Run the command line and return its exit status."""
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
