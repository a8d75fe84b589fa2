"""Parameters whose `${EXPRESSION}` is replaced by the expression's value."""

import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

_WHOLE: Final = re.compile(r"\$\{(.*)\}\Z", re.DOTALL)


class BadExpression(ValueError):
    """An expression has no value with these variables; the message holds its text and why."""


class Evaluate(Protocol):
    """How an expression gets its value."""

    def __call__(self, text: str, variables: Mapping[str, Any]) -> Any:
        """The value.

        Raises:
            BadExpression: it has none.
        """


def fill(given: Mapping[str, Any], variables: Mapping[str, Any], evaluate: Evaluate) -> dict[str, Any]:
    """The parameters with their expressions' values.

    Raises:
        BadExpression: an expression has no value; names the parameter.
    """
    filled = {}
    for name, value in given.items():
        try:
            filled[name] = _value(value, variables, evaluate)
        except BadExpression as error:
            raise BadExpression(f"parameter {name!r}: {error}") from None
    return filled


def _value(value: Any, variables: Mapping[str, Any], evaluate: Evaluate) -> Any:
    if isinstance(value, list | tuple):
        return [_value(item, variables, evaluate) for item in value]
    found = _WHOLE.match(value) if isinstance(value, str) else None
    return evaluate(found[1], variables) if found else value
