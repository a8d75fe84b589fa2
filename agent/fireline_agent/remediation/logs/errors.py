"""How often errors stand in logs, by hour and log, in one pass. By the hour, not the minute: lines carry seconds."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from fireline_agent.hands import patterns
from fireline_agent.hands.log_files import Source
from fireline_agent.remediation.action import Action, Facts, Params, Plan, Tools
from fireline_agent.remediation.logs import hours, sources
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

_MAX_ROWS: Final = 3000  # 10 logs over 12 days
_MAX_HEADS: Final = 100_000  # different first bytes of lines whose hour is remembered


@dataclass
class Hours:
    """Lines counted by (hour, log). An hour is worked out once for all lines that begin alike."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _known: dict[bytes, str] = field(default_factory=dict)

    def take(self, source: str, buffer: bytearray, starts: list[int], end: int) -> None:
        """Count the lines that begin at these places."""
        if len(self._known) > _MAX_HEADS:
            self._known.clear()
        view = memoryview(buffer)
        size = hours.HEAD_BYTES
        heads = Counter([view[start : start + size].tobytes() for start in starts])
        unclear = {head for head in heads if not self._is_clear(head)}
        for head, count in heads.items():
            if head not in unclear:
                self.counts[self._known[head], source] += count
        for start in starts if unclear else ():
            if view[start : start + size].tobytes() in unclear:
                line = view[start : min(end, start + 512)].tobytes().partition(b"\n")[0]
                self.counts[hours.of_line(line), source] += 1

    def _is_clear(self, head: bytes) -> bool:
        if head not in self._known:
            hour = hours.of_head(head)
            if hour is None:
                return False
            self._known[head] = hour
        return True


def _gather(tools: Tools, params: Params) -> Facts:
    starts = patterns.text(params["words"], is_case_ignored=params["ignore_case"])
    counted = Hours()

    def look(source: Source, buffer: bytearray, begin: int, end: int) -> None:
        found = starts(buffer, begin, end)
        if found:
            counted.take(source.name, buffer, found, end)

    done = sources.read(tools, params, look)
    rows = [{"hour": hour, "source": source, "count": n} for (hour, source), n in sorted(counted.counts.items())]
    return {**done.facts(), "rows": rows}


def _plan(facts: Facts, params: Params) -> Plan:
    rows = facts["rows"]
    by_hour: Counter[str] = Counter()
    for row in rows:
        by_hour[row["hour"]] += row["count"]
    total = sum(by_hour.values())
    worst = max(by_hour.items(), key=lambda one: one[1], default=None)
    left_out = rows[:-_MAX_ROWS] if len(rows) > _MAX_ROWS else []
    warnings = [*facts["problems"]]
    if left_out:
        warnings.append(f"{len(left_out)} older rows with {sum(row['count'] for row in left_out)} lines are left out")
    most = f", most in hour {worst[0] or 'unknown'}: {worst[1]}" if worst else ""
    return Plan(
        f"{total} lines with {' or '.join(params['words'])} in {facts['source_count']} logs{most}",
        warnings=tuple(warnings),
        result={
            "rows": rows[-_MAX_ROWS:],
            "total": total,
            "worst_hour": worst[0] if worst else "",
            "worst_count": worst[1] if worst else 0,
            "without_time": by_hour[hours.UNKNOWN],
            **{result.name: facts[result.name] for result in sources.RESULTS},
        },
    )


ACTION: Final = Action(
    ActionSpec(
        "logs.errors",
        "Count lines that hold an error, by hour and log",
        Risk.READ,
        (
            *sources.PARAMETERS,
            Parameter("words", Kind.TEXTS, "a line with one of these counts, once", default=["ERROR"]),
            Parameter("ignore_case", Kind.BOOL, "in any case", default=False),
        ),
        (
            Result("rows", Kind.ROWS, "hour (as 2026-05-01T14, in the log's own zone), source, count; at most 3,000"),
            Result("total", Kind.INT, "lines in all"),
            Result("worst_hour", Kind.TEXT, "the hour with the most"),
            Result("worst_count", Kind.INT, "lines in it"),
            Result("without_time", Kind.INT, "lines whose hour is not known"),
            *sources.RESULTS,
        ),
    ),
    _gather,
    _plan,
)
