"""Which names an expression of a runbook may use, and of what kind each is: from parameters and earlier steps' results.

Before any step an expression knows `params` and `incident`; a step knows what the steps before it told, of its own host
(`steps.ID`) and counted over all (`fleet.ID`); a manual step is no host's, so it knows no `host` and no `steps`. What a
person said of a manual step is its outcome on each of its hosts: ok, skipped, failed.
"""

from collections.abc import Iterator, Mapping, Sequence

from fireline_controller.runbooks.expressions import LABELS, Scope
from fireline_controller.runbooks.model import ActionCall, Manual, Parallel, Runbook, Step
from fireline_wire.actions import ActionSpec, Kind, Parameter

_INCIDENT = {"incident.id": Kind.TEXT, "incident.severity": Kind.TEXT, "incident.title": Kind.TEXT}
_HOST = {"host.name": Kind.TEXT, "host.labels": LABELS}
_COUNTS = ("ok", "not_ok", "total")

Catalogue = Mapping[str, ActionSpec]


def flat(steps: Sequence[Step]) -> Iterator[Step]:
    """Every step in the order of the file, the members of a parallel step after it."""
    for step in steps:
        yield step
        if isinstance(step.do, Parallel):
            yield from flat(step.do.steps)


def of_preconditions(params: Sequence[Parameter]) -> Scope:
    """What is known before a run: its parameters and its incident."""
    return {f"params.{p.name}": p.kind for p in params} | _INCIDENT


def of_step(runbook: Runbook, step_id: str, catalogue: Catalogue) -> Scope:
    """What `when` and the parameters of a step may use."""
    step = next(s for s in flat((*runbook.steps, *runbook.finally_)) if s.id == step_id)
    return _known(step, before(runbook, step_id), runbook.params, catalogue)


def of_verify(runbook: Runbook, step_id: str, catalogue: Catalogue) -> Scope:
    """What `until` of a step's verification may use: what the step knows, and what the verifying action tells."""
    step = next(s for s in flat((*runbook.steps, *runbook.finally_)) if s.id == step_id)
    scope = of_step(runbook, step_id, catalogue)
    spec = catalogue.get(step.verify.call.action) if step.verify else None
    return {**scope, **{f"result.{r.name}": r.kind for r in (spec.results if spec else ())}}


def before(runbook: Runbook, step_id: str) -> tuple[Step, ...]:
    """The steps that ended before a step begins; those beside it in a parallel step have not."""
    found: list[Step] = []
    for step in (*runbook.steps, *runbook.finally_):
        if step_id in {s.id for s in flat([step])}:
            break
        found += [s for s in flat([step]) if not isinstance(s.do, Parallel)]
    return tuple(found)


def _known(step: Step, earlier: Sequence[Step], params: Sequence[Parameter], catalogue: Catalogue) -> Scope:
    scope = {**of_preconditions(params), **{f"fleet.{s.id}.{count}": Kind.INT for s in earlier for count in _COUNTS}}
    if isinstance(step.do, Manual):
        return scope
    return scope | _HOST | {name: kind for s in earlier for name, kind in _told(s, catalogue)}


def _told(step: Step, catalogue: Catalogue) -> Iterator[tuple[str, str]]:
    yield f"steps.{step.id}.outcome", Kind.TEXT
    spec = catalogue.get(step.do.action) if isinstance(step.do, ActionCall) else None
    for result in spec.results if spec else ():
        yield f"steps.{step.id}.result.{result.name}", result.kind
