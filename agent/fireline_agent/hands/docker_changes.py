"""Changes what a Docker Engine runs, through its API: a restart, a limit, a container made anew, something removed.

Each method is one request, bounded in time; none of them decides. Reading is docker's, whose engine this one is too.
Leaves to others: what is changed, and whether it still is what was planned.

Source: Docker Engine API 1.41.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands.docker import Engine, client_of

CHANGE_TIMEOUT_S: Final = 120.0  # a layer of many gigabytes takes its time to be removed, a full engine to answer
MOST_STOP_S: Final = 600  # what a container may be given to end by itself


class ChangingEngine(Engine):
    """An engine that may be changed. Every method raises EngineError, `http_status` where the engine refuses."""

    def start(self, container: str) -> None:
        """Start a container; one that runs stays as it is."""
        self._do(f"start {container[:12]}", lambda: self._client.start(container))

    def stop(self, container: str, *, within_s: int) -> None:
        """Ask a container to end, and end it after so many seconds; one that ended stays as it is."""
        self._do(f"stop {container[:12]}", lambda: self._client.stop(container, timeout=within_s))

    def restart(self, container: str, *, within_s: int) -> None:
        """Stop a container as `stop` does, and start it; a paused one goes on for it."""
        self._do(f"restart {container[:12]}", lambda: self._client.restart(container, timeout=within_s))

    def update(self, container: str, settings: Mapping[str, Any]) -> None:
        """Change limits or the restart policy of a container, by the API's own names; what is not named stays."""
        path = self._client._url("/containers/{0}/update", container)  # the SDK's own call lacks pids and CPUs
        self._do(f"update {container[:12]}", lambda: self._posted(path, settings))

    def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Make a container; returns its id. Never pulls: an image that is not here is refused."""
        made = self._ask(f"create {name}", lambda: self._client.create_container_from_config(config, name), dict)
        return str(made["Id"])

    def rename(self, container: str, name: str) -> None:
        """Give a container another name."""
        self._do(f"rename {container[:12]}", lambda: self._client.rename(container, name))

    def remove(self, container: str) -> None:
        """Remove a container that does not run, with its writable layer and log; its volumes stay."""
        self._do(f"remove {container[:12]}", lambda: self._client.remove_container(container))

    def join(self, container: str, network: str, endpoint: Mapping[str, Any]) -> None:
        """Put a container on a network, with an endpoint's settings by the API's own names."""
        path = self._client._url("/networks/{0}/connect", network)
        body = {"Container": container, "EndpointConfig": dict(endpoint)}
        self._do(f"connect {container[:12]}", lambda: self._posted(path, body))

    def leave(self, container: str, network: str) -> None:
        """Take a container off a network."""
        call = self._client.disconnect_container_from_network
        self._do(f"disconnect {container[:12]}", lambda: call(container, network))

    def image(self, image: str) -> dict[str, Any]:
        """All that the engine knows of an image, by id, name or digest."""
        return self._ask(f"image {image[:80]}", lambda: self._client.inspect_image(image), dict)

    def remove_image(self, image: str) -> None:
        """Take a name off an image, or remove one without any; never one that a container uses."""
        self._do(f"remove image {image[:80]}", lambda: self._client.remove_image(image))

    def volume(self, name: str) -> dict[str, Any]:
        """All that the engine knows of a volume."""
        return self._ask(f"volume {name[:80]}", lambda: self._client.inspect_volume(name), dict)

    def remove_volume(self, name: str) -> None:
        """Remove a volume with what it holds; refused by the engine where a container has it."""
        self._do(f"remove volume {name[:80]}", lambda: self._client.remove_volume(name))

    def usage(self) -> dict[str, Any]:
        """What takes how much space (`docker system df`): the engine walks through every volume for it."""
        return self._ask("disk usage", lambda: self._client.df(), dict)

    def prune_build_cache(self, entry: str) -> int:
        """Remove one entry of the build cache; returns the bytes that it gave back, 0 where another needs it."""
        call = self._client.prune_builds  # the engine takes one id at a time
        answer = self._ask(f"prune build cache {entry[:12]}", lambda: call(filters={"id": [entry]}, all=True), dict)
        freed = answer.get("SpaceReclaimed")
        return freed if isinstance(freed, int) else 0

    def create_network(self, settings: Mapping[str, Any]) -> str:
        """Make a network by the API's own names; returns its id."""
        path = self._client._url("/networks/create")
        what = f"create network {str(settings.get('Name'))[:80]}"
        return str(self._ask(what, lambda: json.loads(self._posted(path, settings)), dict)["Id"])

    def remove_network(self, network: str) -> None:
        """Remove a network; refused by the engine where a container is on it."""
        self._do(f"remove network {network[:12]}", lambda: self._client.remove_network(network))

    def _posted(self, path: str, body: Mapping[str, Any]) -> bytes:
        response = self._client._post_json(path, data=body)
        answer: bytes = self._client._result(response, binary=True)
        return answer


@contextmanager
def connect(path: Path, *, timeout_s: float = CHANGE_TIMEOUT_S) -> Iterator[ChangingEngine]:
    """Connect to an engine that is to be changed. `timeout_s` holds for each answer, besides what a stop may take.

    Raises:
        EngineAbsent, EngineError: as `docker.connect`.
    """
    with client_of(path, timeout_s=timeout_s) as client:
        yield ChangingEngine(path, client)
