"""Remove networks that no container needs, not even one that is stopped: that one could not be started again."""

from collections.abc import Mapping
from typing import Any, Final

from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import Action, ActionError, Change, Plan, Tools, Verified
from fireline_agent.remediation.container.aging import AGE, age_s
from fireline_agent.remediation.container.reaching import changing, reading
from fireline_agent.remediation.container.selection import part
from fireline_wire.actions import ActionSpec, Kind, Result, Risk

_BUILT_IN: Final = frozenset({"bridge", "host", "none", "ingress", "docker_gwbridge"})
# What makes a network what it is; the engine takes these names back when it is made again.
_SETTINGS: Final = ("Name", "Driver", "EnableIPv6", "IPAM", "Internal", "Attachable", "Options", "Labels")


def gather(tools: Tools, params: Mapping[str, Any]) -> dict[str, Any]:
    """All networks, and those that containers are on or want to be on."""
    with reading(tools) as engine:
        listed = [one for one in engine.networks() if isinstance(one, dict)]
        needed = {name for one in engine.containers() for name in _networks_of(one)}
        told = [engine.network(str(one.get("Id"))) for one in listed if one.get("Name") not in _BUILT_IN]
    return {
        "networks": [
            {
                "id": str(one.get("Id")),
                "age_s": age_s(str(one.get("Created", ""))),
                "is_needed": bool(one.get("Containers"))
                or {str(one.get("Id")), str(one.get("Name"))} & needed != set(),
                "is_ours": one.get("Scope") == "local",
                "settings": {name: one[name] for name in _SETTINGS if name in one},
            }
            for one in told
        ]
    }


def _networks_of(listed: Mapping[str, Any]) -> set[str]:
    networks = part(listed, "NetworkSettings", "Networks")
    mode = str(part(listed, "HostConfig").get("NetworkMode", ""))
    return {mode, *networks, *(str(part(one).get("NetworkID")) for one in networks.values())}


def plan(facts: Mapping[str, Any], params: Mapping[str, Any]) -> Plan:
    """Remove those of this host that are old enough and that nobody needs."""
    found = sorted(
        (one for one in facts["networks"] if one["is_ours"] and not one["is_needed"] and one["age_s"] >= params["age"]),
        key=lambda one: (str(one["settings"].get("Name")), str(one["id"])),
    )
    changes = tuple(
        Change(
            "network",
            f"{(name := printable(str(one['settings'].get('Name'))))} ({one['id'][:12]})",
            f"docker network rm {name}",
            {"id": one["id"], "settings": one["settings"]},
        )
        for one in found
    )
    return Plan(f"remove {len(found)} unused networks", changes, result={"count": len(found)})


def do(tools: Tools, change: Change, _params: Mapping[str, Any]) -> dict[str, Any]:
    """Remove one that is still there and still unused."""
    name = printable(str(change.data["settings"].get("Name")))
    with changing(tools) as engine:
        there = {str(one.get("Id")) for one in engine.networks()}
        if change.data["id"] not in there:
            raise ActionError(f"network {name} is gone since this was planned", reason="not_found")
        needed = {one for listed in engine.containers() for one in _networks_of(listed)}
        if {change.data["id"], str(change.data["settings"].get("Name"))} & needed:
            raise ActionError(f"network {name} is needed by a container since this was planned", reason="refused")
        engine.remove_network(change.data["id"])
    return {}


def verify(tools: Tools, plan: Plan, _params: Mapping[str, Any]) -> Verified:
    """Whether the engine knows none of them any more."""
    with reading(tools) as engine:
        left = {str(one.get("Id")) for one in engine.networks()} & {change.data["id"] for change in plan.changes}
    return Verified(not left, f"{len(left)} are still there" if left else f"all {len(plan.changes)} are gone")


def undo(tools: Tools, change: Change, _kept: Mapping[str, Any]) -> str:
    """Make one again with its settings; its id is another one."""
    settings = change.data["settings"]
    name = str(settings.get("Name"))
    with changing(tools) as engine:
        if name in {one.get("Name") for one in engine.networks()}:
            return f"network {printable(name)} is there again already"
        engine.create_network({**settings, "CheckDuplicate": True})
    return f"network {printable(name)} is made again"


ACTION = Action(
    ActionSpec(
        "container.prune_networks",
        "Remove networks that no container needs, running or not",
        Risk.REVERSIBLE,
        parameters=(AGE,),
        results=(Result("count", Kind.INT, "networks that are removed"),),
        undo="makes them again with the same name, addresses and options",
        needs=("docker",),
    ),
    gather,
    plan,
    do,
    verify,
    undo,
)
