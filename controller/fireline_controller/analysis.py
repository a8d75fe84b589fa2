"""Folds what many hosts answered to one question about logs or databases into one table. Pure.

Everything here came from hosts: nothing of it is trusted to be of the right type, size or shape. A host whose answer
is not as it should be is left out and named; no answer of one host can change what is said of another.
Leaves to others: asking the hosts (engine), printing (cli).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fireline_wire.percentiles import nearest_ranks

MAX_ROWS: Final = 10_000  # of a table
_MAX_TEXT: Final = 600  # characters of a cell
_MAX_NUMBER: Final = 1e18
_PERCENTS: Final = (50, 95, 99)

Cell = str | int | float | None
Answers = Mapping[str, Mapping[str, Any]]  # result by host


class _Bad(ValueError):
    """An answer is not as it should be; the message says where."""


@dataclass(frozen=True)
class Table:
    """What all hosts said together. `notes` are sentences for below the table."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def fold(action: str, answers: Answers) -> Table:
    """The table of an action's answers.

    Raises:
        KeyError: it is no action whose answers can be folded.
    """
    columns, read, finish = _FOLDS[action]
    notes, found = [], []
    for host in sorted(answers):
        try:
            found.append((host, read(answers[host])))
        except _Bad as error:
            notes.append(f"{host}: its answer is not as it should be and was left out: {error}")
            continue
        if answers[host].get("is_complete") is False:
            notes.append(f"{host}: not everything was read")
    rows, more = finish(found)
    if len(rows) > MAX_ROWS:
        more = [*more, f"{len(rows) - MAX_ROWS} rows more are left out"]
    return Table(columns, tuple(rows[:MAX_ROWS]), (*more, *notes))


def foldable() -> tuple[str, ...]:
    """The actions whose answers can be folded."""
    return tuple(_FOLDS)


Found = Sequence[tuple[str, Any]]
Folded = tuple[list[tuple[Cell, ...]], Sequence[str]]


# --- reading what a host says ------------------------------------------------------------------------------------


def _rows(answer: Mapping[str, Any], name: str, **wanted: Callable[[Any], Cell]) -> list[tuple[Cell, ...]]:
    rows = answer.get(name)
    if not isinstance(rows, list):
        raise _Bad(f"{name}: wanted rows, found {type(rows).__name__}")
    return [_row(row, name, wanted) for row in rows[:MAX_ROWS]]


def _row(row: Any, name: str, wanted: Mapping[str, Callable[[Any], Cell]]) -> tuple[Cell, ...]:
    if not isinstance(row, dict):
        raise _Bad(f"{name}: wanted an object, found {type(row).__name__}")
    try:
        return tuple(_value(row, key, read) for key, read in wanted.items())
    except _Bad as error:
        raise _Bad(f"{name}: {error}") from None


def _value(answer: Mapping[str, Any], name: str, read: Callable[[Any], Cell]) -> Cell:
    try:
        return read(answer.get(name))
    except _Bad as error:
        raise _Bad(f"{name}: {error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Bad(f"wanted a text, found {type(value).__name__}")
    shown = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in value[:_MAX_TEXT])
    return shown if len(value) <= _MAX_TEXT else f"{shown}…"


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_NUMBER:
        raise _Bad(f"wanted a count, found {str(value)[:40]!r}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_NUMBER:
        raise _Bad(f"wanted a number of at least 0, found {str(value)[:40]!r}")
    return value


def _number_or_none(value: Any) -> float | None:
    return None if value is None else _number(value)


# --- logs --------------------------------------------------------------------------------------------------------


def _read_errors(answer: Mapping[str, Any]) -> list[tuple[Cell, ...]]:
    return _rows(answer, "rows", hour=_text, source=_text, count=_count)


def _finish_errors(found: Found) -> Folded:
    """By the hour: over all hosts, on how many of them, and where the most came from."""
    by_hour: dict[str, Counter[tuple[str, str]]] = {}
    for host, rows in found:
        for hour, source, count in rows:
            by_hour.setdefault(hour, Counter())[host, source] += count
    table: list[tuple[Cell, ...]] = []
    for hour, counts in sorted(by_hour.items()):
        (host, source), most = counts.most_common(1)[0]
        hosts = len({name for name, _ in counts})
        table.append((hour or "unknown", sum(counts.values()), hosts, f"{host}: {source}", most))
    total = sum(counts.total() for counts in by_hour.values())
    return table, [f"{total} lines on {len(found)} hosts; hours as the logs have them, in their own zones"]


def _read_search(answer: Mapping[str, Any]) -> tuple[int, list[tuple[Cell, ...]]]:
    matches = _count(answer.get("matches"))
    return matches, _rows(answer, "rows", source=_text, hour=_text, line=_text)


def _finish_search(found: Found) -> Folded:
    table: list[tuple[Cell, ...]] = [(host, *row) for host, (_, rows) in found for row in rows]
    matches = sum(count for _, (count, _) in found)
    hosts = sum(count > 0 for _, (count, _) in found)
    left_out = f", the newest {len(table)} of them here" if matches > len(table) else ""
    return table, [f"{matches} lines on {hosts} of {len(found)} hosts{left_out}"]


def _read_times(answer: Mapping[str, Any]) -> tuple[dict[str, Cell], dict[float, int]]:
    names = ("average", "p50", "p95", "p99", "most")
    told: dict[str, Cell] = {name: _value(answer, name, _number_or_none) for name in names}
    told |= {"count": _value(answer, "count", _count), "not_numeric": _value(answer, "not_numeric", _count)}
    told["error_pct"] = _value(answer, "histogram_error_pct", _number)
    histogram: Counter[float] = Counter()
    for value, count in _rows(answer, "histogram", value=_number, count=_count):
        histogram[float(value or 0)] += int(count or 0)
    if histogram.total() != told["count"]:
        raise _Bad(f"histogram: wanted the {told['count']} values counted, found {histogram.total()}")
    return told, dict(histogram)


def _finish_times(found: Found) -> Folded:
    """Each host as it said it, and all of them together, ranked over all values."""
    table: list[tuple[Cell, ...]] = []
    together: Counter[float] = Counter()
    error_pct, skipped, sums = 0.0, 0, []
    for host, (told, histogram) in found:
        table.append((host, *(told[name] for name in ("count", "average", "p50", "p95", "p99", "most"))))
        together.update(histogram)
        error_pct, skipped = max(error_pct, told["error_pct"]), skipped + told["not_numeric"]
        sums.append((told["average"] or 0) * told["count"])
    count = together.total()
    if len(found) > 1 and count:
        average, most = math.fsum(sums) / count, max((row[6] or 0 for row in table), key=float)
        table.append(("all together", count, average, *nearest_ranks(together, _PERCENTS), most))
    notes = [f"percentiles by nearest rank over {count} values"]
    if error_pct and len(found) > 1:
        notes[0] += f", of all together within {error_pct:g} %"
    if skipped:
        notes.append(f"{skipped} values are no numbers and were left out")
    return table, notes


# --- databases ---------------------------------------------------------------------------------------------------


def _session_rows(answer: Mapping[str, Any], name: str, **before: Callable[[Any], Cell]) -> list[tuple[Cell, ...]]:
    texts = dict.fromkeys(("application", "role", "state"), _text)
    return _rows(answer, name, **before, pid=_count, **texts, age_s=_number, waits_for=_text, query=_text)


def _finish_sessions(found: Found) -> Folded:
    table: list[tuple[Cell, ...]] = [(host, *row) for host, rows in found for row in rows]
    table.sort(key=lambda row: -float(row[5] or 0))
    return table, [f"{len(table)} sessions on {len(found)} hosts"]


def _read_blocking(answer: Mapping[str, Any]) -> list[tuple[Cell, ...]]:
    return _session_rows(answer, "rows", depth=_count)


def _finish_blocking(found: Found) -> Folded:
    """The tree of each host; who holds others up stands above and to the left of them."""
    table: list[tuple[Cell, ...]] = []
    for host, rows in found:
        for depth, pid, *rest in rows:
            table.append((host, "  " * min(int(depth), 20) + str(pid), *rest))
    blocked = sum(int(depth) > 0 for _, rows in found for depth, *_ in rows)
    return table, [
        f"{blocked} sessions wait for locks, on {sum(bool(rows) for _, rows in found)} of {len(found)} hosts"
    ]


def _read_connections(answer: Mapping[str, Any]) -> tuple[tuple[Cell, ...], list[tuple[Cell, ...]]]:
    limits = tuple(_value(answer, name, read) for name, read in (("used", _count), ("max", _count)))
    return limits, _rows(answer, "rows", application=_text, role=_text, state=_text, count=_count)


def _finish_connections(found: Found) -> Folded:
    table: list[tuple[Cell, ...]] = [(host, *row) for host, (_, rows) in found for row in rows]
    table.sort(key=lambda row: -int(row[4] or 0))
    full = sorted(((used / most if most else 0.0, host, used, most) for host, ((used, most), _) in found), reverse=True)
    return table, [f"{host}: {used} of {most} connections ({100 * share:.1f} %)" for share, host, used, most in full]


_SESSION: Final = ("host", "pid", "application", "role", "state", "age s", "waits for", "statement")
_Fold = tuple[tuple[str, ...], Callable[[Mapping[str, Any]], Any], Callable[[Found], Folded]]
_FOLDS: Final[Mapping[str, _Fold]] = {
    "logs.errors": (("hour", "lines", "hosts", "most from", "of them"), _read_errors, _finish_errors),
    "logs.search": (("host", "log", "hour", "line"), _read_search, _finish_search),
    "logs.response_times": (("host", "count", "average", "P50", "P95", "P99", "most"), _read_times, _finish_times),
    "postgres.activity": (_SESSION, lambda answer: _session_rows(answer, "sessions"), _finish_sessions),
    "postgres.long_running": (_SESSION, lambda answer: _session_rows(answer, "rows"), _finish_sessions),
    "postgres.blocking": (_SESSION, _read_blocking, _finish_blocking),
    "postgres.connections": (
        ("host", "application", "role", "state", "connections"),
        _read_connections,
        _finish_connections,
    ),
}


def rows_as_objects(table: Table) -> Iterator[dict[str, Cell]]:
    """The rows for `--json`, by column."""
    names = [column.lower().replace(" ", "_") for column in table.columns]
    return (dict(zip(names, row, strict=True)) for row in table.rows)
