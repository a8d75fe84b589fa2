"""Remove volumes that no container has. One that holds data is removed only where it is named."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import Action, ActionError, Change, Plan, Tools, Verified
from fireline_agent.remediation.container.aging import AGE, FREED, age_s
from fireline_agent.remediation.container.reaching import changing, reading
from fireline_agent.remediation.container.selection import number, part
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk, nearest


def gather(tools: Tools, params: Mapping[str, Any]) -> dict[str, Any]:
    """All volumes with their size by the engine's own count, and whether anything is in them."""
    with changing(tools) as engine:
        told = engine.usage().get("Volumes") or []
    return {"volumes": [_volume(tools, one) for one in told if isinstance(one, dict)]}


def _volume(tools: Tools, told: Mapping[str, Any]) -> dict[str, Any]:
    usage = part(told, "UsageData")
    size = number(usage, "Size") if "Size" in usage else -1
    return {
        "name": str(told.get("Name")),
        "created_at": str(told.get("CreatedAt", "")),
        "age_s": age_s(str(told.get("CreatedAt", ""))),
        "size_bytes": max(size, 0),
        # Of a volume of another driver the engine knows no size: that counts as data.
        "has_data": size != 0 or has_entries(tools, str(told.get("Mountpoint", ""))),
        "is_used": number(usage, "RefCount") != 0 or "RefCount" not in usage,
    }


def has_entries(tools: Tools, mountpoint: str) -> bool:
    """Whether a volume's folder holds as much as an empty file; False too where it can't be seen from here."""
    if not mountpoint.startswith("/"):
        return False
    with suppress(OSError), os.scandir(tools.roots.root / Path(mountpoint).relative_to("/")) as entries:
        return next(entries, None) is not None
    return False


def plan(facts: Mapping[str, Any], params: Mapping[str, Any]) -> Plan:
    """Remove unused ones that are old enough and empty, and those with data that were named."""
    named = _named(facts, params)
    free = [one for one in facts["volumes"] if not one["is_used"] and one["age_s"] >= params["age"]]
    found = sorted(
        (one for one in free if not one["has_data"] or one["name"] in named), key=lambda one: str(one["name"])
    )
    kept = sorted(printable(one["name"]) for one in free if one["has_data"] and one["name"] not in named)
    young = sorted(name for name in named if name not in {one["name"] for one in found})
    warnings = [f"holds data and is kept unless named in with_data: {', '.join(kept[:50])}"] if kept else []
    warnings += [f"named, but younger than asked for: {printable(', '.join(young))}"] if young else []
    freed = sum(one["size_bytes"] for one in found)
    return Plan(
        f"remove {len(found)} of {len(facts['volumes'])} volumes, {freed >> 20} MiB",
        tuple(_change(one) for one in found),
        tuple(warnings),
        {"count": len(found), "freed_bytes": freed, "kept_with_data": len(kept)},
    )


def _named(facts: Mapping[str, Any], params: Mapping[str, Any]) -> set[str]:
    known = {one["name"]: one for one in facts["volumes"]}
    for name in params["with_data"]:
        if name not in known:
            raise ActionError(f"no volume {printable(name)!r}; {nearest(name, known)}", reason="not_found")
        if known[name]["is_used"]:
            raise ActionError(f"volume {printable(name)} is in use by a container: remove that first", reason="refused")
    return set(params["with_data"])


def _change(one: Mapping[str, Any]) -> Change:
    holds = "WITH ITS DATA" if one["has_data"] else "empty"
    return Change(
        "volume",
        f"{printable(one['name'])} of {one['created_at']}",
        f"docker volume rm {printable(one['name'])} ({holds})",
        {"name": one["name"], "created_at": one["created_at"], "has_data": one["has_data"]},
        one["size_bytes"],
    )


def do(tools: Tools, change: Change, _params: Mapping[str, Any]) -> dict[str, Any]:
    """Remove one that is still the same, unused, and as empty as planned."""
    name = change.data["name"]
    with changing(tools) as engine:
        there = {str(one.get("Name")): one for one in engine.volumes().get("Volumes") or []}.get(name, {})
        if not change.data["has_data"] and has_entries(tools, str(there.get("Mountpoint", ""))):
            raise ActionError(f"volume {printable(name)} was empty when planned and holds data now", reason="refused")
        # What the engine calls the creation is the last change of the volume's own folder.
        if there.get("CreatedAt") != change.data["created_at"]:
            raise ActionError(f"volume {printable(name)} is gone, made anew or changed since this was planned")
        engine.remove_volume(name)
    return {}


def verify(tools: Tools, plan: Plan, _params: Mapping[str, Any]) -> Verified:
    """Whether the engine knows none of them any more."""
    with reading(tools) as engine:
        there = {str(one.get("Name")) for one in engine.volumes().get("Volumes") or []}
    left = there & {change.data["name"] for change in plan.changes}
    return Verified(not left, f"{len(left)} are still there" if left else f"all {len(plan.changes)} are gone")


ACTION = Action(
    ActionSpec(
        "container.prune_volumes",
        "Remove volumes that no container has; never one that holds data unless that very volume is named",
        Risk.DESTRUCTIVE,
        parameters=(
            AGE,
            Parameter("with_data", Kind.TEXTS, "names of volumes that may go with the data in them", ()),
        ),
        results=(*FREED, Result("kept_with_data", Kind.INT, "unused volumes that are kept for the data in them")),
        evidence=("docker_engine",),
        needs=("docker",),
    ),
    gather,
    plan,
    do,
    verify,
)
