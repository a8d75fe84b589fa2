"""What is made of many hosts' answers, honest ones and others."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fireline_controller import analysis
from fireline_controller.analysis import fold, foldable, rows_as_objects


def times(values: list[int], **changed: Any) -> dict[str, Any]:
    """A host's answer about these response times."""
    ordered = sorted(values)
    histogram = [{"value": float(v), "count": values.count(v)} for v in sorted(set(values))]
    told = {
        "count": len(values),
        "not_numeric": 0,
        "average": sum(values) / len(values) if values else None,
        "p50": ordered[0] if values else None,
        "p95": ordered[-1] if values else None,
        "p99": ordered[-1] if values else None,
        "most": ordered[-1] if values else None,
        "histogram": histogram,
        "histogram_error_pct": 0.0,
        "is_complete": True,
    }
    return told | changed


def session(pid: int, age_s: float, **more: Any) -> dict[str, Any]:
    """A row about a session."""
    texts = dict.fromkeys(("application", "role", "state", "waits_for", "query"), "x")
    return {"pid": pid, "age_s": age_s, **texts, **more}


def test_percentiles_of_the_fleet_are_over_all_values() -> None:
    """Not the mean of the hosts' own: one slow host among many values is where it belongs."""
    table = fold("logs.response_times", {"web1": times(list(range(1, 100))), "web2": times([1000]), "web3": times([])})

    assert [row[0] for row in table.rows] == ["web1", "web2", "web3", "all together"]
    assert table.rows[-1] == ("all together", 100, 59.5, 50, 95, 99, 1000)
    assert table.notes[0] == "percentiles by nearest rank over 100 values"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 500), max_size=20), min_size=2, max_size=6))
def test_folded_percentiles_are_those_of_one_list(hosts: list[list[int]]) -> None:
    """However values are spread over hosts, together they rank as one list does."""
    together = sorted(value for values in hosts for value in values)
    table = fold("logs.response_times", {f"h{n}": times(values) for n, values in enumerate(hosts)})

    if together:
        assert table.rows[-1][4] == together[-(-len(together) * 95 // 100) - 1]
        assert table.rows[-1][1] == len(together)
    else:
        assert [row[0] for row in table.rows] == [f"h{n}" for n in range(len(hosts))]


def test_errors_are_by_the_hour_with_where_the_most_come_from() -> None:
    """Over hosts and logs; an unknown hour is a row of its own."""
    rows = [
        ("2026-05-01T10", "/a", 5),
        ("2026-05-01T11", "/a", 1),
        ("", "/b", 2),
    ]
    answer = {"rows": [{"hour": h, "source": s, "count": c} for h, s, c in rows]}
    table = fold("logs.errors", {"web1": answer, "web2": {"rows": answer["rows"][:1]}})

    assert table.rows == (
        ("unknown", 2, 1, "web1: /b", 2),
        ("2026-05-01T10", 10, 2, "web1: /a", 5),
        ("2026-05-01T11", 1, 1, "web1: /a", 1),
    )
    assert table.notes[0].startswith("13 lines on 2 hosts")


def test_lines_found_are_told_by_host() -> None:
    """With how many there are in all, and what a terminal must not get made visible."""
    row = {"source": "/a", "hour": "", "line": "pool \x1b[31m exhausted"}
    table = fold("logs.search", {"web1": {"matches": 7, "rows": [row]}, "web2": {"matches": 0, "rows": []}})

    assert table.rows == (("web1", "/a", "", "pool \\x1b[31m exhausted"),)
    assert table.notes == ("7 lines on 1 of 2 hosts, the newest 1 of them here",)


def test_sessions_of_all_hosts_stand_by_age() -> None:
    """The oldest first, whichever host it is on."""
    table = fold("postgres.long_running", {"db1": {"rows": [session(1, 5)]}, "db2": {"rows": [session(2, 50)]}})

    assert [row[:2] for row in table.rows] == [("db2", 2), ("db1", 1)]


def test_a_tree_keeps_its_shape() -> None:
    """Who waits is set in below who holds it up."""
    rows = [session(1, 9, depth=0), session(2, 5, depth=1), session(3, 1, depth=2)]
    table = fold("postgres.blocking", {"db1": {"rows": rows}})

    assert [row[1] for row in table.rows] == ["1", "  2", "    3"]
    assert table.notes == ("2 sessions wait for locks, on 1 of 1 hosts",)


def test_connections_name_the_fullest_server_first() -> None:
    """By share of its own limit."""
    row = {"application": "shop", "role": "app", "state": "idle", "count": 30}
    table = fold(
        "postgres.connections",
        {"db1": {"used": 3, "max": 100, "rows": []}, "db2": {"used": 38, "max": 40, "rows": [row]}},
    )

    assert table.rows == (("db2", "shop", "app", "idle", 30),)
    assert table.notes[0] == "db2: 38 of 40 connections (95.0 %)"
    assert next(rows_as_objects(table))["connections"] == 30


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({}, "count: wanted a count, found 'None'"),
        (times([1, 2], count=10**9), "histogram: wanted the 1000000000 values counted, found 2"),
        (times([1], p99="<script>"), "p99: wanted a number of at least 0, found '<script>'"),
        (times([1], most=float("nan")), "most: wanted a number"),
        (times([1], histogram=[{"value": -1.0, "count": 1}]), "histogram"),
        (times([1], histogram="no"), "histogram: wanted rows, found str"),
    ],
)
def test_a_host_that_answers_badly_is_left_out_and_named(answer: dict[str, Any], said: str) -> None:
    """The others' table is as without it."""
    table = fold("logs.response_times", {"bad": answer, "web1": times([5])})

    assert [row[0] for row in table.rows] == ["web1"]
    assert any(note.startswith("bad: its answer is not as it should be") for note in table.notes)
    assert said in table.notes[-1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
KEYS = st.sampled_from(
    ["rows", "sessions", "hour", "source", "count", "matches", "used", "max", "pid", "depth", "histogram", "value"]
)
ANSWER = st.dictionaries(KEYS, JSON | st.lists(st.dictionaries(KEYS, JSON, max_size=6), max_size=3), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(foldable()), ANSWER)
def test_no_answer_makes_the_fold_fail(action: str, answer: dict[str, Any]) -> None:
    """Any JSON at all is folded or named."""
    table = fold(action, {"web1": answer})

    assert all(len(row) == len(table.columns) for row in table.rows)
    assert table.rows or table.notes


def test_a_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is said."""
    monkeypatch.setattr(analysis, "MAX_ROWS", 2)
    table = fold("postgres.activity", {f"db{n}": {"sessions": [session(n, n)]} for n in range(5)})

    assert len(table.rows) == 2
    assert "3 rows more are left out" in table.notes
