"""What a collector lets an order set: named parameters with a type, everything else refused by name."""

import difflib
from collections.abc import Mapping
from typing import Any


def refuse_unknown(params: Mapping[str, Any], *known: str) -> None:
    """Check that an order sets nothing but what this collector knows.

    Raises:
        ValueError: a parameter is unknown; the message names it and the nearest right one.
    """
    for name in sorted(set(params) - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        wanted = f"did you mean {near[0]!r}?" if near else f"this collector takes {', '.join(known) or 'none'}"
        raise ValueError(f"unknown collector parameter {name!r}: {wanted}")


def flag(params: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """A parameter that is true or false.

    Raises:
        ValueError: it is neither.
    """
    value = params.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"collector parameter {name!r}: wanted true or false, found {value!r}")
    return value


def number(params: Mapping[str, Any], name: str, *, default: float, highest: float) -> float:
    """A parameter that is a number above 0, at most `highest`.

    Raises:
        ValueError: it is no such number.
    """
    value = params.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= highest:
        raise ValueError(f"collector parameter {name!r}: wanted a number above 0, at most {highest}, found {value!r}")
    return value
