"""A runbook's file as its shape, or all that is wrong with its form: each problem with its place and what to write.

Leaves to others: values for the rest of the controller (building), and whether the steps make sense (checking).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

from fireline_controller.runbooks.parsing import MAX_PROBLEMS, Document, Path, Problem, parse
from fireline_controller.runbooks.shapes import RunbookShape
from fireline_wire.actions import nearest

_SHOWN: Final = 60  # characters of what was found
_WANTED: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


@dataclass(frozen=True)
class Draft:
    """A file whose form is right. `document` says where everything stands."""

    document: Document
    shape: RunbookShape

    def problem(self, path: Path, message: str, *, is_key: bool = False) -> Problem:
        """Something that is wrong with the value at a path."""
        return Problem(*self.document.place(path, is_key=is_key), message)


def read(raw: bytes) -> tuple[Draft | None, tuple[Problem, ...]]:
    """The file's shape; None where its form is wrong, and then at least one problem."""
    document, problems = parse(raw)
    if document is None:
        return None, problems
    try:
        shape = RunbookShape.model_validate(document.value)
    except ValidationError as error:
        found = [_explain(document, dict(problem)) for problem in error.errors()[:MAX_PROBLEMS]]
        places = {(p.line, p.column) for p in problems}  # what can't be read fits no shape either: said once
        return None, tuple(sorted({*problems, *(p for p in found if (p.line, p.column) not in places)}))
    return (None if problems else Draft(document, shape)), problems


def _explain(document: Document, problem: Mapping[str, Any]) -> Problem:
    loc: Path = tuple(part for part in problem["loc"] if part != "[key]")
    is_key = problem["type"] == "extra_forbidden" or "[key]" in problem["loc"]
    message = _MESSAGES.get(problem["type"], _other)(loc, problem)
    return Problem(*document.place(loc, is_key=is_key), message)


def _value_error(_loc: Path, problem: Mapping[str, Any]) -> str:
    return str(problem["ctx"]["error"])


def _unknown_key(loc: Path, problem: Mapping[str, Any]) -> str:
    if problem["input"] is None and " " in str(loc[-1]):
        return f"unknown key {_short(loc[-1])}: a comma in braces ends a text; put the text in quotes"
    return f"unknown key {_short(loc[-1])}; {nearest(str(loc[-1]), _keys_beside(loc))}"


def _missing(loc: Path, _problem: Mapping[str, Any]) -> str:
    return f"{loc[-1]!r} is missing: write `{loc[-1]}: …`"


def _literal(_loc: Path, problem: Mapping[str, Any]) -> str:
    return f"wanted {problem['ctx']['expected']}; found {_short(problem['input'])}"


def _other(_loc: Path, problem: Mapping[str, Any]) -> str:
    wanted = _WANTED.get(problem["type"])
    said = problem["msg"][:1].lower() + problem["msg"][1:]
    return (
        f"wanted {wanted}; found {_short(problem['input'])}" if wanted else f"{said}; found {_short(problem['input'])}"
    )


_MESSAGES: Final[Mapping[str, Callable[[Path, Mapping[str, Any]], str]]] = {
    "value_error": _value_error,
    "extra_forbidden": _unknown_key,
    "missing": _missing,
    "literal_error": _literal,
    "too_short": lambda _loc, _problem: "wanted at least one, found none",
    "too_long": lambda _loc, problem: f"wanted at most {problem['ctx']['max_length']}, found more",
    "string_too_short": lambda _loc, _problem: "wanted a text, found an empty one",
    "string_too_long": lambda _loc, problem: f"wanted at most {problem['ctx']['max_length']} characters, found more",
    "greater_than_equal": lambda _loc, problem: f"wanted at least {problem['ctx']['ge']}; found {problem['input']}",
    "less_than_equal": lambda _loc, problem: f"wanted at most {problem['ctx']['le']}; found {problem['input']}",
}


def _short(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _keys_beside(loc: Path) -> tuple[str, ...]:
    """The keys that could have stood where an unknown one stands."""
    shape: type[BaseModel] = RunbookShape
    for part in loc[:-1]:
        if isinstance(part, str):
            shape = _shape_behind(shape, part) or shape
    return tuple(name.alias or key for key, name in shape.model_fields.items() if not name.exclude)


def _shape_behind(shape: type[BaseModel], key: str) -> type[BaseModel] | None:
    for name, field in shape.model_fields.items():
        if key in (name, field.alias):
            return next(_shapes_in(field.annotation), None)
    return None


def _shapes_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _shapes_in(inner)
