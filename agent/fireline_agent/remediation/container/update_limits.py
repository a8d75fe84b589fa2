"""Set what containers may use of memory, swap, CPU and processes, without a restart."""

from collections.abc import Mapping
from typing import Any, Final

from fireline_agent.remediation.action import Action, ActionError, Change, Plan, Tools, Verified
from fireline_agent.remediation.container import limits, usage
from fireline_agent.remediation.container.reaching import change_of, changing, planned, reading
from fireline_agent.remediation.container.selection import ROWS, SELECTORS, Container, inspected, part
from fireline_wire.actions import ActionSpec, Kind, Parameter, Risk

_LEAST_MEMORY: Final = 6 << 20  # the engine takes no less
_GIVEN: Final = ("memory", "memory_swap", "cpus", "pids")
_FLAGS: Final = {
    "Memory": "--memory",
    "MemorySwap": "--memory-swap",
    "NanoCpus": "--nano-cpus",
    "CpuPeriod": "--cpu-period",
    "CpuQuota": "--cpu-quota",
    "PidsLimit": "--pids-limit",
}


def gather(tools: Tools, params: Mapping[str, Any]) -> dict[str, Any]:
    """The selected containers with their limits and what they use."""
    with reading(tools) as engine:
        answers = inspected(engine, params)
        found = [Container.inspected(answer) for answer in answers]
        counted = usage.stats_of(engine, [c for c in found if c.is_up])
    used = dict(zip((c.id for c in found if c.is_up), counted, strict=True))
    return {
        "containers": [
            {
                **container.to_document(),
                "limits": limits.former(part(answer, "HostConfig")),
                "memory_bytes": usage.memory_bytes(used.get(container.id, {})),
                "pids": usage.pids(used.get(container.id, {})),
            }
            for container, answer in zip(found, answers, strict=True)
        ]
    }


def plan(facts: Mapping[str, Any], params: Mapping[str, Any]) -> Plan:
    """Change those whose limits are not so already. Refuses what they already use more of, unless said."""
    if all(params[name] is None for name in _GIVEN):
        raise ActionError(f"say what to limit: {', '.join(_GIVEN)}", reason="refused")
    _check(params)
    changes, warnings = [], []
    for document in facts["containers"]:
        container = Container.from_document(document)
        asked = limits.wanted(params, document["limits"])
        if all(document["limits"][key] == value for key, value in asked.items()):
            continue
        over = _over(container, document, params)
        if over and not params["below_use"]:
            raise ActionError(f"{over}; set a higher limit, or below_use to do it all the same", reason="refused")
        warnings += [over] if over else []
        changes.append(_change(container, document["limits"], asked))
    result = {"containers": [Container.from_document(one).row() for one in facts["containers"]]}
    return Plan(
        f"change the limits of {len(changes)} container{'s' * (len(changes) != 1)}",
        tuple(changes),
        tuple(warnings),
        result,
    )


def _check(params: Mapping[str, Any]) -> None:
    memory, both = params["memory"], params["memory_swap"]
    if memory is not None and both is not None and both < memory:
        raise ActionError(f"memory_swap is memory and swap together: wanted at least {memory}, found {both}")
    if params["cpus"] is not None and params["cpus"] < 0.01:
        raise ActionError(f"cpus: wanted at least 0.01, found {params['cpus']:g}")


def _over(container: Container, document: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    """What it already uses more of; empty where nothing."""
    memory, pids = params["memory"], params["pids"]
    if memory is not None and document["memory_bytes"] > memory:
        used = document["memory_bytes"] >> 20
        return f"{container.title} uses {used} MiB, more than {memory >> 20} MiB: the kernel would kill in it"
    if pids is not None and document["pids"] > pids:
        return f"{container.title} has {document['pids']} processes, more than {pids}: it could start no other"
    return ""


def _change(container: Container, before: Mapping[str, int], asked: Mapping[str, int]) -> Change:
    command = " ".join(f"{_FLAGS[key]} {value}" for key, value in sorted(asked.items()))
    does = f"docker update {command} {container.title} (now: {limits.sentence(before)})"
    return change_of(container, does, before=dict(before), settings=dict(asked))


def do(tools: Tools, change: Change, _params: Mapping[str, Any]) -> dict[str, Any]:
    """Set one container's limits, where they still are what was planned on."""
    with changing(tools) as engine:
        planned(engine, change)
        now = limits.former(part(engine.inspect(change.data["id"]), "HostConfig"))
        if now != change.data["before"]:
            raise ActionError(
                f"the limits of {change.data['name']} are no longer what was planned on: found {limits.sentence(now)}"
            )
        engine.update(change.data["id"], change.data["settings"])
    return {"before": now}


def verify(tools: Tools, plan: Plan, _params: Mapping[str, Any]) -> Verified:
    """Whether the engine now says so, and all of them still run."""
    with reading(tools) as engine:
        now = [engine.inspect(change.data["id"]) for change in plan.changes]
    found = [limits.former(part(answer, "HostConfig")) for answer in now]
    wrong = [
        str(change.data["name"])
        for change, has in zip(plan.changes, found, strict=True)
        if any(has[key] != value for key, value in change.data["settings"].items())
    ]
    dead = [c.title for answer in now if (c := Container.inspected(answer)).state in ("exited", "dead")]
    if wrong or dead:
        return Verified(False, f"limits not as wanted: {', '.join(wrong) or 'none'}; down: {', '.join(dead) or 'none'}")
    told = "; ".join(f"{c.data['name']}: {limits.sentence(has)}" for c, has in zip(plan.changes, found, strict=True))
    return Verified(True, told[:1000])


def undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """Bring one container's former limits back."""
    with changing(tools) as engine:
        planned(engine, change)
        for settings in limits.way_back(change.data["settings"], kept["before"]):
            engine.update(change.data["id"], settings)
    return f"{change.data['name']} has {limits.sentence(kept['before'])} again"


ACTION = Action(
    ActionSpec(
        "container.update_limits",
        "Set what containers may use of memory, swap, CPU and processes, without a restart",
        Risk.DISRUPTIVE,
        parameters=(
            *SELECTORS,
            Parameter("memory", Kind.SIZE, "the most memory", least=_LEAST_MEMORY),
            Parameter(
                "memory_swap",
                Kind.SIZE,
                "the most memory and swap together; left out, as much as memory: no swap",
                least=_LEAST_MEMORY,
            ),
            Parameter("cpus", Kind.NUMBER, "the most CPUs, such as 1.5"),
            Parameter("pids", Kind.INT, "the most processes and threads", least=1),
            Parameter("below_use", Kind.BOOL, "also where more is used already: the kernel kills in it", False),
        ),
        results=(ROWS,),
        undo="sets the former limits; a memory limit where there was none becomes the kernel's highest",
        needs=("docker",),
    ),
    gather,
    plan,
    do,
    verify,
    undo,
)
