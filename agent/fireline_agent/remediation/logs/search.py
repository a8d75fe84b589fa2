"""Lines of logs that hold a text or fit an expression: all counted, the newest told, with the lines around them."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from fireline_agent.hands import patterns
from fireline_agent.hands.log_files import Source
from fireline_agent.hands.printable import printable
from fireline_agent.hands.secrets import mask_text
from fireline_agent.remediation.action import Action, ActionError, Facts, Params, Plan, Tools
from fireline_agent.remediation.logs import hours, sources
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

_MAX_LINE: Final = 500  # bytes of a line that are told
_MAX_ANSWER: Final = 600_000  # characters of all of them
_ROW_ALONE: Final = 100  # characters of a row besides its texts
_MAX_CONTEXT: Final = 5


@dataclass
class _Row:
    """A line that was found. `missing`: lines after it that were not read yet."""

    source: str
    offset: int
    line: bytes
    before: list[bytes]
    after: list[bytes]
    missing: int

    def shown(self) -> dict[str, Any]:
        """As a row of the result."""
        return {
            "source": self.source,
            "offset": self.offset,
            "hour": hours.of_line(self.line),
            "line": _text(self.line),
            "before": [_text(line) for line in self.before],
            "after": [_text(line) for line in self.after],
        }


@dataclass
class Matches:
    """What was found: how many by log, and the newest rows of each."""

    find: patterns.Find
    context: int
    most: int
    counts: dict[str, int] = field(default_factory=dict)
    rows: dict[str, deque[_Row]] = field(default_factory=dict)
    _part: str = ""
    _passed: int = 0

    def look(self, source: Source, buffer: bytearray, begin: int, end: int) -> None:
        """Take a block of a log."""
        rows = self.rows.setdefault(source.name, deque(maxlen=self.most))
        if source.where != self._part:
            self._part, self._passed = source.where, 0
            for row in rows:
                row.missing = 0
        for row in rows:
            if row.missing:
                self._complete(row, buffer, begin, end)
        starts = self.find(buffer, begin, end)
        self.counts[source.name] = self.counts.get(source.name, 0) + len(starts)
        for start in starts[-self.most :]:
            stop = _line_end(buffer, start, end)
            before = _lines_before(buffer, start, self.context)
            offset = self._passed + start - begin
            row = _Row(source.name, offset, _cut(buffer, start, stop), before, [], self.context)
            self._complete(row, buffer, stop + 1, end)
            rows.append(row)
        self._passed += end - begin

    def newest(self) -> list[dict[str, Any]]:
        """The rows that are told: the last ones of the last logs, as many as fit into an answer."""
        told: list[dict[str, Any]] = []
        room = _MAX_ANSWER
        for row in reversed([row for rows in self.rows.values() for row in rows][-self.most :]):
            shown = row.shown()
            room -= sum(map(len, (shown["line"], *shown["before"], *shown["after"], row.source))) + _ROW_ALONE
            if room < 0:
                break
            told.insert(0, shown)
        return told

    def _complete(self, row: _Row, buffer: bytearray, place: int, end: int) -> None:
        while row.missing and place < end:
            stop = _line_end(buffer, place, end)
            row.after.append(_cut(buffer, place, stop))
            row.missing -= 1
            place = stop + 1


def _line_end(buffer: bytearray, start: int, end: int) -> int:
    stop = buffer.find(b"\n", start, end)
    return end if stop < 0 else stop


def _lines_before(buffer: bytearray, start: int, count: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count and start > 0:
        stop = start - 1
        start = buffer.rfind(b"\n", 0, stop) + 1
        found.insert(0, _cut(buffer, start, stop))
    return found


def _cut(buffer: bytearray, start: int, stop: int) -> bytes:
    return bytes(buffer[start : min(stop, start + _MAX_LINE)])


def _text(line: bytes) -> str:
    return mask_text(printable(line.rstrip(b"\r").decode(errors="backslashreplace"), limit=_MAX_LINE))


def _gather(tools: Tools, params: Params) -> Facts:
    found = Matches(_find(params), params["context"], params["most"])
    try:
        done = sources.read(tools, params, found.look, lines_before=params["context"])
    except patterns.BadPattern as error:
        raise ActionError(f"logs.search: {error}", reason="refused") from None
    return {**done.facts(), "rows": found.newest(), "counts": found.counts}


def _find(params: Params) -> patterns.Find:
    text, regex, is_case_ignored = params["text"], params["regex"], params["ignore_case"]
    if (text is None) == (regex is None):
        raise ActionError("logs.search: give either `text` or `regex`", reason="refused")
    if text is not None:
        return patterns.text([text], is_case_ignored=is_case_ignored)
    try:
        return patterns.expression(regex, is_case_ignored=is_case_ignored)
    except patterns.BadPattern as error:
        raise ActionError(f"logs.search: {error}", reason="refused") from None


def _plan(facts: Facts, params: Params) -> Plan:
    counts = {name: count for name, count in facts["counts"].items() if count}
    total = sum(counts.values())
    return Plan(
        f"{total} lines fit, in {len(counts)} of {facts['source_count']} logs",
        warnings=tuple(facts["problems"]),
        result={
            "matches": total,
            "rows": facts["rows"],
            "counts": [{"source": name, "count": count} for name, count in sorted(counts.items())][:200],
            **{result.name: facts[result.name] for result in sources.RESULTS},
        },
    )


ACTION: Final = Action(
    ActionSpec(
        "logs.search",
        "Find lines of logs that hold a text or fit an expression, with the lines around; secrets in them are masked",
        Risk.READ,
        (
            *sources.PARAMETERS,
            Parameter("text", Kind.TEXT, "what a line must hold, literally; the fastest"),
            Parameter("regex", Kind.TEXT, "or the regular expression (Python's, over bytes) that must fit in a line"),
            Parameter("ignore_case", Kind.BOOL, "in any case", default=False),
            Parameter("context", Kind.INT, "lines before and after each", default=0, most=_MAX_CONTEXT),
            Parameter("most", Kind.INT, "lines told, the newest; all are counted", default=100, least=1, most=1000),
        ),
        (
            Result("matches", Kind.INT, "lines that fit, all of them"),
            Result("rows", Kind.ROWS, "source, offset (bytes), hour, line, before, after; the newest of each log"),
            Result("counts", Kind.ROWS, "source, count"),
            *sources.RESULTS,
        ),
    ),
    _gather,
    _plan,
)
