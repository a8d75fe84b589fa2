"""Remove what builds left to be faster next time, where no build has used it for long."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from fireline_agent.remediation.action import Action, Change, Plan, Tools, Verified
from fireline_agent.remediation.container.aging import AGE, FREED, age_s
from fireline_agent.remediation.container.reaching import changing
from fireline_agent.remediation.container.selection import number
from fireline_wire.actions import ActionSpec, Risk

_PASSES: Final = 20  # an entry goes once those that build on it have gone


def gather(tools: Tools, params: Mapping[str, Any]) -> dict[str, Any]:
    """All entries of the cache with the time since their last use."""
    with changing(tools) as engine:
        told = engine.usage().get("BuildCache") or []
    return {
        "entries": [
            {
                "id": str(one.get("ID")),
                "age_s": age_s(str(one.get("LastUsedAt") or one.get("CreatedAt") or "")),
                "size_bytes": 0 if one.get("Shared") is True else number(one, "Size"),
                "in_use": one.get("InUse") is not False,
            }
            for one in told
            if isinstance(one, dict)
        ]
    }


def plan(facts: Mapping[str, Any], params: Mapping[str, Any]) -> Plan:
    """Remove the old ones, as one change: entries by the thousand mean nothing to a person."""
    old = [one for one in facts["entries"] if not one["in_use"] and one["age_s"] >= params["age"]]
    ids = sorted(one["id"] for one in old)
    freed = sum(one["size_bytes"] for one in old)
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()
    does = f"docker builder prune, {len(ids)} entries"
    changes = (Change("build cache", digest, does, {"ids": ids}, freed),) if ids else ()
    summary = f"remove {len(ids)} of {len(facts['entries'])} entries of the build cache, {freed >> 20} MiB"
    return Plan(summary, changes, result={"count": len(ids), "freed_bytes": freed})


def do(tools: Tools, change: Change, _params: Mapping[str, Any]) -> dict[str, Any]:
    """Remove each entry, those that nothing builds on first: the engine keeps the others until then."""
    freed, left = 0, list(change.data["ids"])
    with changing(tools) as engine:
        for _ in range(_PASSES):
            freed += sum(engine.prune_build_cache(entry) for entry in left)
            there = {str(one.get("ID")) for one in engine.usage().get("BuildCache") or []}
            before, left = len(left), [entry for entry in left if entry in there]
            tools.tell(f"{len(change.data['ids']) - len(left)} of {len(change.data['ids'])} entries removed")
            if not left or len(left) == before:
                break
    return {"freed_bytes": freed, "left": len(left)}


def verify(tools: Tools, plan: Plan, _params: Mapping[str, Any]) -> Verified:
    """Whether none of the entries is there any more; one that a newer build stands on stays, and is counted."""
    wanted = {entry for change in plan.changes for entry in change.data["ids"]}
    with changing(tools) as engine:
        left = wanted & {str(one.get("ID")) for one in engine.usage().get("BuildCache") or []}
    said = f"{len(wanted) - len(left)} of {len(wanted)} entries are gone"
    return Verified(len(left) < len(wanted), f"{said}; newer ones need the other {len(left)}" if left else said)


ACTION = Action(
    ActionSpec(
        "container.prune_build_cache",
        "Remove build cache that no build has used for long",
        Risk.DESTRUCTIVE,
        parameters=(AGE,),
        results=FREED,
        evidence=("docker_engine",),
        needs=("docker",),
    ),
    gather,
    plan,
    do,
    verify,
)
