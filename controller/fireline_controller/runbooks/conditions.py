"""Rules about expressions: each is of the type that its place wants, and errors stand where they are in the file."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from fireline_controller.runbooks import expressions, scopes
from fireline_controller.runbooks.examined import Examined
from fireline_controller.runbooks.expressions import ExpressionError, Scope
from fireline_controller.runbooks.model import ActionCall, CaptureCall, Manual, Parallel, Step
from fireline_controller.runbooks.parsing import Path, Problem
from fireline_wire.actions import BadValue, Kind, Parameter

# The types of expressions that a parameter takes; what is not known before it runs fits for now.
_FITS: Final[Mapping[Kind, frozenset[str]]] = {
    Kind.TEXT: frozenset({"STRING"}),
    Kind.PATH: frozenset({"STRING"}),
    Kind.INT: frozenset({"INT"}),
    Kind.DURATION: frozenset({"INT"}),
    Kind.SIZE: frozenset({"INT"}),
    Kind.NUMBER: frozenset({"INT", "DOUBLE"}),
    Kind.BOOL: frozenset({"BOOL"}),
    Kind.TEXTS: frozenset({"LIST<STRING>", "LIST<DYN>"}),
    Kind.PATHS: frozenset({"LIST<STRING>", "LIST<DYN>"}),
}
_OF_A_HOST: Final = re.compile(r"\b(?:steps|host)\.")
_STEP: Final = re.compile(r"\b(?:steps|fleet)\.([a-z][a-z0-9_]*)")


def problems(examined: Examined) -> Iterator[Problem]:
    """All that is wrong with the expressions."""
    params = scopes.of_preconditions(examined.runbook.params)
    for index, text in enumerate(examined.runbook.preconditions):
        yield from _condition(examined, text, params, ("preconditions", index), "no run could ever begin")
    for step in examined.steps:
        yield from _of_step(examined, step)


def _of_step(examined: Examined, step: Step) -> Iterator[Problem]:
    path, catalogue = examined.path(step), examined.known.catalogue
    scope = scopes.of_step(examined.runbook, step.id, catalogue)
    if step.when:
        yield from _condition(examined, step.when, scope, (*path, "when"), f"step {step.id!r} is never reached")
    if isinstance(step.do, ActionCall):
        yield from _call(examined, step.do, scope, path)
    if isinstance(step.do, CaptureCall):
        params = scopes.of_preconditions(examined.runbook.params)
        yield from _told(examined, step.do.given, params, (*path, "capture", "with"))
    if step.rollback:
        yield from _call(examined, step.rollback, scope, (*path, "rollback"))
    if step.verify:
        yield from _call(examined, step.verify.call, scope, (*path, "verify"))
        told = scopes.of_verify(examined.runbook, step.id, catalogue)
        yield from _condition(examined, step.verify.until, told, (*path, "verify", "until"), "it can't become true")


def _condition(examined: Examined, text: str, scope: Scope, path: Path, never: str) -> Iterator[Problem]:
    try:
        expressions.require_bool(text, scope)
        if not expressions.names_in(text, scope) and not expressions.holds(text, scope, {}):
            yield examined.problem(path, f"always false: {never}; leave it out")
    except ExpressionError as error:
        yield _placed(examined, text, error, path, shift=0)


def _call(examined: Examined, call: ActionCall, scope: Scope, path: Path) -> Iterator[Problem]:
    spec = examined.known.catalogue.get(call.action)
    for parameter in spec.parameters if spec else ():
        value = call.given.get(parameter.name)
        here = (*path, "with", parameter.name)
        for item, at in _items(value, here):
            text = expressions.embedded(item)
            if text is not None:
                yield from _fits(examined, text, scope, at, _wanted(parameter, is_item=at != here))


def _told(examined: Examined, given: Mapping[str, Any], scope: Scope, path: Path) -> Iterator[Problem]:
    """A capture is one for all hosts: what its collectors are told is known before the run."""
    for name, value in given.items():
        for item, at in _items(value, (*path, name)):
            text = expressions.embedded(item)
            try:
                _ = text is None or expressions.check(text, scope)
            except ExpressionError as error:
                yield _placed(examined, text or "", error, at, shift=len("${"))


def _items(value: Any, path: Path) -> Iterator[tuple[Any, Path]]:
    if isinstance(value, list):
        yield from ((item, (*path, index)) for index, item in enumerate(value))
    else:
        yield value, path


def _wanted(parameter: Parameter, *, is_item: bool) -> Parameter:
    """What an expression stands for: the parameter itself, or an item of its list."""
    if not is_item:
        return parameter
    kind = Kind.PATH if parameter.kind is Kind.PATHS else Kind.TEXT
    return Parameter(parameter.name, kind, parameter.summary, choices=parameter.choices)


def _fits(examined: Examined, text: str, scope: Scope, path: Path, wanted: Parameter) -> Iterator[Problem]:
    try:
        found = expressions.check(text, scope)
    except ExpressionError as error:
        yield _placed(examined, text, error, path, shift=len("${"))
        return
    given = scope.get(text.strip(), wanted.kind)
    if (found != "DYN" and found not in _FITS[wanted.kind]) or {given, wanted.kind} == {Kind.DURATION, Kind.SIZE}:
        kind = given if text.strip() in scope else found.lower()
        yield examined.problem(path, f"{wanted.name}: wanted {wanted.kind}; found {text.strip()!r}, which is {kind}")
        return
    yield from _default_fits(examined, text.strip(), path, wanted)


def _default_fits(examined: Examined, name: str, path: Path, wanted: Parameter) -> Iterator[Problem]:
    """A run with nothing given is the usual one: what it would hand over is tried now."""
    for param in examined.runbook.params:
        if name == f"params.{param.name}" and param.default not in (None, ""):
            try:
                wanted.check(param.default)
            except BadValue as error:
                yield examined.problem(path, f"the default of {name} does not fit: {error}")


def _placed(examined: Examined, text: str, error: ExpressionError, path: Path, *, shift: int) -> Problem:
    column = error.column + (shift if error.line == 1 else 0)
    line, column = examined.draft.document.within(path, error.line, column)
    return Problem(line, column, _of_another_step(examined, text, path) or str(error))


def _of_another_step(examined: Examined, text: str, path: Path) -> str:
    """Why a name is unknown here that would be known in another step; empty where that is not it."""
    here = next((s for s in reversed(examined.steps) if path[: len(examined.path(s))] == examined.path(s)), None)
    if here is None:
        return ""
    by_id = {s.id: s for s in examined.steps}
    earlier = {s.id for s in scopes.before(examined.runbook, here.id)}
    later = [name for name in _STEP.findall(text) if name in by_id and name not in earlier]
    if later and isinstance(by_id[later[0]].do, Parallel):
        return f"step {later[0]!r} is done on no host and has no outcome there: use a step that is"
    if later:
        return f"step {later[0]!r} has not run before step {here.id!r}: use one before it"
    if isinstance(here.do, Manual) and _OF_A_HOST.search(text):
        return (
            f"step {here.id!r} is a person's, once for all hosts: use `fleet.STEP.ok < fleet.STEP.total` and the like"
        )
    return ""
