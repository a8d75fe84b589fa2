"""A real engine with verbs to put containers in every kind of state, and to rehearse actions on them."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import docker.errors

from fireline_agent.hands.roots import Roots
from fireline_agent.remediation.action import Action, Tools
from tests.engine import IMAGE, LiveEngine, eventually
from tests.remediation.rehearsal import Rehearsal

FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
WELL = f"touch /tmp/well; {FOREVER}"  # healthy by CHECK until the file is taken away
CHECK = {"test": ["CMD-SHELL", "[ -f /tmp/well ]"], "interval": 2 * 10**8, "retries": 1, "timeout": 2 * 10**9}


@dataclass(frozen=True)
class Stage:
    """A real engine."""

    engine: LiveEngine

    @property
    def tools(self) -> Tools:
        """What an action works with on it."""
        return Tools(Roots(root=self.engine.root, docker_socket=self.engine.socket))

    def rehearse(self, action: Action, **given: Any) -> Rehearsal:
        """An action with its parameters, on this engine."""
        return Rehearsal(action, given, self.tools)

    def run(
        self,
        name: str,
        script: str = FOREVER,
        *,
        labels: Mapping[str, str] | None = None,
        check: Mapping[str, Any] | None = None,
        **host: Any,
    ) -> str:
        """Start a container; returns its id."""
        create: dict[str, Any] = {"labels": dict(labels or {})}
        if check is not None:
            create["healthcheck"] = dict(check)
        return self.engine.run(name, script, create=create, **host)

    def service(self, project: str, service: str, *, needs: str = "", number: int = 1, **more: Any) -> str:
        """Start a container as Compose labels it; returns its id."""
        labels = {
            "com.docker.compose.project": project,
            "com.docker.compose.service": service,
            "com.docker.compose.container-number": str(number),
            "com.docker.compose.depends_on": needs,
        }
        return self.run(f"{project}-{service}-{number}", labels=labels, **more)

    def make_unhealthy(self, name: str) -> None:
        """Make the check of a container that runs WELL fail."""
        self.run_in(name, "busybox rm /tmp/well")
        self.until_health(name, "unhealthy")

    def run_in(self, name: str, script: str) -> str:
        """Run a script in a container."""
        client = self.engine.client
        output: bytes = client.exec_start(client.exec_create(name, ["sh", "-c", script])["Id"])
        return output.decode()

    def until_health(self, name: str, wanted: str) -> None:
        """Wait for what the check of a container says."""
        eventually(lambda: self.state(name)["Health"]["Status"] == wanted, within_s=15, what=f"{name} is {wanted}")

    def until_state(self, name: str, wanted: str) -> None:
        """Wait for the state of a container."""
        eventually(lambda: self.state(name)["Status"] == wanted, within_s=15, what=f"{name} is {wanted}")

    def inspect(self, name: str) -> dict[str, Any]:
        """All that the engine knows of a container."""
        found: dict[str, Any] = self.engine.client.inspect_container(name)
        return found

    def state(self, name: str) -> dict[str, Any]:
        """A container's state."""
        state: dict[str, Any] = self.inspect(name)["State"]
        return state

    def started_at(self, *names: str) -> list[str]:
        """When each was started last."""
        return [str(self.state(name)["StartedAt"]) for name in names]

    def sweep(self) -> None:
        """Remove what a test made."""
        client = self.engine.client
        for container in client.containers(all=True):
            with suppress(docker.errors.APIError):
                client.remove_container(container["Id"], force=True, v=True)
        client.prune_networks()
        for volume in client.volumes()["Volumes"] or []:
            client.remove_volume(volume["Name"], force=True)
        for image in client.images():
            for name in image["RepoTags"] or [image["Id"]]:
                if name != IMAGE:
                    client.remove_image(image["Id"] if name == "<none>:<none>" else name, force=True)
