"""Remove containers that ended long ago, with their writable layers and logs. Volumes stay, named or not."""

from collections.abc import Mapping
from typing import Any

from fireline_agent.remediation.action import Action, ActionError, Change, Plan, Tools, Verified
from fireline_agent.remediation.container.aging import AGE, FREED, age_s
from fireline_agent.remediation.container.reaching import change_of, changing, planned, reading
from fireline_agent.remediation.container.selection import LABEL, PUT_ASIDE, Container, matches, number
from fireline_wire.actions import ActionSpec, Risk

_ENDED = ("created", "exited", "dead")


def gather(tools: Tools, params: Mapping[str, Any]) -> dict[str, Any]:
    """All containers that don't run, with their age and the size of their own layer."""
    asked = {"label": params["label"]} if params["label"] else {}
    with changing(tools) as engine:
        every = engine.containers(with_sizes=True)
        listed = [one for one in every if one.get("State") in _ENDED and matches(one, asked)]
        told = [engine.inspect(str(one["Id"])) for one in listed]
    sizes = {str(one["Id"]): number(one, "SizeRw") for one in listed}
    return {
        "containers": [
            {
                **(found := Container.inspected(one)).to_document(),
                "age_s": age_s(found.finished_at, str(one.get("Created", ""))),
                "size_bytes": sizes.get(found.id, 0),
            }
            for one in told
        ]
    }


def plan(facts: Mapping[str, Any], params: Mapping[str, Any]) -> Plan:
    """Remove those that are old enough. One that was put aside by a recreation is among them: its undo ends with it."""
    found = sorted(facts["containers"], key=lambda one: (one["name"], one["id"]))
    old = [(Container.from_document(one), one["size_bytes"]) for one in found if one["age_s"] >= params["age"]]
    changes = tuple(
        change_of(
            c,
            f"docker rm {c.title} ({c.state}, exit code {c.exit_code})",
            finished_at=c.finished_at,
            size_bytes=size,
        )
        for c, size in old
    )
    freed = sum(size for _, size in old)
    summary = f"remove {len(old)} of {len(found)} containers that don't run, {freed >> 20} MiB"
    aside = [c.title for c, _ in old if PUT_ASIDE in c.name]
    warnings = (f"put aside by a recreation, whose undo ends with it: {', '.join(aside)}",) if aside else ()
    return Plan(summary, changes, warnings, result={"count": len(old), "freed_bytes": freed})


def do(tools: Tools, change: Change, _params: Mapping[str, Any]) -> dict[str, Any]:
    """Remove one that has not run since."""
    with changing(tools) as engine:
        now = planned(engine, change)
        if now.is_up or now.finished_at != change.data["finished_at"]:
            raise ActionError(f"{now.title} ran since this was planned: it is {now.state}", reason="refused")
        engine.remove(change.data["id"])
    return {}


def verify(tools: Tools, plan: Plan, _params: Mapping[str, Any]) -> Verified:
    """Whether the engine knows none of them any more."""
    with reading(tools) as engine:
        left = {str(one.get("Id")) for one in engine.containers()} & {change.data["id"] for change in plan.changes}
    return Verified(not left, f"{len(left)} are still there" if left else f"all {len(plan.changes)} are gone")


ACTION = Action(
    ActionSpec(
        "container.prune_containers",
        "Remove containers that ended long ago; their volumes stay",
        Risk.DESTRUCTIVE,
        parameters=(AGE, LABEL),
        results=FREED,
        evidence=("docker_containers",),
        needs=("docker",),
    ),
    gather,
    plan,
    do,
    verify,
)
