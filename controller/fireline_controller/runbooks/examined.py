"""A runbook while it is checked: its values, where they stand in the file, and what its names may mean."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from fireline_controller.runbooks.model import ActionCall, Runbook, Step
from fireline_controller.runbooks.parsing import Path, Problem
from fireline_controller.runbooks.reading import Draft
from fireline_controller.runbooks.scopes import flat
from fireline_wire.actions import ActionSpec, Risk


@dataclass(frozen=True)
class Known:
    """What a runbook may name: actions, and profiles with the names of their collectors."""

    catalogue: Mapping[str, ActionSpec]
    profiles: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Examined:
    """One runbook under examination. `paths`: where each step stands in the file."""

    runbook: Runbook
    draft: Draft
    known: Known
    paths: Mapping[str, Path]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """Every step, members of parallel steps and those of `finally` too; of two with one id the first only."""
        found: dict[str, Step] = {}
        for step in flat((*self.runbook.steps, *self.runbook.finally_)):
            found.setdefault(step.id, step)
        return tuple(found.values())

    @cached_property
    def order(self) -> Mapping[str, int]:
        """The position of each step in the run; members of a parallel step share its own. Without `finally`."""
        return {s.id: index for index, step in enumerate(self.runbook.steps) for s in flat([step])}

    def path(self, step: Step) -> Path:
        """Where a step stands."""
        return self.paths[step.id]

    def keys_at(self, path: Path) -> Iterator[str]:
        """The keys that are written at a path."""
        for spot in self.draft.document.spots:
            if spot[:-1] == path and isinstance(spot[-1:][0], str):
                yield str(spot[-1])

    def problem(self, path: Path, message: str, *, is_key: bool = False) -> Problem:
        """Something that is wrong with the value at a path."""
        return self.draft.problem(path, message, is_key=is_key)

    def risk(self, step: Step) -> Risk | None:
        """What the step's action may cost; None for what is no action, or not known."""
        spec = self.spec(step)
        return spec.risk if spec else None

    def spec(self, step: Step) -> ActionSpec | None:
        """The specification of the step's action; None where there is none."""
        return self.known.catalogue.get(step.do.action) if isinstance(step.do, ActionCall) else None
