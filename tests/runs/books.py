"""Runbooks for tests, with expressions of the smallest language: a dotted name, `not NAME`, or a JSON value."""

import json
from collections.abc import Mapping
from typing import Any

from fireline_controller.model import NotFound
from fireline_controller.runbooks.filling import BadExpression, Expressions
from fireline_controller.runbooks.model import Runbook
from fireline_wire.actions import Risk


class Tiny:
    """See Expressions."""

    def is_met(self, text: str, variables: Mapping[str, Any]) -> bool:
        """See Expressions."""
        return self.holds("", text, variables)

    def holds(self, step: str, text: str, variables: Mapping[str, Any]) -> bool:
        """See Expressions."""
        is_not = text.startswith("not ")
        value = _value(text.removeprefix("not "), variables)
        if not isinstance(value, bool):
            raise BadExpression(f"{text!r} is {value!r}: wanted true or false")
        return value is not is_not

    def is_verified(self, step: str, text: str, variables: Mapping[str, Any]) -> bool:
        """See Expressions."""
        return self.holds(step, text, variables)

    def fill(self, step: str, given: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
        """See Expressions."""
        return {name: _filled(value, variables) for name, value in given.items()}


class Shelf:
    """See Books; holds runbooks as values, whose content is their name and hash."""

    def __init__(self, *books: Runbook) -> None:
        self.books = {book.name: book for book in books}
        self.pinned = {_content(book): book for book in books}

    def edit(self, book: Runbook) -> None:
        """Put another one in the place of that name."""
        self.books[book.name] = book
        self.pinned[_content(book)] = book

    def find(self, name: str) -> bytes:
        """See Books."""
        if name not in self.books:
            raise NotFound(f"there is no runbook {name!r}")
        return _content(self.books[name])

    def compile(self, content: bytes, name: str) -> tuple[Runbook, Expressions]:
        """See Books."""
        return self.pinned[content], Tiny()


def risk_of(action: str) -> Risk:
    """The risk is the action's area: `read.x`, `reversible.x`, `destructive.x`."""
    return Risk(action.partition(".")[0])


def _content(book: Runbook) -> bytes:
    return f"{book.name}\n{book.version}\n{book.steps!r}".encode()


def _value(text: str, variables: Mapping[str, Any]) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        value: Any = variables
    for name in text.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise BadExpression(f"{text!r} has no value: {name} is not known")
        value = value[name]
    return value


def _filled(value: Any, variables: Mapping[str, Any]) -> Any:
    if isinstance(value, str) and value.startswith("${"):
        return _value(value[2:-1], variables)
    return value
