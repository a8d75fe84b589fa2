"""Expressions: typed before a run, evaluated in it, and never true by accident."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fireline_controller.runbooks import expressions, scopes
from fireline_controller.runbooks.expressions import LABELS, MAX_ITEMS, ExpressionError
from fireline_wire.actions import Kind
from tests.runbooks.catalogue import KNOWN, checked

SCOPE = {
    "params.age": Kind.DURATION,
    "params.names": Kind.TEXTS,
    "host.name": Kind.TEXT,
    "host.labels": LABELS,
    "steps.look.outcome": Kind.TEXT,
    "steps.look.result.used_pct": Kind.NUMBER,
    "steps.look.result.rows": Kind.ROWS,
}
VALUES = {
    "params": {"age": 600, "names": ["a", "b"]},
    "host": {"name": "db1", "labels": {"role": "db"}},
    "steps": {"look": {"outcome": "ok", "result": {"used_pct": 97, "rows": [{"pid": 7, "user": "shop"}]}}},
}


@pytest.mark.parametrize(
    "text, value",
    [
        ("params.age > 60 && host.name == 'db1'", True),
        ("steps.look.result.used_pct >= 80.0", True),
        ("steps.look.result.rows.exists(r, r.pid == 7)", True),
        ("'role' in host.labels && host.labels.role == 'db'", True),
        ("has(host.labels.env) && host.labels.env == 'prod'", False),
        ("size(params.names)", 2),
        ("params.names + [host.name]", ["a", "b", "db1"]),
        ("steps.look.outcome", "ok"),
    ],
)
def test_an_expression_has_its_value(text: str, value: object) -> None:
    """Parameters, labels and results, a whole number where a number with a point is declared too."""
    assert expressions.evaluate(text, SCOPE, VALUES) == value


@pytest.mark.parametrize(
    "text, message",
    [
        ("host.labels.env == 'prod'", 'has no value: Key not found in map : "env"'),
        ("1 / 0 == 1", "has no value: divide by zero"),
        ("steps.look.result.rows[0].state == 'idle'", 'has no value: Key not found in map : "state"'),
    ],
)
def test_an_error_is_never_true(text: str, message: str) -> None:
    """The engine answers an error with an object that Python takes for true: here it is an error."""
    with pytest.raises(ExpressionError) as refused:
        expressions.holds(text, SCOPE, VALUES)

    assert message in str(refused.value)


def test_what_a_host_did_not_tell_is_an_error_only_where_it_is_needed() -> None:
    """A step that was passed over has no result: a condition may ask for its outcome first."""
    nothing = {**VALUES, "steps": {"look": {"outcome": "skipped"}}}

    assert not expressions.holds("steps.look.outcome == 'ok' && steps.look.result.used_pct > 80.0", SCOPE, nothing)
    with pytest.raises(ExpressionError, match=r"steps\.look\.result\.used_pct is not known"):
        expressions.holds("steps.look.result.used_pct > 80.0", SCOPE, nothing)


@pytest.mark.parametrize("rows", ["many", 3, [3], [{"a": 1}] * (MAX_ITEMS + 1)], ids=["text", "int", "items", "long"])
def test_a_hostile_result_counts_as_not_there(rows: object) -> None:
    """I8: a value of another type than the action declares, or an endless list, is no value."""
    lied = {**VALUES, "steps": {"look": {"outcome": "ok", "result": {"rows": rows}}}}

    with pytest.raises(ExpressionError, match=r"steps\.look\.result\.rows is not known"):
        expressions.evaluate("size(steps.look.result.rows)", SCOPE, lied)


@pytest.mark.parametrize(
    "row, text, cause",
    [
        ({"a": 2**70}, "size(steps.look.result.rows) > 0", "out of range"),
        ({"a": "\ud800"}, "steps.look.result.rows[0].a == 'x'", "half a character"),
        ({"\ud800": 1}, "size(steps.look.result.rows) > 0", "half a character"),
    ],
)
def test_a_hostile_row_is_an_error_and_no_crash(row: dict[str, object], text: str, cause: str) -> None:
    """I8: numbers without end and halves of characters stop at this expression, not at the run."""
    lied = {**VALUES, "steps": {"look": {"outcome": "ok", "result": {"rows": [row]}}}}

    with pytest.raises(ExpressionError, match=cause):
        expressions.evaluate(text, SCOPE, lied)


def test_an_expression_ends() -> None:
    """Lists within lists run into the engine's budget, not into minutes; one long list does not."""
    long = {**VALUES, "steps": {"look": {"outcome": "ok", "result": {"rows": [{"pid": 7}] * MAX_ITEMS}}}}

    assert expressions.evaluate("steps.look.result.rows.all(a, a.pid == 7)", SCOPE, long)
    with pytest.raises(ExpressionError, match="it takes too many steps"):
        expressions.evaluate("steps.look.result.rows.all(a, steps.look.result.rows.all(b, b.pid == 7))", SCOPE, long)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8))
@settings(max_examples=100, deadline=None)
def test_whatever_a_host_tells_is_a_value_or_an_error(told: object) -> None:
    """I8: no JSON value of a result crashes the controller."""
    lied = {**VALUES, "steps": {"look": {"outcome": told, "result": {"used_pct": told, "rows": [{"pid": told}]}}}}
    for text in (
        "steps.look.outcome == 'ok'",
        "steps.look.result.used_pct > 1.0",
        "steps.look.result.rows[0].pid == 7",
    ):
        try:
            expressions.evaluate(text, SCOPE, lied)
        except ExpressionError as error:
            assert "has no value" in str(error)


def test_parameters_are_filled_with_values() -> None:
    """Whole values and items of lists; what is empty leaves the action's parameter out."""
    given = {"older_than": "${params.age}", "names": ["x", "${host.name}"], "most": 5, "service": "${''}"}

    assert expressions.fill(given, SCOPE, VALUES) == {"older_than": 600, "names": ["x", "db1"], "most": 5}


@pytest.mark.parametrize("kind, value", [(Kind.INT, 1 << 53), (Kind.INT, -(1 << 53)), (Kind.NUMBER, 1e300)])
def test_a_number_that_no_journal_takes_is_no_parameter(kind: Kind, value: float) -> None:
    """A host that tells one fails its own step, and not the run of all."""
    scope = {"steps.look.result.n": kind}
    told = {"steps": {"look": {"result": {"n": value}}}}

    with pytest.raises(ExpressionError, match="wanted a number within"):
        expressions.fill({"most": "${steps.look.result.n}"}, scope, told)


@pytest.mark.parametrize("text", ["(" * 3000, "1" + "+1" * 1000, "a" * 3000, "\0", "\ud800", "", " "])
def test_an_endless_expression_is_refused(text: str) -> None:
    """Neither depth nor length reaches the engine's own limits."""
    with pytest.raises(ExpressionError):
        expressions.check(text, SCOPE)


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_no_text_crashes_the_engine(text: str) -> None:
    """Every text has a type or an error with a place."""
    try:
        assert expressions.check(text, SCOPE)
    except ExpressionError as error:
        assert error.line >= 1 and error.column >= 1


def test_the_names_that_matter_are_known() -> None:
    """What an expression depends on, so that a condition without any can be judged before a run."""
    assert expressions.names_in("params.age > 60 || size(params.names) > 1", SCOPE) == {"params.age", "params.names"}
    assert expressions.names_in("1 > 2", SCOPE) == frozenset()


def test_a_step_knows_what_came_before() -> None:
    """A host's step knows earlier results; a person's knows counts; a verification knows what its action tells."""
    runbook = checked(
        "params:\n  age: {type: duration, summary: how old, default: 10m}\n"
        "steps:\n"
        "  - {id: look, action: db.sessions, timeout: 9s}\n"
        "  - {id: person, manual: do it, timeout: 9s}\n"
        "  - id: stop\n    action: box.stop\n    timeout: 9s\n"
        "    verify: {action: db.sessions, until: result.count == 0, within: 5s}\n"
    )

    look, person, stop = (scopes.of_step(runbook, s.id, KNOWN.catalogue) for s in runbook.steps)
    assert "steps.look.outcome" not in look
    assert "fleet.look.not_ok" in person and not any(name.startswith(("steps.", "host.")) for name in person)
    assert stop["steps.look.result.used_pct"] == Kind.NUMBER
    assert scopes.of_verify(runbook, "stop", KNOWN.catalogue)["result.count"] == Kind.INT
