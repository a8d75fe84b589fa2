"""How long requests took, by the log: average, P50, P95 and P99 by nearest rank, in one pass."""

import re
from typing import Any, Final

from fireline_agent.hands.log_files import Source
from fireline_agent.remediation.action import Action, Facts, Params, Plan, Tools
from fireline_agent.remediation.logs import sources
from fireline_agent.remediation.logs.tally import Tally
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

# What may stand between a name and its value in `name=1`, `name: 1`, `"name": 1`, `\"name\":\"1\"`; and the value.
_AFTER: Final = rb"""["'\\]{0,4}[ \t]{0,4}[=:]?[ \t]{0,4}["'\\]{0,4}([^\s,;"'\\}\])&]*)"""
# The line's last field, or nothing where the key stands in the last field itself.
_LAST: Final = rb"(?:[^\n]*[ \t]([^ \t\r\n]+)[ \t\r]*(?=\n|\Z))?[^\n]*"


def pattern(key: str, value: str) -> re.Pattern[bytes]:
    """Finds the value for each place of the key; an empty one where none is there."""
    return re.compile(re.escape(key.encode(errors="surrogateescape")) + (_AFTER if value == "after" else _LAST))


def _gather(tools: Tools, params: Params) -> Facts:
    find = pattern(params["key"], params["value"]).findall
    tally = Tally()

    def look(_source: Source, buffer: bytearray, begin: int, end: int) -> None:
        tally.add(find(buffer, begin, end))

    done = sources.read(tools, params, look)
    return {**done.facts(), **tally.facts()}


def _plan(facts: Facts, params: Params) -> Plan:
    result = {result.name: facts[result.name] for result in ACTION.spec.results}
    warnings = list(facts["problems"])
    if facts["not_numeric"]:
        warnings.append(f"{facts['not_numeric']} values of {params['key']} are no numbers and were left out")
    return Plan(_summary(facts, params), warnings=tuple(warnings), result=result)


def _summary(facts: Facts, params: Params) -> str:
    if not facts["count"]:
        return f"{params['key']}: not in {facts['source_count']} logs ({facts['read_bytes']} bytes)"
    shown: dict[str, Any] = {name: f"{facts[name]:.6g}" for name in ("average", "p50", "p95", "p99", "most")}
    words = ", ".join(f"{name} {value}" for name, value in shown.items())
    return f"{params['key']}: {facts['count']} values, {words}"


ACTION: Final = Action(
    ActionSpec(
        "logs.response_times",
        "Work out average, P50, P95 and P99 (nearest rank) of a value that stands in logs",
        Risk.READ,
        (
            *sources.PARAMETERS,
            Parameter("key", Kind.TEXT, "what stands before the value, literally", default="response_time"),
            Parameter(
                "value",
                Kind.TEXT,
                'the number after the key (`key=1`, `"key": 1`, `key 1`), or the last field of its line',
                default="after",
                choices=("after", "last"),
            ),
        ),
        (
            Result("count", Kind.INT, "values that are numbers"),
            Result("not_numeric", Kind.INT, "values that are none, left out"),
            Result("average", Kind.NUMBER, "none where count is 0; in ms where the log has units, else as it stands"),
            Result("p50", Kind.NUMBER, "half of all are at most this"),
            Result("p95", Kind.NUMBER, "95 % of all are at most this"),
            Result("p99", Kind.NUMBER, "99 % of all are at most this"),
            Result("least", Kind.NUMBER, "the smallest"),
            Result("most", Kind.NUMBER, "the largest"),
            Result("error_pct", Kind.NUMBER, "how far these may be off: 0, or 0.5 with over 200,000 different values"),
            Result("histogram", Kind.ROWS, "value, count: all of them, so that hosts add up; at most 5,000"),
            Result("histogram_error_pct", Kind.NUMBER, "how far a value of it may be off"),
            *sources.RESULTS,
        ),
    ),
    _gather,
    _plan,
)
