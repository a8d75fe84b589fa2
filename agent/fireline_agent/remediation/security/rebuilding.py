"""The steps of a rebuild, each with its way back: stop, data, start anew, let traffic in.

Leaves to others: which containers, in which order, and what is agreed on (rebuild).
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands import unpacking
from fireline_agent.hands.docker import EngineError
from fireline_agent.hands.docker_changes import ChangingEngine
from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import ActionError, Change, Tools
from fireline_agent.remediation.compose.copying import config_of, other_networks
from fireline_agent.remediation.compose.recreate import aside, base_name, made_with
from fireline_agent.remediation.container.reaching import changing, current
from fireline_agent.remediation.container.selection import Container, part
from fireline_agent.remediation.container.waiting import until_well

UNPACK: Final = "backup"
STOP: Final = "stop"
SWAP: Final = "data"
START: Final = "container"
TRAFFIC: Final = "network"
_NEVER: Final = {"Name": "no"}
_STOP_S: Final = 10


def fresh_folder(tools: Tools, data: Path) -> Path:
    """Where a backup is unpacked: beside the data, on its file system."""
    return data.with_name(f"{data.name}.fireline-new-{_mark(tools)}")


def former_folder(tools: Tools, data: Path) -> Path:
    """Where the former data stays."""
    return data.with_name(f"{data.name}.fireline-old-{_mark(tools)}")


def _mark(tools: Tools) -> str:
    """Names what belongs to one application; a request id may hold any character."""
    return hashlib.sha256(tools.request_id.encode()).hexdigest()[:8]


def unpack(tools: Tools, change: Change) -> dict[str, Any]:
    """The backup, whole and with the right hash, before anything is stopped."""
    fresh = fresh_folder(tools, _data(tools, change))
    tools.tell(f"unpacking {change.data['backup']}")
    try:
        size = unpacking.unpack(change.data["place"], fresh, wanted_sha256=change.data["sha256"])
    except unpacking.BadArchive as error:
        raise ActionError(f"{printable(change.data['backup'])}: {printable(str(error), limit=500)}") from None
    except OSError as error:
        raise ActionError(
            f"{printable(change.data['backup'])}: {error.strerror or error}; nothing was changed"
        ) from None
    return {"fresh": str(fresh), "bytes": size}


def discard(kept: Mapping[str, Any]) -> str:
    """What was unpacked away, where it did not take the data's place."""
    unpacking.discard(Path(kept["fresh"]))
    return "what was unpacked is removed, or lies beside the data"


def stop(tools: Tools, change: Change, params: Mapping[str, Any]) -> dict[str, Any]:
    """Stop a container and put it aside under another name."""
    with changing(tools) as engine:
        old = current(engine, change.data["id"], change.data["name"])
        told = engine.inspect(change.data["id"])
        if made_with(told) != change.data["made_with"]:
            raise ActionError(f"{old.title} is set otherwise than when this was planned: plan again")
        if old.state == "paused":
            engine.unpause(old.id)
        engine.update(old.id, {"RestartPolicy": _NEVER})
        engine.stop(old.id, within_s=params["stop_timeout"])
        engine.rename(old.id, aside(old))
    return {"policy": dict(part(told, "HostConfig", "RestartPolicy")), "was_up": old.is_up}


def restart_old(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """The former container under its name again, and started where it ran."""
    name = base_name(change.data["name"])
    with changing(tools) as engine:
        current(engine, change.data["id"], name)
        engine.rename(change.data["id"], name)
        engine.update(change.data["id"], {"RestartPolicy": dict(kept["policy"])})
        if kept["was_up"]:
            engine.start(change.data["id"])
    return f"{printable(name)} is the former container again"


def swap(tools: Tools, change: Change) -> dict[str, Any]:
    """The unpacked backup in the place of the data, which stays beside it."""
    data = _data(tools, change)
    former = former_folder(tools, data)
    try:
        unpacking.swap(data, fresh_folder(tools, data), former)
    except OSError as error:
        raise ActionError(f"{data}: {error.strerror or error}") from None
    return {"former": str(former), "data": str(data)}


def swap_back(tools: Tools, kept: Mapping[str, Any]) -> str:
    """The former data again; what was restored, and written since, stays beside it."""
    data, former = Path(kept["data"]), Path(kept["former"])
    left = data.with_name(f"{data.name}.fireline-undone-{_mark(tools)}")
    try:
        unpacking.swap(data, former, left)
    except OSError as error:
        raise ActionError(f"{data}: {error.strerror or error}") from None
    return f"{data} holds the former data again; what was restored lies in {left}"


def start(tools: Tools, change: Change, params: Mapping[str, Any]) -> dict[str, Any]:
    """A container anew on its pinned image, off the network that brings traffic, until it is well."""
    name = base_name(change.data["name"])
    with changing(tools) as engine:
        told = engine.inspect(change.data["id"])
        config = config_of(
            _without(told, params["traffic"]), old_image=_image_of(engine, told), image=change.data["image"]
        )
        try:
            new = engine.create(name, config)
        except EngineError as error:
            raise ActionError(f"{printable(name)} can't be made: {error}") from None
        for network, endpoint in other_networks(told).items():
            engine.join(new, network, endpoint)
        tools.tell(f"{name} starts anew")
        engine.start(new)
        try:
            until_well(engine, new, name, within_s=params["wait"])
        except ActionError as error:
            engine.stop(new, within_s=_STOP_S)
            engine.remove(new)
            raise ActionError(f"{error}; it was taken away again, and no traffic reaches it") from None
    return {"new": new}


def remove_new(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """The new container away."""
    with changing(tools) as engine:
        if any(one.get("Id") == kept["new"] for one in engine.containers()):
            engine.stop(kept["new"], within_s=_STOP_S)
            engine.remove(kept["new"])
    return f"the new {printable(base_name(change.data['name']))} is removed"


def let_traffic_in(tools: Tools, change: Change, params: Mapping[str, Any]) -> dict[str, Any]:
    """The new container on the network that brings traffic, as the former one was on it."""
    name = base_name(change.data["name"])
    with changing(tools) as engine:
        endpoints = part(engine.inspect(change.data["id"]), "NetworkSettings", "Networks")
        former = part(endpoints, params["traffic"])
        aliases = [alias for alias in former.get("Aliases") or [] if alias != change.data["id"][:12]]
        kept = {key: former[key] for key in ("IPAMConfig", "Links", "DriverOpts") if former.get(key)}
        engine.join(name, params["traffic"], {**kept, **({"Aliases": aliases} if aliases else {})})
    return {"name": name}


def keep_traffic_out(tools: Tools, kept: Mapping[str, Any], params_network: str) -> str:
    """Off that network again, before anything else is taken back."""
    with changing(tools) as engine:
        engine.leave(kept["name"], params_network)
    return f"{printable(kept['name'])} is off {printable(params_network)}"


def _data(tools: Tools, change: Change) -> Path:
    """The folder of the data, still the one that was planned."""
    data = Path(change.data["folder"])
    try:
        found = data.stat(follow_symlinks=False)
    except OSError as error:
        raise ActionError(f"{data}: {error.strerror}") from None
    if [found.st_dev, found.st_ino] != change.data["identity"]:
        raise ActionError(f"{data} is another folder than was planned: plan again")
    return data


def _without(told: Mapping[str, Any], network: str) -> dict[str, Any]:
    """An inspection as if the container were not on a network; where it is on no other, as it is."""
    networks = dict(part(told, "NetworkSettings", "Networks"))
    if network not in networks or len(networks) == 1:
        return dict(told)
    del networks[network]
    host = dict(part(told, "HostConfig"))
    if host.get("NetworkMode") == network:
        host["NetworkMode"] = sorted(networks)[0]
    return {**told, "HostConfig": host, "NetworkSettings": {**part(told, "NetworkSettings"), "Networks": networks}}


def _image_of(engine: ChangingEngine, told: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return engine.image(str(told.get("Image")))
    except EngineError as error:
        if error.reason != "http_status":
            raise
        return {}


def well(engine: ChangingEngine, changes: tuple[Change, ...], network: str) -> list[str]:
    """What is not as it should be after all steps, a sentence each."""
    problems = []
    for change in changes:
        if change.kind not in (START, TRAFFIC):
            continue
        told = engine.inspect(base_name(change.data["name"]))
        now = Container.inspected(told)
        if change.kind == START and (told.get("Image") != change.data["image"] or now.replaces != change.data["id"]):
            problems.append(f"{now.title} is not the new one on its pinned image")
        elif change.kind == START and (now.state != "running" or now.health == "unhealthy"):
            problems.append(f"{now.title} is {now.state}, {now.health}")
        elif change.kind == TRAFFIC and network not in part(told, "NetworkSettings", "Networks"):
            problems.append(f"{now.title} is not on {network}")
    return problems
