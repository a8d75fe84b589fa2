"""A runbook's shape as values, with the parameters of every action checked against the catalogue of actions.

Leaves to others: whether the steps make sense together, and the types of expressions (checking).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from fireline_controller.runbooks import expressions
from fireline_controller.runbooks.model import (
    ActionCall,
    Approval,
    CaptureCall,
    Do,
    IsolateCall,
    Manual,
    OnFailure,
    Parallel,
    Retry,
    Runbook,
    Step,
    Targets,
    Until,
)
from fireline_controller.runbooks.parsing import Path, Problem
from fireline_controller.runbooks.reading import Draft
from fireline_controller.runbooks.shapes import ParamShape, StepShape, TargetsShape
from fireline_wire.actions import ActionSpec, BadValue, Kind, Parameter, nearest

# People write these with a unit; a value is whole seconds or bytes.
_MEASURED: Final = (Kind.DURATION, Kind.SIZE)


class Builder:
    """Makes the values of one file and notes what is wrong with them in `problems`."""

    def __init__(self, draft: Draft, catalogue: Mapping[str, ActionSpec]) -> None:
        self.problems: list[Problem] = []
        # Where each step stands in the file, by its id; the first of two with one id.
        self.paths: dict[str, Path] = {}
        self._draft = draft
        self._catalogue = catalogue

    def runbook(self, raw: bytes) -> Runbook:
        """The whole of it; `raw` are the bytes that a run is pinned to."""
        shape = self._draft.shape
        about = shape.metadata
        return Runbook(
            name=about.name,
            version=about.version,
            summary=about.summary,
            sha256=hashlib.sha256(raw).hexdigest(),
            steps=self._steps(shape.steps, ("steps",)),
            finally_=self._steps(shape.finally_, ("finally",)),
            params=tuple(self._param(name, param) for name, param in shape.params.items()),
            targets=_targets(shape.targets),
            preconditions=tuple(shape.preconditions),
            owner=about.owner,
            severities=tuple(about.severity),
            alerts=tuple(about.alerts),
            findings=tuple(about.findings),
            areas=tuple(about.areas),
            reviewed=about.reviewed,
        )

    def _note(self, path: Path, message: str, *, is_key: bool = False) -> None:
        self.problems.append(self._draft.problem(path, message, is_key=is_key))

    def _param(self, name: str, shape: ParamShape) -> Parameter:
        path: Path = ("params", name)
        kind = Kind(shape.type)
        bounds = Parameter(name, kind, shape.summary, least=-(1 << 62), choices=tuple(shape.choices))
        least = self._bound(bounds, shape.least, (*path, "least"))
        most = self._bound(bounds, shape.most, (*path, "most"))
        parameter = Parameter(
            name,
            kind,
            shape.summary,
            is_required=shape.default is None,
            least=least or 0,
            most=most,
            choices=tuple(shape.choices),
        )
        default = self._default(parameter, shape.default, (*path, "default"))
        return replace(parameter, default=default)

    def _default(self, parameter: Parameter, value: Any, path: Path) -> Any:
        """An empty text stands for nothing: an action's parameter that is filled with it is left out."""
        is_nothing = value is None or (value == "" and parameter.kind in (Kind.TEXT, Kind.PATH))
        return value if is_nothing else self._value(parameter, value, path)

    def _bound(self, parameter: Parameter, value: Any, path: Path) -> Any:
        if value is None:
            return None
        if parameter.kind not in (Kind.INT, Kind.NUMBER, *_MEASURED):
            self._note(path, f"a {parameter.kind} has no bounds: leave {path[-1]!r} out", is_key=True)
            return None
        return self._value(parameter, value, path)

    def _steps(self, shapes: Sequence[StepShape], path: Path) -> tuple[Step, ...]:
        return tuple(self._step(shape, (*path, index)) for index, shape in enumerate(shapes))

    def _step(self, shape: StepShape, path: Path) -> Step:
        line, column = self._draft.document.place(path)
        if shape.id in self.paths:
            first, _ = self._draft.document.place((*self.paths[shape.id], "id"))
            self._note((*path, "id"), f"the id {shape.id!r} is taken in line {first}: wanted one of its own")
        self.paths.setdefault(shape.id, path)
        return Step(
            id=shape.id,
            do=self._do(shape, path),
            title=shape.title,
            when=shape.when or "",
            timeout_s=shape.timeout or 0,
            is_required=shape.required,
            targets=_targets(shape.targets) if shape.targets else None,
            approval=_approval(shape),
            retry=Retry(shape.retry.attempts, shape.retry.backoff),
            verify=self._verify(shape, (*path, "verify")),
            on_failure=OnFailure(shape.on_failure.then),
            goto=shape.on_failure.goto or "",
            rollback=self._rollback(shape, (*path, "rollback")),
            no_way_back=(shape.rollback.none or "") if shape.rollback else "",
            line=line,
            column=column,
        )

    def _do(self, shape: StepShape, path: Path) -> Do:
        if shape.action is not None:
            return self._call(shape.action, shape.with_, path)
        if shape.capture is not None:
            return CaptureCall(shape.capture.profile or "", shape.capture.with_, tuple(shape.capture.evidence_for))
        if shape.manual is not None:
            return Manual(shape.manual.instructions, shape.manual.role)
        if shape.parallel is not None:
            return Parallel(self._steps(shape.parallel.steps, (*path, "parallel", "steps")), shape.parallel.limit)
        return IsolateCall(is_back=shape.release is not None, scope=shape.isolate or shape.release or "host")

    def _verify(self, shape: StepShape, path: Path) -> Until | None:
        wanted = shape.verify
        if wanted is None:
            return None
        return Until(self._call(wanted.action, wanted.with_, path), wanted.until, wanted.within, wanted.every)

    def _rollback(self, shape: StepShape, path: Path) -> ActionCall | None:
        if shape.rollback is None or shape.rollback.action is None:
            return None
        return self._call(shape.rollback.action, shape.rollback.with_, path)

    def _call(self, action: str, given: Mapping[str, Any], path: Path) -> ActionCall:
        spec = self._catalogue.get(action)
        if spec is None:
            hint = nearest(action, self._catalogue)
            hint = hint if hint.startswith("did") else "see `fireline action list`"
            self._note((*path, "action"), f"there is no action {action!r}; {hint}")
            return ActionCall(action, given)
        known = {parameter.name: parameter for parameter in spec.parameters}
        for name in sorted(set(given) - set(known)):
            message = f"{action} takes no parameter {name!r}; {nearest(name, known)}"
            self._note((*path, "with", name), message, is_key=True)
        for parameter in spec.parameters:
            if parameter.is_required and given.get(parameter.name) is None:
                message = f"{action} needs the parameter {parameter.name!r}: {parameter.summary}"
                self._note((*path, "with"), message, is_key=True)
        return ActionCall(
            action,
            {
                name: self._value(known[name], value, (*path, "with", name))
                for name, value in given.items()
                if name in known and value is not None
            },
        )

    def _value(self, parameter: Parameter, value: Any, path: Path) -> Any:
        """The value as the action takes it; one that holds an expression is left as it is."""
        texts = [item for item in _items(value) if isinstance(item, str) and "${" in item]
        if any(expressions.embedded(text) is None for text in texts):
            self._note(path, "an expression is the whole text: write '${\"/srv/\" + params.name}'")
        if texts:
            return value
        try:
            if parameter.kind in _MEASURED and isinstance(value, str):
                return parameter.parse(value)
            return parameter.check(value)
        except BadValue as error:
            self._note(path, str(error))
            return None


def _items(value: Any) -> Iterator[Any]:
    yield from value if isinstance(value, list) else (value,)


def _targets(shape: TargetsShape) -> Targets:
    return Targets(shape.select, shape.most, shape.batch or "", shape.canary, shape.max_fail)


def _approval(shape: StepShape) -> Approval | None:
    asked = shape.approval
    return Approval(asked.count, tuple(sorted(set(asked.operators))), asked.timeout) if asked else None
