"""The processes inside containers, as the host sees them: nothing is run in a container for it."""

from collections.abc import Mapping
from typing import Any, Final

from fireline_agent.hands.docker import Engine, EngineError
from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import Action, ActionError, Plan, Tools
from fireline_agent.remediation.container import usage
from fireline_agent.remediation.container.reaching import reading
from fireline_agent.remediation.container.selection import SELECTORS, Container, containers, inspected
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

# `comm` and not `args`: a command line may hold a password.
_COLUMNS: Final = "pid,ppid,user,pcpu,rss,etimes,comm"
_MOST: Final = 20_000  # processes of one answer that are looked at


def gather(tools: Tools, params: Mapping[str, Any]) -> dict[str, Any]:
    """The processes of every selected container that runs."""
    with reading(tools) as engine:
        running = [c for c in containers(inspected(engine, params)) if c.state in ("running", "paused")]
        if not running:
            raise ActionError("none of the selected containers runs", reason="not_found")
        return {"processes": [row for container in running for row in _rows(engine, container)]}


def plan(facts: Mapping[str, Any], params: Mapping[str, Any]) -> Plan:
    """The ones that use most first."""
    key = "cpu_percent" if params["by"] == "cpu" else "memory_bytes"
    rows = sorted(facts["processes"], key=lambda row: (-row[key], row["pid"]))
    names = {row["container"] for row in rows}
    told = f"{len(rows)} process{'es' * (len(rows) != 1)} in {len(names)} container{'s' * (len(names) != 1)}"
    if rows:
        first = rows[0]
        most = f"{first['name']} (process {first['pid']}) in {first['container']}"
        told += f"; most: {most} with {usage.in_words(first, key)}"
    return Plan(
        told,
        result={"processes": rows[: params["most"]], "count": len(rows)},
    )


def _rows(engine: Engine, container: Container) -> list[dict[str, Any]]:
    try:
        told = engine.top(container.id, columns=_COLUMNS).get("Processes")
    except EngineError as error:
        if error.reason != "http_status":
            raise
        return []  # it ended meanwhile
    found = told if isinstance(told, list) else []
    return [row for fields in found[:_MOST] if (row := _row(container, fields)) is not None]


def _row(container: Container, fields: Any) -> dict[str, Any] | None:
    """One line of `ps`; None where it is not of the shape that was asked for."""
    try:
        pid, parent, user, cpu, rss_kib, age_s, name = fields
        return {
            "container": container.title,
            "pid": int(pid),
            "parent": int(parent),
            "user": printable(str(user)),
            "cpu_percent": float(cpu),
            "memory_bytes": int(rss_kib) << 10,
            "age_s": int(age_s),
            "name": printable(str(name)),
        }
    except (TypeError, ValueError):
        return None


ACTION = Action(
    ActionSpec(
        "container.processes",
        "Show the processes inside containers by memory or CPU, with the host's process ids",
        Risk.READ,
        parameters=(
            *SELECTORS,
            Parameter("by", Kind.TEXT, "what to order by", "memory", choices=("memory", "cpu")),
            Parameter("most", Kind.INT, "how many to show", 50, least=1, most=2000),
        ),
        results=(
            Result("processes", Kind.ROWS, "container, pid, parent, user, CPU, memory, age and name; no command lines"),
            Result("count", Kind.INT, "processes in all"),
        ),
        needs=("docker",),
    ),
    gather,
    plan,
)
