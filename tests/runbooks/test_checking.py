"""What `check` refuses, word by word, and what it makes of a runbook that is right."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fireline_controller.runbooks.model import ActionCall, CaptureCall, OnFailure, Parallel
from fireline_controller.runbooks.parsing import MAX_BYTES
from tests.runbooks.catalogue import HEAD, checked, problems

CASES = Path(__file__).parents[1] / "cases" / "runbooks" / "refused.toml"
STEPS = "steps:\n  - {id: look, action: db.sessions, timeout: 9s}\n"


def cases() -> list[Any]:
    """The refusals, each under its name."""
    return [pytest.param(c, id=c["name"]) for c in tomllib.loads(CASES.read_text())["cases"]]


@pytest.mark.parametrize("case", cases())
def test_everything_that_is_wrong_is_named_at_once(case: dict[str, Any]) -> None:
    """Each problem has its line and column in the file, what was wanted and found, and what to write instead."""
    found = problems(case["text"] if case.get("whole") else HEAD + case["text"])

    assert [str(problem) for problem in found] == case["problems"]


def test_a_runbook_becomes_values() -> None:
    """Durations are seconds and sizes bytes; expressions stay as they are; places are kept."""
    runbook = checked(
        "params:\n  age: {type: duration, summary: how old, default: 10m, least: 1m}\n"
        "targets: {select: role=db, batch: 25%, canary: 1, max_fail: 2}\n"
        "steps:\n"
        "  - {id: keep, capture: database, required: true}\n"
        "  - id: end\n"
        "    action: db.end\n"
        '    with: {older_than: "${params.age}", names: [a, "${host.name}"], most: 5}\n'
        "    timeout: 90s\n"
        "    approval: {count: 2, timeout: 10m}\n"
        "    on_failure: {goto: last}\n"
        "  - id: both\n"
        "    parallel: {limit: 2, steps: [{id: stop, action: box.stop, timeout: 1h}]}\n"
        "  - {id: last, action: box.restart, with: {service: a, memory: 2GiB}, timeout: 9s}\n"
    )

    keep, end, both, last = runbook.steps
    assert (runbook.params[0].default, runbook.params[0].least) == (600, 60)
    assert (runbook.targets.batch, runbook.targets.max_fail) == ("25%", "2")
    assert (keep.do, keep.is_required) == (CaptureCall("database"), True)
    assert end.do == ActionCall("db.end", {"older_than": "${params.age}", "names": ["a", "${host.name}"], "most": 5})
    assert (end.timeout_s, end.on_failure, end.goto) == (90, OnFailure.GOTO, "last")
    assert (end.line, end.column) == (9, 5)
    assert isinstance(both.do, Parallel) and both.do.steps[0].timeout_s == 3600
    assert last.do == ActionCall("box.restart", {"service": "a", "memory": 2 << 30})


def test_the_hash_is_over_every_byte() -> None:
    """A run is pinned to the file: a comment more is another runbook."""
    assert checked(STEPS).sha256 != checked(STEPS + "# reviewed\n").sha256


@pytest.mark.parametrize(
    "steps",
    [
        "  - {id: keep, capture: {evidence_for: [end]}, required: true}\n",
        "  - {id: keep, capture: database, required: true}\n",
        "  - id: both\n    parallel: {steps: [{id: keep, capture: database, required: true}]}\n",
        "  - {id: keep, capture: database, required: true, targets: {batch: 1}}\n",
    ],
)
def test_what_was_sealed_before_may_be_destroyed(steps: str) -> None:
    """I3: a required capture with the action's collectors, by profile or by the step's name, is enough."""
    runbook = checked(f"steps:\n{steps}  - {{id: end, action: db.end, approval: {{}}, timeout: 9s}}\n")

    assert runbook.steps[-1].id == "end"


def test_what_evidence_does_not_take_may_follow_from_steps() -> None:
    """A capture for a step needs to know what is kept, not which of it is destroyed in the end."""
    runbook = checked(
        "steps:\n"
        "  - {id: keep, capture: {evidence_for: [end]}, required: true}\n"
        "  - {id: look, action: db.sessions, timeout: 9s}\n"
        '  - {id: end, action: db.end, with: {names: "${steps.look.result.names}"}, approval: {}, timeout: 9s}\n'
    )

    assert runbook.steps[-1].id == "end"


def test_a_way_back_may_be_declared_impossible() -> None:
    """A step without an undo may stand before a rollback where the runbook says why there is no way back."""
    runbook = checked(
        "steps:\n"
        "  - {id: again, action: box.restart, with: {service: a}, timeout: 9s, rollback: {none: it ran anew}}\n"
        "  - {id: stop, action: box.stop, timeout: 9s, on_failure: rollback}\n"
    )

    assert runbook.steps[0].no_way_back == "it ran anew"


def test_a_file_that_is_no_runbook_is_refused_before_it_is_read() -> None:
    """A wrong path must not fill the memory."""
    assert [p.message for p in problems(b"#" * (MAX_BYTES + 1))] == [
        f"wanted at most {MAX_BYTES} bytes: this is no runbook"
    ]


@pytest.mark.parametrize(
    "raw, message",
    [
        (b"a: \xff", "1:4: wanted UTF-8 text, found the byte 0xff"),
        (b"a: b\n\x00", "2:1: no YAML: a character that text can't hold; remove it"),
        (b"[" * 200_000, "1:21: no YAML: nested deeper than 20: no runbook is"),
        (b"? [a]\n: b\n", "1:3: wanted a word as a key, found a list or a mapping"),
    ],
    ids=["no text", "no YAML", "deep", "a list as a key"],
)
def test_hostile_bytes_are_named(raw: bytes, message: str) -> None:
    """What can't be a runbook gets a problem with its place, not a traceback."""
    assert message in [str(problem) for problem in problems(raw)]


def test_aliases_do_not_blow_up() -> None:
    """The million laughs: each alias is refused where it stands, and never followed."""
    laughs = "a: &a [x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)
    )

    assert len(problems(laughs)) < 100


@given(st.one_of(st.binary(max_size=400), st.text(max_size=400).map(lambda text: text.encode(errors="surrogatepass"))))
@settings(max_examples=150, deadline=None)
def test_no_bytes_crash_the_parser(raw: bytes) -> None:
    """Whatever the bytes are, there is a problem with a place in them, since no such bytes are a runbook."""
    found = problems(raw)

    assert found
    assert all(problem.line >= 1 and problem.column >= 1 and problem.message for problem in found)


@given(st.text(alphabet="steps.look(){}[]$'\":|>&*!-<=0 \n#ab", max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_condition_crashes_the_checker(text: str) -> None:
    """A condition is either right or named with a place."""
    quoted = text.replace("'", "''").replace("\n", " ")

    for problem in problems(f"{HEAD}{STEPS}  - {{id: odd, action: box.stop, timeout: 9s, when: '{quoted}'}}\n"):
        assert problem.line >= 6
