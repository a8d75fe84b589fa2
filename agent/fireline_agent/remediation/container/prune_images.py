"""Remove images that no container uses: those without a name, or all."""

from collections.abc import Mapping
from typing import Any

from fireline_agent.hands.docker_changes import ChangingEngine
from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import Action, ActionError, Change, Plan, Tools, Verified
from fireline_agent.remediation.container.aging import AGE, FREED, age_s, age_since
from fireline_agent.remediation.container.reaching import changing, reading
from fireline_agent.remediation.container.selection import moment, number, part
from fireline_wire.actions import ActionSpec, Kind, Parameter, Risk

_NO_NAME = "<none>:<none>"


def gather(tools: Tools, params: Mapping[str, Any]) -> dict[str, Any]:
    """All images with their names, age, and whether a container has them."""
    with changing(tools) as engine:
        used = {str(one.get("ImageID")) for one in engine.containers()}
        listed = [one for one in engine.images() if isinstance(one, dict)]
        return {"images": [_image(engine, one, used) for one in listed], "containers": len(used)}


def _image(engine: ChangingEngine, listed: Mapping[str, Any], used: set[str]) -> dict[str, Any]:
    image = str(listed.get("Id"))
    tagged = str(part(engine.image(image), "Metadata").get("LastTagTime", ""))
    return {
        "id": image,
        "names": _names(listed),
        # When it came here matters, not when somebody built it.
        "age_s": age_s(tagged) if moment(tagged) else age_since(listed.get("Created")),
        "size_bytes": number(listed, "Size"),
        "is_used": image in used,
    }


def _names(listed: Mapping[str, Any]) -> list[str]:
    tags = listed.get("RepoTags")
    return sorted(str(tag) for tag in tags if tag != _NO_NAME) if isinstance(tags, list) else []


def plan(facts: Mapping[str, Any], params: Mapping[str, Any]) -> Plan:
    """Remove unused ones that are old enough; with a name only where all are asked for."""
    found = [
        one
        for one in sorted(facts["images"], key=lambda one: (one["names"], one["id"]))
        if not one["is_used"] and one["age_s"] >= params["age"] and (params["all"] or not one["names"])
    ]
    changes = tuple(
        Change(
            "image",
            f"{(name := printable(', '.join(one['names'])) or 'unnamed')} ({one['id'][:19]})",
            f"docker rmi {name if one['names'] else one['id'][:19]}",
            {"id": one["id"], "names": one["names"]},
            one["size_bytes"],
        )
        for one in found
    )
    freed = sum(one["size_bytes"] for one in found)
    warnings = ("to run one of these again it must be pulled or built again",) if params["all"] and found else ()
    summary = f"remove {len(found)} of {len(facts['images'])} images, at most {freed >> 20} MiB (shared layers stay)"
    return Plan(summary, changes, warnings, {"count": len(found), "freed_bytes": freed})


def do(tools: Tools, change: Change, _params: Mapping[str, Any]) -> dict[str, Any]:
    """Take every name off one, where its names are still those of the plan; with the last it goes."""
    with changing(tools) as engine:
        listed = [one for one in engine.images() if one.get("Id") == change.data["id"]]
        if not listed:
            raise ActionError(f"image {change.data['id'][:19]} is gone since this was planned", reason="not_found")
        names = _names(listed[0])
        if names != change.data["names"]:
            raise ActionError(
                f"image {change.data['id'][:19]} has other names than planned: {printable(', '.join(names)) or 'none'}"
            )
        for name in names or [change.data["id"]]:
            engine.remove_image(name)
    return {}


def verify(tools: Tools, plan: Plan, _params: Mapping[str, Any]) -> Verified:
    """Whether the engine knows none of them any more."""
    with reading(tools) as engine:
        left = {str(one.get("Id")) for one in engine.images()} & {change.data["id"] for change in plan.changes}
    return Verified(not left, f"{len(left)} are still there" if left else f"all {len(plan.changes)} are gone")


ACTION = Action(
    ActionSpec(
        "container.prune_images",
        "Remove images that no container uses",
        Risk.DESTRUCTIVE,
        parameters=(AGE, Parameter("all", Kind.BOOL, "also those with a name, not only left-over ones", False)),
        results=FREED,
        evidence=("docker_engine",),
        needs=("docker",),
    ),
    gather,
    plan,
    do,
    verify,
)
