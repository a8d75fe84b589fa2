"""security.rebuild: the containers of a project anew from pinned images, its data from a backup, traffic last of all.

The backup is unpacked and its hash compared before anything stops. Then all stop, those that depend on others first;
the data is exchanged; each container is made anew on an image pinned by digest and must be well before the next; and
only then do they join the network that brings traffic. The former containers and data stay beside, for the undo.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands import places
from fireline_agent.hands.docker import EngineError
from fireline_agent.hands.docker_changes import ChangingEngine
from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import Action, ActionError, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.compose.recreate import aside, base_name, made_with
from fireline_agent.remediation.compose.scope import PROJECT, SERVICE, of_project
from fireline_agent.remediation.container.ordering import dependencies_first
from fireline_agent.remediation.container.reaching import changing
from fireline_agent.remediation.container.selection import ROWS, Container, part
from fireline_agent.remediation.container.waiting import STOP_TIMEOUT, WAIT
from fireline_agent.remediation.security import rebuilding
from fireline_wire.actions import ActionSpec, Kind, Parameter, Risk

_PIN: Final = re.compile(r"(?P<service>[A-Za-z0-9][\w.-]{0,100})=(?P<image>(?:\S{1,300}@)?sha256:[0-9a-f]{64})\Z")
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
_VOLUME: Final = re.compile(r"volume:([A-Za-z0-9][\w.-]{0,200})\Z")


def gather(tools: Tools, params: Params) -> Facts:
    """The containers, the images wanted for them, the data's folder and the backup."""
    pins = _pins(params["images"])
    with changing(tools) as engine:
        answers = of_project(engine, params)
        containers = [_container(engine, told, pins, params["traffic"]) for told in answers]
        data = _data(tools, engine, params) if params["backup"] else None
        if params["traffic"]:
            _require_network(engine, params["traffic"])
    unknown = sorted(set(pins) - {c["service"] for c in containers})
    return {"containers": containers, "data": data, "unknown_pins": unknown}


def plan(facts: Facts, params: Params) -> Plan:
    """Unpack, stop, exchange, start, let in."""
    documents = {one["id"]: one for one in facts["containers"]}
    ordered, warnings = dependencies_first([Container.from_document(one) for one in documents.values()])
    if facts["unknown_pins"]:
        raise ActionError(f"images: no service {', '.join(facts['unknown_pins'])} is here", reason="not_found")
    for container in ordered:
        if documents[container.id]["is_removed_when_stopped"]:
            raise ActionError(
                f"{container.title} is removed when it stops (--rm): it can't be rebuilt", reason="refused"
            )
    changes = [
        *_unpacked(facts["data"]),
        *(_stop(container, documents[container.id]) for container in reversed(ordered)),
        *_swapped(facts["data"]),
        *(_start(container, documents[container.id]) for container in ordered),
        *(_let_in(c, params["traffic"]) for c in ordered if documents[c.id]["may_be_held"]),
    ]
    warnings += _warnings(ordered, documents, facts, params)
    restored = f", restore {facts['data']['title']} from {printable(params['backup'])}" if facts["data"] else ""
    summary = f"rebuild {len(ordered)} containers of {printable(params['project'])}{restored}"
    return Plan(summary, tuple(changes), tuple(warnings), {"containers": [c.row() for c in ordered]})


def do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    """One step."""
    if change.kind == rebuilding.UNPACK:
        return rebuilding.unpack(tools, change)
    if change.kind == rebuilding.STOP:
        return rebuilding.stop(tools, change, params)
    if change.kind == rebuilding.SWAP:
        return rebuilding.swap(tools, change)
    if change.kind == rebuilding.START:
        return rebuilding.start(tools, change, params)
    return rebuilding.let_traffic_in(tools, change, params)


def verify(tools: Tools, plan_: Plan, params: Params) -> Verified:
    """All run anew on their pinned images and are well; those that were held have traffic."""
    with changing(tools) as engine:
        problems = rebuilding.well(engine, plan_.changes, params["traffic"] or "")
        names = [base_name(c.data["name"]) for c in plan_.changes if c.kind == rebuilding.START]
        rows = [Container.inspected(engine.inspect(name)).row() for name in names]
    sentence = "; ".join(problems) or f"{len(rows)} containers run anew on their pinned images and are well"
    return Verified(not problems, sentence, {"containers": rows})


def undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """One step back."""
    if change.kind == rebuilding.UNPACK:
        return rebuilding.discard(kept)
    if change.kind == rebuilding.STOP:
        return rebuilding.restart_old(tools, change, kept)
    if change.kind == rebuilding.SWAP:
        return rebuilding.swap_back(tools, kept)
    if change.kind == rebuilding.START:
        return rebuilding.remove_new(tools, change, kept)
    return rebuilding.keep_traffic_out(tools, kept, change.data["network"])


def _pins(images: list[str]) -> dict[str, str]:
    found = {}
    for entry in images:
        match = _PIN.match(entry)
        if match is None:
            wanted = "SERVICE=NAME@sha256:… or SERVICE=sha256:… (a tag may be moved)"
            raise ActionError(f"images: wanted {wanted}, found {printable(entry, limit=100)}", reason="refused")
        found[match["service"]] = match["image"]
    return found


def _container(
    engine: ChangingEngine, told: dict[str, Any], pins: Mapping[str, str], traffic: str | None
) -> dict[str, Any]:
    found = Container.inspected(told)
    wanted = _image_id(engine, pins[found.service]) if found.service in pins else str(told.get("Image"))
    networks = part(told, "NetworkSettings", "Networks")
    return {
        **found.to_document(),
        "image_id": str(told.get("Image")),
        "wanted_image": wanted,
        "is_removed_when_stopped": part(told, "HostConfig").get("AutoRemove") is True,
        "made_with": made_with(told),
        "networks": sorted(networks),
        "may_be_held": traffic in networks and len(networks) > 1,
    }


def _image_id(engine: ChangingEngine, image: str) -> str:
    try:
        return str(engine.image(image).get("Id"))
    except EngineError as error:
        if error.reason != "http_status":
            raise
        raise ActionError(
            f"image {printable(image)} is not on this host, and nothing is pulled: bring it here first",
            reason="not_found",
        ) from None


def _require_network(engine: ChangingEngine, name: str) -> None:
    known = [str(n.get("Name")) for n in engine.networks() if isinstance(n, dict)]
    if name not in known:
        raise ActionError(f"traffic: no network {printable(name)}; there are {printable(', '.join(known))}")


def _data(tools: Tools, engine: ChangingEngine, params: Params) -> dict[str, Any]:
    """The backup and the folder that it goes to, by their identities."""
    if not _SHA256.match(params["backup_sha256"] or ""):
        raise ActionError("backup_sha256: wanted the backup's SHA-256, 64 hexadecimal digits", reason="refused")
    if not tools.allows_reading(params["backup"]):
        raise ActionError(
            f"backup: this host's policy does not allow {printable(params['backup'])} to be read (`paths`)",
            reason="denied",
        )
    folder = _folder(engine, params["restore_to"] or "")
    backup = str(tools.roots.root / params["backup"].lstrip("/"))
    try:
        found = places.look(backup)
        place = Path(folder).stat(follow_symlinks=False)
    except OSError as error:
        raise ActionError(f"backup: {printable(str(error), limit=300)}", reason="refused") from None
    if found is None:
        raise ActionError(f"backup: {printable(params['backup'])} is not there", reason="not_found")
    if not tools.allows_path(folder):
        raise ActionError(f"{folder}: this host's policy does not let actions change it (`writable`)", reason="denied")
    return {
        "title": params["restore_to"],
        "folder": folder,
        "identity": [place.st_dev, place.st_ino],
        "backup": params["backup"],
        "place": backup,
        "backup_bytes": found.st_size,
        "sha256": params["backup_sha256"],
    }


def _folder(engine: ChangingEngine, target: str) -> str:
    volume = _VOLUME.match(target)
    if volume is None:
        raise ActionError(f"restore_to: wanted volume:NAME, found {printable(target, limit=100)!r}", reason="refused")
    try:
        told = engine.volume(volume[1])
    except EngineError as error:
        if error.reason != "http_status":
            raise
        raise ActionError(f"restore_to: there is no volume {volume[1]}", reason="not_found") from None
    if told.get("Driver") != "local" or told.get("Options"):
        raise ActionError(f"restore_to: volume {volume[1]} is no plain local one: restore it by hand", reason="refused")
    return str(told.get("Mountpoint"))


def _unpacked(data: Mapping[str, Any] | None) -> list[Change]:
    if data is None:
        return []
    does = f"unpack {data['backup']} beside {data['title']}, compare its SHA-256"
    subject = f"{data['backup']} (SHA-256 {data['sha256']})"
    return [Change(rebuilding.UNPACK, subject, does, _bound(data), data["backup_bytes"])]


def _swapped(data: Mapping[str, Any] | None) -> list[Change]:
    if data is None:
        return []
    does = f"put it in the place of what is in {data['title']}, which stays beside it"
    return [Change(rebuilding.SWAP, str(data["title"]), does, _bound(data))]


def _bound(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: data[key] for key in ("folder", "identity", "backup", "place", "sha256")}


def _stop(container: Container, document: Mapping[str, Any]) -> Change:
    data = {"id": container.id, "name": container.name, "made_with": document["made_with"]}
    does = f"stop {container.title}, keep it as {aside(container)}"
    return Change(rebuilding.STOP, _subject(container), does, data)


def _start(container: Container, document: Mapping[str, Any]) -> Change:
    image = document["wanted_image"]
    same = "the same image" if image == document["image_id"] else "another image"
    does = f"make {base_name(container.title)} anew on {image[:19]} ({same}), wait until it is well"
    data = {"id": container.id, "name": container.name, "image": image}
    return Change(rebuilding.START, _subject(container), does, data)


def _let_in(container: Container, network: str) -> Change:
    does = f"docker network connect {network} {base_name(container.title)}"
    data = {"id": container.id, "name": container.name, "network": network}
    return Change(rebuilding.TRAFFIC, _subject(container), does, data)


def _subject(container: Container) -> str:
    return f"{container.title} ({container.id[:12]})"


def _warnings(
    ordered: list[Container], documents: Mapping[str, Mapping[str, Any]], facts: Facts, params: Params
) -> list[str]:
    found = []
    same = [c.title for c in ordered if documents[c.id]["wanted_image"] == documents[c.id]["image_id"]]
    if same:
        found.append(f"on the image that they have, by its id: {', '.join(same)}; name another if that is suspect")
    if facts["data"] is None:
        found.append("no backup is named: the volumes stay as they are, with whatever was written to them")
    else:
        found.append("what was written since the backup is not in the restored data")
    if params["traffic"]:
        at_once = [c.title for c in ordered if _is_only_on(documents[c.id], params["traffic"])]
        if at_once:
            found.append(f"on no other network, so that traffic reaches them as they start: {', '.join(at_once)}")
    return found


def _is_only_on(document: Mapping[str, Any], network: str) -> bool:
    return list(document["networks"]) == [network]


ACTION: Final = Action(
    ActionSpec(
        "security.rebuild",
        "Make a project's containers anew from pinned images, restore its data from a backup, and let traffic in last",
        Risk.DESTRUCTIVE,
        (
            PROJECT,
            SERVICE,
            Parameter("images", Kind.TEXTS, "SERVICE=NAME@DIGEST for each that gets another image; never pulled", ()),
            Parameter("backup", Kind.PATH, "a tar archive (also gzip, bzip2, xz) of the data, on this host"),
            Parameter("backup_sha256", Kind.TEXT, "what the backup must hash to"),
            Parameter("restore_to", Kind.TEXT, "where the data goes: volume:NAME; what is there stays beside it"),
            Parameter("traffic", Kind.TEXT, "the network that brings traffic: joined last, when all are well"),
            STOP_TIMEOUT,
            WAIT,
        ),
        (ROWS,),
        evidence=("processes", "executables", "docker_containers"),
        undo="the former containers and data are put back; they stay beside the new ones until they are removed",
        needs=("docker",),
    ),
    gather,
    plan,
    do,
    verify,
    undo,
)
