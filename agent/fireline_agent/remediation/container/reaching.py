"""Reaching the engine for an action: what it lacks or refuses becomes an ActionError. Blocking."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fireline_agent.hands import docker, docker_changes
from fireline_agent.hands.docker import Engine, EngineAbsent, EngineError
from fireline_agent.hands.docker_changes import ChangingEngine
from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import ActionError, Change, Tools
from fireline_agent.remediation.container.selection import Container


@contextmanager
def reading(tools: Tools, *, timeout_s: float = docker.CALL_TIMEOUT_S) -> Iterator[Engine]:
    """An engine to ask.

    Raises:
        ActionError: there is none (`unsupported`), or it refuses, hangs or answers garbage (`failed`).
    """
    with _explained(), docker.connect(tools.roots.docker_socket, timeout_s=timeout_s) as engine:
        yield engine


@contextmanager
def changing(tools: Tools, *, timeout_s: float = docker_changes.CHANGE_TIMEOUT_S) -> Iterator[ChangingEngine]:
    """An engine to change.

    Raises:
        ActionError: as `reading`.
    """
    with _explained(), docker_changes.connect(tools.roots.docker_socket, timeout_s=timeout_s) as engine:
        yield engine


def change_of(container: Container, does: str, *, size_bytes: int = 0, **data: Any) -> Change:
    """A change of a container: known by its id, shown by its name; `data` is what else binds the plan."""
    bound = {"id": container.id, "name": container.name, **data}
    return Change("container", f"{container.title} ({container.id[:12]})", does, bound, size_bytes)


def planned(engine: Engine, change: Change) -> Container:
    """The container of a change as it is now.

    Raises:
        ActionError: as `current`.
    """
    return current(engine, change.data["id"], printable(change.data["name"]))


def current(engine: Engine, container: str, title: str) -> Container:
    """A container that was planned on, as it is now.

    Raises:
        ActionError: it is gone (`not_found`), or it is about to be.
    """
    try:
        found = Container.inspected(engine.inspect(container))
    except EngineError as error:
        if error.reason != "http_status":
            raise
        raise ActionError(
            f"container {title} ({container[:12]}) is gone since this was planned", reason="not_found"
        ) from None
    if found.state in ("removing", "dead"):
        raise ActionError(f"container {title} ({container[:12]}) is being removed: it is {found.state}")
    return found


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except EngineAbsent as absent:
        raise ActionError(str(absent), reason="unsupported") from None
    except EngineError as error:
        reason = "unsupported" if error.reason == "no_sdk" else "failed"
        raise ActionError(str(error), reason=reason) from None
