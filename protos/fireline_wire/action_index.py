"""Names, risks and undoability of all actions: what an agent at rest knows of them, in a few kilobytes.

`actions.index` beside this file is generated like `actions.json`. Leaves to others: the whole specifications (actions).
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

READ: Final = "read"


class Indexed(NamedTuple):
    """One action: its risk, and whether it promises an undo."""

    risk: str
    is_undoable: bool


def read() -> dict[str, Indexed]:
    """Every action of this version, by name; nothing of it is kept in memory here."""
    lines = Path(__file__).with_name("actions.index").read_text().splitlines()
    words = [line.split() for line in lines]
    return {name: Indexed(risk, undo == "undo") for name, risk, undo in words}


def nearest(name: str, known: Iterable[Any]) -> str:
    """A hint for a name that is not known."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(names)) or 'none'}"
