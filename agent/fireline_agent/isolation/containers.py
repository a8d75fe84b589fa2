"""Which containers a scope selects, and pausing them: asked of the engine in a short child process. Blocking."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands.process import run_module
from fireline_agent.isolation.means import MeansError
from fireline_wire.isolation import Scope

_CHILD: Final = "fireline_agent.isolation.engine_child"
_CHILD_S: Final = 20.0


@dataclass(frozen=True)
class Container:
    """A running container; `pid` is its first process."""

    id: str
    name: str
    pid: int
    is_paused: bool
    # It has the capability to change the rules of its own network.
    rules_itself: bool = False

    @property
    def namespace(self) -> str:
        """What opens its network namespace."""
        return f"/proc/{self.pid}/ns/net"


@dataclass(frozen=True)
class Containers:
    """The engine behind a socket. Every method raises MeansError."""

    socket: Path

    def selected(self, scope: Scope) -> list[Container]:
        """The running containers that a scope selects, by name."""
        answer = self._ask({"verb": "find", "kind": scope.kind, "value": scope.value})
        found = [Container(**container) for container in answer["containers"]]
        return sorted(found, key=lambda container: (container.name, container.id))

    def pause(self, container_id: str) -> None:
        """Stop a container's processes where they stand."""
        self._ask({"verb": "pause", "id": container_id})

    def unpause(self, container_id: str) -> None:
        """Let them go on."""
        self._ask({"verb": "unpause", "id": container_id})

    def _ask(self, given: dict[str, Any]) -> dict[str, Any]:
        question = json.dumps({"socket": str(self.socket), **given}).encode()
        try:
            answer: dict[str, Any] = json.loads(run_module(_CHILD, given=question, timeout_s=_CHILD_S))
        except (OSError, ValueError) as error:
            raise MeansError(f"the Docker Engine could not be asked: {error}") from None
        if "error" in answer:
            raise MeansError(str(answer["error"]))
        return answer
