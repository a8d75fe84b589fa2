"""Expressions of a runbook: CEL, checked against typed names before a run. The one door to the engine.

A name is written with dots (`params.older_than`, `steps.longq.result.pids`) and has a kind. Two traps of the engine end
here: an error while evaluating is a value of its own that Python takes for true, and an unknown name in one language is
an unknown function in the other. Leaves to others: which names an expression may use (scopes).
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from cel_expr_python import cel

from fireline_wire.actions import Kind, nearest

MAX_BYTES: Final = 2048  # of one expression; nobody can read more, and the engine need not
MAX_ITEMS: Final = 9_999  # of a list: the engine takes fewer than 10,000 steps
_MAX_NUMBER: Final = (1 << 53) - 1  # RFC 8785, section 3.2.2.3
LABELS: Final = "labels"  # the kind of `host.labels`: texts by name

# Dotted names and their kinds: those of `fireline_wire.actions.Kind`, or LABELS.
Scope = Mapping[str, str]

_HINTED: Final = 8  # names that a message lists

_TYPES: Final = {
    Kind.TEXT: cel.Type.STRING,
    Kind.PATH: cel.Type.STRING,
    Kind.INT: cel.Type.INT,
    Kind.DURATION: cel.Type.INT,
    Kind.SIZE: cel.Type.INT,
    Kind.NUMBER: cel.Type.DOUBLE,
    Kind.BOOL: cel.Type.BOOL,
    Kind.TEXTS: cel.Type.List(cel.Type.STRING),
    Kind.PATHS: cel.Type.List(cel.Type.STRING),
    Kind.ROWS: cel.Type.List(cel.Type.Map(cel.Type.STRING, cel.Type.DYN)),
    LABELS: cel.Type.Map(cel.Type.STRING, cel.Type.STRING),
}
_ITEMS: Final[Mapping[str, type]] = {Kind.TEXTS: str, Kind.PATHS: str, Kind.ROWS: Mapping}
_WHOLE: Final = frozenset({Kind.INT, Kind.DURATION, Kind.SIZE, Kind.NUMBER})
_PYTHON: Final[Mapping[str, type]] = {Kind.TEXT: str, Kind.PATH: str, Kind.NUMBER: float, LABELS: Mapping}
_WORDS: Final = {
    "STRING": "text",
    "INT": "a whole number",
    "DOUBLE": "a number with a point",
    "BOOL": "true or false",
    "LIST": "a list",
    "MAP": "texts by name",
}
_TYPE_WORDS: Final = {"string": "text", "int": "whole number", "double": "number with a point", "bool": "true or false"}
# `${EXPRESSION}` stands for the expression's value where a text is nothing else.
_EMBEDDED: Final = re.compile(r"\$\{(.*)\}\Z", re.DOTALL)
# The engine takes no text with half a character or an end of text in it.
_UNSPEAKABLE: Final = re.compile("[\0\ud800-\udfff]")
_ERROR: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_UNDECLARED: Final = re.compile(r"undeclared reference to '([^']*)'")
_OVERLOAD: Final = re.compile(r"found no matching overload for '([^']*)' applied to '\((.*)\)'")
_SELECT: Final = re.compile(r"expression of type '([^']*)' cannot be the operand of a select operation")


class ExpressionError(ValueError):
    """An expression is wrong or has no value. `line` and `column` count from 1, within the expression."""

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


def embedded(value: Any) -> str | None:
    """The expression in a text `${EXPRESSION}`; None for any other value."""
    found = _EMBEDDED.match(value) if isinstance(value, str) else None
    return found[1] if found else None


def check(text: str, scope: Scope) -> str:
    """The type of the expression's value, as the engine names it: `BOOL`, `INT`, `DOUBLE`, `STRING`, `LIST<STRING>`, ….

    Raises:
        ExpressionError: it is too long, does not parse, uses an unknown name, or compares what can't be compared.
    """
    return str(_compiled(text, _frozen(scope)).return_type().name())


def require_bool(text: str, scope: Scope) -> None:
    """Accept only an expression whose value is true or false.

    Raises:
        ExpressionError: as `check`, or its value is another.
    """
    if (found := check(text, scope)) not in ("BOOL", "DYN"):
        raise ExpressionError(f"wanted a condition, true or false; found {_word(found)}")


def names_in(text: str, scope: Scope) -> frozenset[str]:
    """The names of the scope that an expression uses: those without which it would not compile."""
    return frozenset(name for name in scope if _mentions(text, name) and not _compiles(text, scope, without=name))


def evaluate(text: str, scope: Scope, values: Mapping[str, Any]) -> Any:
    """The expression's value, as JSON.

    Args:
        text: the expression.
        scope: what `check` accepted it with.
        values: nested as the names are: `{"params": {"older_than": 600}, "steps": {"longq": {"outcome": "ok"}}}`. One
            that lacks or is of another kind is an error only where it is needed.

    Raises:
        ExpressionError: it has no value: something it needs is not there, a division by zero, a list that is too long.
    """
    expression = _compiled(text, _frozen(scope))
    given = _flattened(text, scope, values)
    try:
        value = expression.eval(_environment(_frozen(scope)).Activation(given))
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:  # half a character, too many steps
        raise ExpressionError(f"{_short(text)!r} has no value: {_cause(str(error))}") from None
    if value.type() in (cel.Type.ERROR, cel.Type.UNKNOWN):
        raise ExpressionError(f"{_short(text)!r} has no value: {_cause(str(value.value()))}")
    return value.plain_value()


def holds(text: str, scope: Scope, values: Mapping[str, Any]) -> bool:
    """Whether a condition is true.

    Raises:
        ExpressionError: as `evaluate`, or the value is neither true nor false.
    """
    value = evaluate(text, scope, values)
    if not isinstance(value, bool):
        raise ExpressionError(f"{_short(text)!r} is {_short(repr(value))}: wanted true or false")
    return value


def fill(given: Mapping[str, Any], scope: Scope, values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with the value of each `${EXPRESSION}`, in lists too; one whose value is empty or null is left out.

    Raises:
        ExpressionError: as `evaluate`; or a number is too large for the record.
    """
    filled = {name: _filled(value, scope, values) for name, value in given.items()}
    return {name: value for name, value in filled.items() if value not in (None, "")}


def _filled(value: Any, scope: Scope, values: Mapping[str, Any]) -> Any:
    if isinstance(value, list | tuple):
        return [_filled(item, scope, values) for item in value]
    text = embedded(value)
    return value if text is None else _recordable(text, evaluate(text, scope, values))


def _recordable(text: str, value: Any) -> Any:
    """A host may tell any number; the journal, where parameters go, takes only those that every reader reads alike."""
    if isinstance(value, int | float) and not abs(value) <= _MAX_NUMBER:
        raise ExpressionError(f"{_short(text)!r} is {value}: wanted a number within ±{_MAX_NUMBER}")
    return value


def _frozen(scope: Scope) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(scope.items()))


@lru_cache(maxsize=128)
def _environment(scope: tuple[tuple[str, str], ...]) -> cel.Env:
    return cel.NewEnv(variables={name: _TYPES[kind] for name, kind in scope})


@lru_cache(maxsize=512)
def _compiled(text: str, scope: tuple[tuple[str, str], ...]) -> cel.Expression:
    size = len(text.encode(errors="replace"))
    if size > MAX_BYTES:
        raise ExpressionError(f"wanted at most {MAX_BYTES} bytes, found {size}: make it several steps")
    if not text.strip() or _UNSPEAKABLE.search(text):
        raise ExpressionError("wanted an expression, such as `params.older_than > 60`")
    try:
        return _environment(scope).compile(text)
    except (RuntimeError, ValueError) as error:
        raise _explained(str(error), text, dict(scope)) from None


def _explained(said: str, text: str, scope: Scope) -> ExpressionError:
    if "recursion" in said:
        return ExpressionError("nested too deep, or too long a chain: make it several steps, or use lists")
    found = _ERROR.search(said)
    if found is None:
        return ExpressionError(f"not understood: {_short(said.splitlines()[0])}")
    line, column, what = int(found[1]), max(1, int(found[2])), found[3]
    if unknown := _UNDECLARED.search(what):
        return _unknown(unknown[1], text, line, column, scope)
    if overload := _OVERLOAD.search(what):
        return ExpressionError(_mismatch(overload[1], overload[2]), line, column)
    if select := _SELECT.search(what):
        kind = _TYPE_WORDS.get(select[1], select[1])
        return ExpressionError(f"a {kind} has no parts: take the last name away", line, column)
    return ExpressionError(f"does not parse: {what.split(' expecting ')[0]}", line, column)


def _unknown(name: str, text: str, line: int, column: int, scope: Scope) -> ExpressionError:
    """The engine points at a name's last dot or at a call's parenthesis; people look for where it begins."""
    is_call = text.split("\n")[line - 1][column - 1 : column] == "("
    if is_call and "." not in name:
        return ExpressionError(f"there is no function {name!r}", line, max(1, column - len(name)))
    begins = max(1, column - max(0, name.rfind(".")))
    beside = sorted(known for known in scope if known.split(".")[0] == name.split(".")[0]) or sorted(scope)
    hint = nearest(name, scope)
    if hint.startswith("known:"):
        hint = f"known are {', '.join(beside[:_HINTED])}{', …' if len(beside) > _HINTED else ''}"
    return ExpressionError(f"unknown name {name!r}; {hint}", line, begins)


def _mismatch(operator: str, operands: str) -> str:
    shown = operator.replace("_", "")
    kinds = [_TYPE_WORDS.get(kind, kind) for kind in operands.split(", ")]
    advice = ""
    if set(operands.split(", ")) == {"int", "double"}:
        advice = "; write the whole number with a point, such as 80.0"
    return f"{shown!r} does not go with {' and '.join(kinds)}{advice}"


def _flattened(text: str, scope: Scope, values: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, kind in scope.items():
        value = _at(values, name) if _mentions(text, name) else None
        if value is not None and _is_of(kind, value):
            found[name] = float(value) if kind == Kind.NUMBER else value
    return found


def _mentions(text: str, name: str) -> bool:
    """Cheap and generous: a scope may have hundreds of names with long lists behind them."""
    return name.rsplit(".", 1)[-1] in text


def _at(values: Mapping[str, Any], name: str) -> Any:
    value: Any = values
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _is_of(kind: str, value: Any) -> bool:
    """Values came from hosts: one of another kind, or too long a list, counts as not there."""
    if isinstance(value, bool):
        return kind == Kind.BOOL
    if isinstance(value, list | tuple):
        wanted = _ITEMS.get(kind)
        return wanted is not None and len(value) <= MAX_ITEMS and all(isinstance(item, wanted) for item in value)
    if isinstance(value, int):
        return kind in _WHOLE and abs(value) < 1 << 63
    return isinstance(value, _PYTHON.get(kind, ()))


def _compiles(text: str, scope: Scope, *, without: str) -> bool:
    try:
        _compiled(text, tuple(item for item in _frozen(scope) if item[0] != without))
    except ExpressionError:
        return False
    return True


def _cause(said: str) -> str:
    if "No value with name" in said:
        missing = re.search(r'"([^"]+)"', said)
        return f"{missing[1] if missing else 'something that it needs'} is not known"
    if "construction from null" in said:
        return "a text that it uses is none: it holds half a character"
    if "budget" in said:
        return "it takes too many steps: count in an action, not over a long list"
    return _short(said.partition(": ")[2] or said)


def _word(type_name: str) -> str:
    return _WORDS.get(type_name.partition("<")[0], type_name.lower())


def _short(text: str) -> str:
    return text if len(text) <= 100 else text[:97] + "..."
