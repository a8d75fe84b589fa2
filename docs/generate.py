"""Write the reference pages that come from the code, or with --check name every page that is stale."""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

HERE = Path(__file__).parent
# Help is wrapped to the terminal: a fixed width keeps the pages the same everywhere.
_PLAIN = {**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"}


def controller_commands(app: typer.Typer, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command of the tree, nouns before their verbs."""
    yield path
    for command in app.registered_commands:
        callback = command.callback
        name = command.name or (callback.__name__ if callback else "")
        yield (*path, name)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from controller_commands(group.typer_instance, (*path, group.name or ""))


def agent_commands() -> list[tuple[str, ...]]:
    """Every command of the agent."""
    from fireline_agent.main import _parser as build_parser

    actions = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return [(), *((name,) for action in actions for name in action.choices)]


def _help(program: str, path: tuple[str, ...]) -> str:
    line = [str(Path(sys.executable).parent / program), *path, "--help"]
    shown = subprocess.run(line, capture_output=True, text=True, check=True, env=_PLAIN)
    return f"## `{' '.join((program, *path))}`\n\n```text\n{shown.stdout.strip()}\n```\n"


def pages() -> dict[Path, str]:
    """The pages as they should be."""
    from fireline_controller.cli.app import app

    controller = "\n".join(_help("fireline", path) for path in controller_commands(app))
    agent = "\n".join(_help("fireline-agent", path) for path in agent_commands())
    note = "Generated from the code by `make docs`; don't edit.\n"
    exits = (
        "Exit codes: 0 every host ok · 1 some host not ok, or evidence does not verify · 2 usage · 3 nothing matched · "
        "4 refused · 5 the controller itself failed · 130 interrupted.\n"
    )
    return {
        HERE / "reference" / "fireline.md": f"# The `fireline` command\n\n{note}\n{exits}\n{controller}",
        HERE / "reference" / "fireline-agent.md": f"# The `fireline-agent` command\n\n{note}\n{agent}",
    }


def main() -> int:
    """Exit 0 when the pages are fresh or were made so, 1 when --check found a stale one."""
    stale = [p for p, text in pages().items() if not p.exists() or p.read_text() != text]
    if sys.argv[1:] == ["--check"]:
        for path in stale:
            print(f"{path} does not match the code; run: make docs")
        return 1 if stale else 0
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
