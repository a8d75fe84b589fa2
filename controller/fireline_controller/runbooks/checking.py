"""Whether a runbook makes sense, before any incident: all that is wrong with it at once, and what to write instead.

The rules stand in `flow` (the order of steps, what is destroyed, the way back) and `conditions` (expressions); here are
those about one step. Leaves to others: a host's own refusals, which only its plan shows.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from fireline_controller import targets
from fireline_controller.model import EmptyTarget, NotFound, TargetError
from fireline_controller.runbooks import conditions, flow
from fireline_controller.runbooks.building import Builder
from fireline_controller.runbooks.examined import Examined, Known
from fireline_controller.runbooks.model import (
    ActionCall,
    CaptureCall,
    IsolateCall,
    Manual,
    Parallel,
    Runbook,
    Step,
    Targets,
)
from fireline_controller.runbooks.parsing import Path, Problem, RunbookError
from fireline_controller.runbooks.reading import read
from fireline_wire.actions import Risk, nearest

_AROUND: Final = frozenset({"id", "title", "when", "timeout", "on_failure"})
_ON_HOSTS: Final = _AROUND | {"targets", "approval", "retry"}
# Which keys go with what a step does.
_KEYS: Final[Mapping[type, frozenset[str]]] = {
    ActionCall: _ON_HOSTS | {"action", "with", "verify", "rollback"},
    CaptureCall: _ON_HOSTS | {"capture", "required"},
    IsolateCall: _ON_HOSTS | {"isolate", "release"},
    Manual: _AROUND | {"manual"},
    Parallel: frozenset({"id", "title", "parallel"}),
}
_WORDS: Final = {
    ActionCall: "an action",
    CaptureCall: "a capture",
    IsolateCall: "an isolation",
    Manual: "a manual step",
    Parallel: "a parallel step",
}


def check(raw: bytes, known: Known, *, file: str) -> Runbook:
    """The runbook in a file's bytes; `file` is for messages.

    Raises:
        RunbookError: it is wrong; the message has a line for every problem.
    """
    draft, problems = read(raw)
    if draft is None:
        raise RunbookError(file, problems)
    builder = Builder(draft, known.catalogue)
    runbook = builder.runbook(raw)
    examined = Examined(runbook, draft, known, builder.paths)
    found = [*builder.problems, *_names(examined), *flow.problems(examined), *conditions.problems(examined)]
    if found:
        raise RunbookError(file, sorted(set(found)))
    return runbook


def _names(examined: Examined) -> Iterator[Problem]:
    yield from _targets(examined, examined.runbook.targets, ("targets",))
    for step in examined.steps:
        path = examined.path(step)
        yield from _keys(examined, step)
        yield from _timeout(examined, step)
        if step.targets:
            yield from _targets(examined, step.targets, (*path, "targets"))
        if isinstance(step.do, CaptureCall):
            yield from _capture(examined, step.do, (*path, "capture"))
        if isinstance(step.do, Parallel):
            yield from _members(examined, step.do)
        if isinstance(step.do, ActionCall):
            yield from _action(examined, step, path)


def _keys(examined: Examined, step: Step) -> Iterator[Problem]:
    path = examined.path(step)
    for key in examined.keys_at(path):
        if key not in _KEYS[type(step.do)]:
            yield examined.problem((*path, key), f"{_WORDS[type(step.do)]} has no {key!r}: leave it out", is_key=True)


def _timeout(examined: Examined, step: Step) -> Iterator[Problem]:
    if not step.timeout_s and not isinstance(step.do, CaptureCall | Parallel):
        yield examined.problem(examined.path(step), f"step {step.id!r} has no timeout: write `timeout: 60s`")


def _targets(examined: Examined, wanted: Targets, path: Path) -> Iterator[Problem]:
    if not wanted.select:
        return
    try:
        targets.resolve([wanted.select], (), (), {})
    except (NotFound, EmptyTarget):
        return  # it parses; which hosts there are is known when it runs
    except TargetError as error:
        yield examined.problem((*path, "select"), str(error))


def _capture(examined: Examined, capture: CaptureCall, path: Path) -> Iterator[Problem]:
    known = examined.known.profiles
    if capture.profile and capture.profile not in known:
        yield examined.problem(path, f"there is no profile {capture.profile!r}; {nearest(capture.profile, known)}")
        return
    collectors = known.get(capture.profile, frozenset())
    for name in capture.given:
        if name.partition(".")[0] not in collectors or not name.partition(".")[2]:
            message = (
                f"wanted COLLECTOR.NAME with a collector of {capture.profile}; {nearest(name, sorted(collectors))}"
            )
            yield examined.problem((*path, "with", name), message, is_key=True)


def _members(examined: Examined, parallel: Parallel) -> Iterator[Problem]:
    for step in parallel.steps:
        if isinstance(step.do, Parallel):
            yield examined.problem(examined.path(step), "a parallel step holds no other: put its steps beside these")


def _action(examined: Examined, step: Step, path: Path) -> Iterator[Problem]:
    risk = examined.risk(step)
    if risk is Risk.DESTRUCTIVE and step.retry.attempts > 1:
        yield examined.problem(
            (*path, "retry"), "what destroys is not tried again by itself: leave `retry` out", is_key=True
        )
    if step.verify:
        yield from _verify(examined, step, (*path, "verify"))


def _verify(examined: Examined, step: Step, path: Path) -> Iterator[Problem]:
    verify = step.verify
    assert verify is not None  # noqa: S101  # asked only where there is one
    spec = examined.known.catalogue.get(verify.call.action)
    if spec and spec.risk is not Risk.READ:
        message = f"verify only looks, {spec.name} is {spec.risk}: wanted an action that reads"
        yield examined.problem((*path, "action"), message)
    if step.timeout_s and verify.within_s >= step.timeout_s:
        message = (
            f"wanted less than the step's timeout of {step.timeout_s} s, which covers it; found {verify.within_s} s"
        )
        yield examined.problem((*path, "within"), message)
    if verify.every_s > verify.within_s:
        yield examined.problem(
            (*path, "every"), f"wanted at most `within`, {verify.within_s} s; found {verify.every_s:g} s"
        )
