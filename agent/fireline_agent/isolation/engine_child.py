"""One question to the Docker Engine, in a process of its own: its library is heavy, and its answers are untrusted.

Standard input: JSON with the socket and a verb. Standard output: JSON, with `error` in it where the engine says no.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands import docker

_SERVICE: Final = "com.docker.compose.service"
_PROJECT: Final = "com.docker.compose.project"
_MAX_CONTAINERS: Final = 1000
_MIN_ID: Final = 12  # characters of an id that may stand for the whole


def main() -> None:
    """Ask the one question and answer."""
    given = json.load(sys.stdin)
    try:
        with docker.connect(Path(given["socket"])) as engine:
            answer = _done(engine, given)
    except (docker.EngineError, docker.EngineAbsent) as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer))


def _done(engine: docker.Engine, given: Mapping[str, Any]) -> dict[str, Any]:
    if given["verb"] == "pause":
        engine.pause(given["id"])
    elif given["verb"] == "unpause":
        engine.unpause(given["id"])
    else:
        return {"containers": list(_found(engine, given["kind"], given["value"]))[:_MAX_CONTAINERS]}
    return {}


def _found(engine: docker.Engine, kind: str, value: str) -> Iterator[dict[str, Any]]:
    """The running containers that a scope selects. What is not of the wanted shape is left out."""
    for listed in engine.containers():
        if isinstance(listed, dict) and docker.is_id(listed.get("Id")) and _is_selected(listed, kind, value):
            inspected = engine.inspect(listed["Id"])
            state = inspected.get("State")
            if isinstance(state, dict) and state.get("Running") is True and isinstance(state.get("Pid"), int):
                yield {
                    "id": listed["Id"],
                    "name": _names(listed)[0][:200],
                    "pid": state["Pid"],
                    "is_paused": state.get("Paused") is True,
                    "rules_itself": _rules_itself(inspected.get("HostConfig")),
                }


def _is_selected(listed: Mapping[str, Any], kind: str, value: str) -> bool:
    if kind in ("container", "paused"):
        return value in _names(listed) or (len(value) >= _MIN_ID and str(listed["Id"]).startswith(value))
    labels = listed.get("Labels")
    if kind == "compose" and isinstance(labels, dict):
        service = str(labels.get(_SERVICE, ""))
        return value in (service, f"{labels.get(_PROJECT, '')}/{service}")
    return kind == "image" and value in (listed.get("Image"), listed.get("ImageID"))


def _rules_itself(settings: Any) -> bool:
    if not isinstance(settings, dict):
        return False
    added = settings.get("CapAdd")
    names = {str(name).upper().removeprefix("CAP_") for name in added} if isinstance(added, list) else set()
    return settings.get("Privileged") is True or bool(names & {"ALL", "NET_ADMIN"})


def _names(listed: Mapping[str, Any]) -> list[str]:
    names = listed.get("Names")
    found = [name.removeprefix("/") for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return found or [str(listed["Id"])[:_MIN_ID]]


if __name__ == "__main__":
    main()
