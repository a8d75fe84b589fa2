"""Which containers use most memory or CPU now."""

from collections.abc import Mapping
from typing import Any

from fireline_agent.remediation.action import Action, Plan, Tools
from fireline_agent.remediation.container import usage
from fireline_agent.remediation.container.reaching import reading
from fireline_agent.remediation.container.selection import SELECTORS, containers, inspected, number, part
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk


def gather(tools: Tools, params: Mapping[str, Any]) -> dict[str, Any]:
    """What every selected container that runs uses."""
    with reading(tools) as engine:
        answers = inspected(engine, params, is_all_allowed=True)
        running = [c for c in containers(answers) if c.state in ("running", "paused")]
        counted = usage.twice(engine, running)
    limits = {str(answer.get("Id")): number(part(answer, "HostConfig"), "Memory") for answer in answers}
    return {
        "used": [
            {
                **container.row(),
                "memory_bytes": usage.memory_bytes(later),
                "memory_limit_bytes": limits[container.id],
                "cpu_percent": usage.cpu_percent(earlier, later),
                "pids": usage.pids(later),
                "restarts": container.restarts,
            }
            for container, (earlier, later) in zip(running, counted, strict=True)
        ]
    }


def plan(facts: Mapping[str, Any], params: Mapping[str, Any]) -> Plan:
    """The ones that use most first."""
    key = "cpu_percent" if params["by"] == "cpu" else "memory_bytes"
    rows = sorted(facts["used"], key=lambda row: (-row[key], row["name"]))
    total = sum(row["memory_bytes"] for row in rows)
    cpu = round(sum(row["cpu_percent"] for row in rows), 1)
    summary = f"{len(rows)} container{'s' * (len(rows) != 1)} run with {total >> 20} MiB and {cpu:g} % of a CPU in all"
    if rows:
        summary += f"; most: {rows[0]['name']} with {usage.in_words(rows[0], key)}"
    return Plan(
        summary,
        result={"containers": rows[: params["most"]], "count": len(rows), "memory_bytes": total, "cpu_percent": cpu},
    )


ACTION = Action(
    ActionSpec(
        "container.top",
        "Show which containers use most memory or CPU now",
        Risk.READ,
        parameters=(
            *SELECTORS,
            Parameter("by", Kind.TEXT, "what to order by", "memory", choices=("memory", "cpu")),
            Parameter("most", Kind.INT, "how many to show", 10, least=1, most=500),
        ),
        results=(
            Result("containers", Kind.ROWS, "name, id, state, memory, its limit (0: none), CPU, processes, restarts"),
            Result("count", Kind.INT, "containers that run"),
            Result("memory_bytes", Kind.SIZE, "memory of them all, without page cache that can be dropped"),
            Result("cpu_percent", Kind.NUMBER, "CPU of them all over a second; 100 is one CPU"),
        ),
        needs=("docker",),
    ),
    gather,
    plan,
)
