"""The built-in runbooks played in memory: every condition and parameter has its value, whatever hosts answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fireline_controller.model import Outcome
from fireline_controller.runbooks import loading
from fireline_controller.runbooks.evaluation import CheckedExpressions
from fireline_controller.runbooks.ground import Ground, all_steps
from fireline_controller.runbooks.model import ActionCall, Manual, OnFailure, Runbook
from fireline_controller.runbooks.record import HostEnd, Move, Part, RunState
from fireline_wire.actions import ActionSpec, Kind, Risk
from tests.runbooks.test_built_in import KNOWN, NAMES, loaded
from tests.runs.course_world import Answer, Play, fine

# What a run is started with where a runbook asks for it, and what hosts tell: much, or nothing.
GIVEN: Mapping[Kind, Any] = {Kind.TEXT: "shop", Kind.PATH: "/srv/shop", Kind.BOOL: True, Kind.TEXTS: ["a"]}
MUCH: Mapping[Kind, Any] = {
    Kind.TEXT: "text", Kind.PATH: "/a", Kind.INT: 500, Kind.DURATION: 500, Kind.SIZE: 1 << 30, Kind.NUMBER: 97.5,
    Kind.BOOL: True, Kind.TEXTS: ["a"], Kind.PATHS: ["/a"], Kind.ROWS: [{"pid": 7}],
}  # fmt: skip
NOTHING: Mapping[Kind, Any] = {
    Kind.TEXT: "", Kind.PATH: "", Kind.INT: 0, Kind.DURATION: 0, Kind.SIZE: 0, Kind.NUMBER: 0, Kind.BOOL: False,
    Kind.TEXTS: [], Kind.PATHS: [], Kind.ROWS: [],
}  # fmt: skip


@dataclass
class RealPlay(Play):
    """A run with the real expressions and actions. `all_given`: with every choice taken that a runbook leaves."""

    all_given: bool = False
    filled: dict[str, dict[str, Any]] = field(default_factory=dict)

    def _ground(self) -> Ground:
        book = self.runbook
        given = {p.name: GIVEN.get(p.kind, p.default) for p in book.params if self.all_given or p.is_required}
        params = {p.name: p.default for p in book.params} | given
        return Ground(
            book,
            {step.id: self.hosts for step in all_steps(book)},
            {host: {"role": "web"} for host in self.hosts},
            params,
            {"id": "INC-1", "severity": "P1", "title": "down"},
            CheckedExpressions(book, KNOWN.catalogue),
            lambda action: KNOWN.catalogue[action].risk,
            tuple(self.record),
        )


def answers(book: Runbook, told: Mapping[Kind, Any]) -> Answer:
    """Everything goes well, and every action tells its results."""
    specs = {s.id: KNOWN.catalogue[s.do.action] for s in all_steps(book) if isinstance(s.do, ActionCall)}

    def answer(move: Move, host: str) -> HostEnd:
        spec = specs.get(move.step)
        results = {r.name: told[r.kind] for r in spec.results} if spec else {}
        return replace(fine(move, host), result=results)

    return answer


def called(play: Play) -> list[tuple[str, ActionSpec, Mapping[str, Any]]]:
    """Every action that was called, by its step, with the parameters that it was called with."""
    of = {s.id: s.do.action for s in all_steps(play.runbook) if isinstance(s.do, ActionCall)}
    begun = [t.move for t in play.record if t.move.part is Part.BEGIN and t.move.hosts and t.move.step in of]
    return [(move.step, KNOWN.catalogue[of[move.step]], filled.given) for move in begun for filled in move.filled or ()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("told", [MUCH, NOTHING], ids=["much", "nothing"])
@pytest.mark.parametrize("all_given", [True, False], ids=["all given", "as it comes"])
def test_a_run_in_which_all_goes_well_succeeds(name: str, told: Mapping[Kind, Any], all_given: bool) -> None:
    """No condition is without a value, and every action gets parameters that it takes."""
    book = loaded(name)
    play = RealPlay(book, answer=answers(book, told), all_given=all_given)

    assert play.run().state is RunState.SUCCEEDED
    for step, spec, given in called(play):
        assert spec.check(given), step


@pytest.mark.parametrize("name", NAMES)
def test_whatever_step_fails_the_run_ends(name: str) -> None:
    """Each step fails on every host, one run after the other; a failure is never called a success."""
    book = loaded(name)
    well = answers(book, MUCH)
    for step in all_steps(book):

        def answer(move: Move, host: str, bad: str = step.id) -> HostEnd:
            return HostEnd(host, Outcome.FAILED, "broken", "failed") if move.step == bad else well(move, host)

        play = RealPlay(book, answer=answer, all_given=True)
        ended = play.run()
        was_tried = any(t.move.step == step.id and t.move.part is not Part.BEGIN for t in play.record)
        may_fail = step.on_failure is not OnFailure.ABORT or (step.targets or book.targets).max_fail == "100%"
        if was_tried and not may_fail:
            assert ended.state is RunState.FAILED, step.id


@pytest.mark.parametrize("name", NAMES)
def test_a_host_without_its_evidence_is_not_touched_by_what_destroys(name: str) -> None:
    """I3: where the required capture fails on one host of twenty, nothing is destroyed there."""
    book = loaded(name)
    well = answers(book, MUCH)
    kept = {s.id for s in all_steps(book) if s.is_required}
    hosts = tuple(f"web{n:02}" for n in range(20))

    def answer(move: Move, host: str) -> HostEnd:
        is_bad = move.step in kept and host == "web07"
        return HostEnd(host, Outcome.FAILED, "disk full", "failed") if is_bad else well(move, host)

    play = RealPlay(book, hosts=hosts, answer=answer, all_given=True)
    play.run()

    destructive = {
        s.id
        for s in all_steps(book)
        if isinstance(s.do, ActionCall) and KNOWN.catalogue[s.do.action].risk is Risk.DESTRUCTIVE
    }
    touched = {t.move.step for t in play.record if t.move.part is Part.DO and "web07" in t.move.hosts}
    assert not touched & destructive


@pytest.mark.parametrize("hosts", [("a", "b"), ("a",)])
def test_a_dead_database_host_calls_for_a_failover(hosts: tuple[str, ...]) -> None:
    """A host that does not even answer the capture is not forgotten when somebody has to decide, nor if it is alone."""
    book = loading.load(loading.find("p2-database", Path("/nowhere")), KNOWN)
    well = answers(book, MUCH)

    def answer(move: Move, host: str) -> HostEnd:
        return HostEnd(host, Outcome.UNREACHABLE, "no answer", "no_answer") if host == "a" else well(move, host)

    play = RealPlay(book, hosts=hosts, answer=answer)
    play.run()

    [failover] = [s for s in all_steps(book) if s.id == "failover"]
    assert isinstance(failover.do, Manual)
    assert any(t.move.step == "failover" and t.move.part is Part.MANUAL for t in play.record)
