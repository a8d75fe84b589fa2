"""What a run asks of the expressions of its runbook. Leaves to others: their language (expressions)."""

from collections.abc import Mapping
from typing import Any, Protocol


class BadExpression(ValueError):
    """An expression has no value with these variables; the message holds its text and why."""


class Expressions(Protocol):
    """The expressions of one runbook. `variables` are nested as their names are: `{"params": {"older_than": 600}}`."""

    def is_met(self, text: str, variables: Mapping[str, Any]) -> bool:
        """Whether a precondition of the whole runbook is true.

        Raises:
            BadExpression: it has no value, or one that is neither true nor false.
        """

    def holds(self, step: str, text: str, variables: Mapping[str, Any]) -> bool:
        """Whether a step's condition is true.

        Raises:
            BadExpression: it has no value, or one that is neither true nor false.
        """

    def is_verified(self, step: str, text: str, variables: Mapping[str, Any]) -> bool:
        """Whether a step's `until` is true; it also sees the `result` of the verifying action.

        Raises:
            BadExpression: as `holds`.
        """

    def fill(self, step: str, given: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
        """A step's parameters with the value of each `${EXPRESSION}`.

        Raises:
            BadExpression: as `holds`.
        """
