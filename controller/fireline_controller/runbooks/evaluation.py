"""The expressions of one runbook, each seen with the names that its place may use."""

from collections.abc import Mapping
from typing import Any

from fireline_controller.runbooks import expressions, scopes
from fireline_controller.runbooks.expressions import ExpressionError
from fireline_controller.runbooks.filling import BadExpression
from fireline_controller.runbooks.model import Runbook
from fireline_wire.actions import ActionSpec


class CheckedExpressions:
    """See Expressions. The runbook was found right with this catalogue."""

    def __init__(self, runbook: Runbook, catalogue: Mapping[str, ActionSpec]) -> None:
        self._runbook = runbook
        self._catalogue = catalogue
        self._scopes: dict[tuple[str, bool], expressions.Scope] = {}

    def is_met(self, text: str, variables: Mapping[str, Any]) -> bool:
        """See Expressions."""
        try:
            return expressions.holds(text, scopes.of_preconditions(self._runbook.params), variables)
        except ExpressionError as error:
            raise BadExpression(str(error)) from None

    def holds(self, step: str, text: str, variables: Mapping[str, Any]) -> bool:
        """See Expressions."""
        try:
            return expressions.holds(text, self._scope(step), variables)
        except ExpressionError as error:
            raise BadExpression(str(error)) from None

    def is_verified(self, step: str, text: str, variables: Mapping[str, Any]) -> bool:
        """See Expressions."""
        try:
            return expressions.holds(text, self._scope(step, of_verify=True), variables)
        except ExpressionError as error:
            raise BadExpression(str(error)) from None

    def fill(self, step: str, given: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
        """See Expressions."""
        try:
            return expressions.fill(given, self._scope(step), variables)
        except ExpressionError as error:
            raise BadExpression(str(error)) from None

    def _scope(self, step: str, *, of_verify: bool = False) -> expressions.Scope:
        """Kept: every host of a fleet asks for the same one."""
        found = self._scopes.get((step, of_verify))
        if found is None:
            make = scopes.of_verify if of_verify else scopes.of_step
            found = self._scopes[step, of_verify] = make(self._runbook, step, self._catalogue)
        return found
