"""Make the containers of a Compose project anew, on images pinned by digest: what was changed inside is gone from them.

The old container is stopped, put aside under another name and kept until it is pruned, so that the undo can put it
back with its writable layer. The new one has the old one's settings, networks and volumes. Nothing is pulled.
"""

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from fireline_agent.hands.docker import EngineError
from fireline_agent.hands.docker_changes import ChangingEngine
from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import Action, ActionError, Change, Plan, Tools, Verified
from fireline_agent.remediation.compose.copying import config_of, other_networks
from fireline_agent.remediation.compose.scope import PROJECT, SERVICE, of_project
from fireline_agent.remediation.container import restarting
from fireline_agent.remediation.container.ordering import dependencies_first
from fireline_agent.remediation.container.reaching import change_of, changing, planned, reading
from fireline_agent.remediation.container.selection import PUT_ASIDE, Container, part
from fireline_agent.remediation.container.waiting import STOP_TIMEOUT, WAIT, until_well
from fireline_wire.actions import ActionSpec, Kind, Parameter, Risk

_NEW: Final = ".fireline-new"
_DIGEST: Final = re.compile(r"(^|@)sha256:[0-9a-f]{64}$")
_STOP_S: Final = 10  # what an undo gives the new one to end by itself
_START_S: Final = 60.0


def gather(tools: Tools, params: Mapping[str, Any]) -> dict[str, Any]:
    """The containers of the project, what each was made with (as a digest), and the images wanted for them."""
    with changing(tools) as engine:
        answers = of_project(engine, params)
        pinned = _pinned(engine, params["image"]) if params["image"] else ""
        modes = {str(part(one, "HostConfig").get("NetworkMode")) for one in engine.containers()}
    return {
        "containers": [
            {
                **Container.inspected(told).to_document(),
                "image_id": str(told.get("Image")),
                "wanted_image": pinned or str(told.get("Image")),
                "is_removed_when_stopped": part(told, "HostConfig").get("AutoRemove") is True,
                "is_shared": f"container:{told.get('Id')}" in modes,
                "made_with": made_with(told),
            }
            for told in answers
        ]
    }


def _pinned(engine: ChangingEngine, image: str) -> str:
    """The id of an image that is on this host."""
    try:
        return str(engine.image(image).get("Id"))
    except EngineError as error:
        if error.reason != "http_status":
            raise
        raise ActionError(
            f"image {printable(image)} is not on this host, and nothing is pulled: bring it here first",
            reason="not_found",
        ) from None


def made_with(told: Mapping[str, Any]) -> str:
    """A digest of the settings of a container; they hold secrets, so that they are in no plan themselves."""
    settings = {key: told.get(key) for key in ("Config", "HostConfig")}
    return sha256(json.dumps(settings, sort_keys=True).encode(errors="surrogateescape")).hexdigest()


def plan(facts: Mapping[str, Any], params: Mapping[str, Any]) -> Plan:
    """Make each anew, those that others depend on first."""
    _check(params)
    documents = {document["id"]: document for document in facts["containers"]}
    ordered, warnings = dependencies_first([Container.from_document(one) for one in documents.values()])
    for container in ordered:
        _refuse(container, documents[container.id])
    changes = tuple(_change(container, documents[container.id]) for container in ordered)
    result = {"containers": [c.row() for c in ordered], "count": len(ordered)}
    return Plan(f"make {len(ordered)} containers anew", changes, tuple(warnings), result)


def _check(params: Mapping[str, Any]) -> None:
    if params["image"] and not params["service"]:
        raise ActionError("an image is for one service: name it", reason="refused")
    if params["image"] and not _DIGEST.search(params["image"]):
        found = printable(params["image"])
        raise ActionError(
            f"image: wanted sha256:… or NAME@sha256:…, found {found}: a tag may be moved", reason="refused"
        )


def _refuse(container: Container, document: Mapping[str, Any]) -> None:
    if document["is_removed_when_stopped"]:
        raise ActionError(f"{container.title} is removed when it stops (--rm): it can't be put back", reason="refused")
    if document["is_shared"]:
        raise ActionError(
            f"another container shares the network of {container.title}: stop that first", reason="refused"
        )


def _change(container: Container, document: Mapping[str, Any]) -> Change:
    image = document["wanted_image"]
    # One that was made, and cut off before it took its place, was to run.
    was_up = container.is_up or container.name.endswith(_NEW)
    same = "the same image" if image == document["image_id"] else "another image"
    does = f"make {base_name(container.title)} anew on {image[:19]} ({same}), keep the old one as {aside(container)}"
    return change_of(container, does, image=image, made_with=document["made_with"], was_up=was_up)


def base_name(name: str) -> str:
    """The name without what an application that was cut off may have left on it."""
    return name.removesuffix(_NEW).partition(PUT_ASIDE)[0]


def aside(container: Container) -> str:
    """The name of one that is put aside."""
    return f"{base_name(container.name)}{PUT_ASIDE}-{container.id[:8]}"


def do(tools: Tools, change: Change, params: Mapping[str, Any]) -> dict[str, Any]:
    """Make one anew and start it in the old one's place; where it does not come up, put the old one back."""
    with changing(tools) as engine:
        old = planned(engine, change)
        told = engine.inspect(change.data["id"])
        if made_with(told) != change.data["made_with"]:
            raise ActionError(f"{old.title} was changed since this was planned")
        new = _made(engine, told, change, base_name(old.name) + _NEW)
        try:
            _put_aside(engine, old, within_s=params["stop_timeout"])
            engine.rename(new, base_name(old.name))
            if change.data["was_up"]:
                engine.start(new)
                tools.tell(f"{base_name(old.title)} made anew, waiting for it")
                until_well(engine, new, base_name(old.title), within_s=params["wait"])
        except (ActionError, EngineError) as error:
            raise _given_up(engine, change, new, told, error) from None
    return {"new": new, "policy": told["HostConfig"]["RestartPolicy"]}


def _given_up(
    engine: ChangingEngine, change: Change, new: str, told: Mapping[str, Any], error: Exception
) -> ActionError:
    """Put the old one back after an error; what to say of both."""
    try:
        _put_back(engine, change, new, policy=told["HostConfig"]["RestartPolicy"])
    except EngineError as again:
        old, kept = change.subject, f"{base_name(change.data['name'])}{PUT_ASIDE}-{change.data['id'][:8]}"
        return ActionError(f"the new one failed ({error}), and {old}, now {kept}, could not be put back: {again}")
    return ActionError(f"the new one failed and the old one is back: {error}")


def _made(engine: ChangingEngine, told: Mapping[str, Any], change: Change, name: str) -> str:
    for left in engine.containers():  # of an application that was cut off
        is_left = f"/{name}" in (left.get("Names") or []) and left.get("State") == "created"
        if is_left and left["Id"] != change.data["id"]:
            engine.remove(left["Id"])
    config = config_of(told, old_image=_image_of(engine, told), image=change.data["image"])
    if engine.inspect(change.data["id"])["Name"] == f"/{name}":
        engine.rename(change.data["id"], base_name(name) + PUT_ASIDE)
    new = engine.create(name, config)
    for network, endpoint in other_networks(told).items():
        engine.join(new, network, endpoint)
    return new


def _image_of(engine: ChangingEngine, told: Mapping[str, Any]) -> dict[str, Any]:
    """The image that a container was made of; one that is gone gave nothing that could be told apart."""
    try:
        return engine.image(str(told.get("Image")))
    except EngineError as error:
        if error.reason != "http_status":
            raise
        return {}


def _put_aside(engine: ChangingEngine, old: Container, *, within_s: int) -> None:
    if old.state == "paused":
        engine.unpause(old.id)
    engine.update(old.id, {"RestartPolicy": {"Name": "no"}})  # or the engine starts it again with itself
    engine.stop(old.id, within_s=within_s)
    engine.rename(old.id, aside(old))


def _put_back(engine: ChangingEngine, change: Change, new: str, *, policy: Mapping[str, Any]) -> None:
    engine.stop(new, within_s=_STOP_S)
    engine.remove(new)
    name = base_name(change.data["name"])
    if Container.inspected(engine.inspect(change.data["id"])).name != name:
        engine.rename(change.data["id"], name)
    engine.update(change.data["id"], {"RestartPolicy": dict(policy)})
    if change.data["was_up"]:
        engine.start(change.data["id"])


def verify(tools: Tools, plan: Plan, _params: Mapping[str, Any]) -> Verified:
    """Whether each name now stands for another container, on the image that was wanted, and runs where it ran."""
    with reading(tools) as engine:
        told = [engine.inspect(base_name(change.data["name"])) for change in plan.changes]
    bad = []
    for change, answer in zip(plan.changes, told, strict=True):
        now = Container.inspected(answer)
        if now.replaces != change.data["id"] or answer.get("Image") != change.data["image"]:
            bad.append(f"{now.title} is not the new one")
        elif change.data["was_up"] and (now.state != "running" or now.health == "unhealthy"):
            bad.append(f"{now.title} is {now.state}, {now.health}")
    sentence = "; ".join(bad) if bad else f"{len(told)} run anew on their pinned images"
    return Verified(not bad, sentence, {"containers": [Container.inspected(answer).row() for answer in told]})


def undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """Remove the new one and put the old one back in its place."""
    name = base_name(change.data["name"])
    with changing(tools) as engine:
        planned(engine, change)
        if any(one.get("Id") == kept["new"] for one in engine.containers()):
            _put_back(engine, change, kept["new"], policy=kept["policy"])
        if change.data["was_up"]:
            until_well(engine, change.data["id"], name, within_s=_START_S)
    return f"{printable(name)} is the former container again"


ACTION = Action(
    ActionSpec(
        "compose.recreate",
        "Make the containers of a Compose project or service anew on images pinned by digest; never pulls",
        Risk.DISRUPTIVE,
        parameters=(
            PROJECT,
            SERVICE,
            Parameter("image", Kind.TEXT, "the image of that service, by id or NAME@DIGEST; left out, the one it has"),
            STOP_TIMEOUT,
            WAIT,
        ),
        results=restarting.RESULTS,
        undo="puts the former container back, with what was written inside it, as long as nobody pruned it",
        needs=("docker",),
    ),
    gather,
    plan,
    do,
    verify,
    undo,
)
