"""Waiting, within bounds, until a container that was started is as well as it can tell. Blocking."""

import time
from typing import Final

from fireline_agent.hands.docker import Engine
from fireline_agent.remediation.action import ActionError
from fireline_agent.remediation.container.reaching import current
from fireline_agent.remediation.container.selection import Container
from fireline_wire.actions import Kind, Parameter

WAIT: Final = Parameter("wait", Kind.DURATION, "how long each may take to run, and to be healthy", 60, most=3600)
STOP_TIMEOUT: Final = Parameter(
    "stop_timeout", Kind.DURATION, "how long each may take to end by itself before it is killed", 10, most=600
)
_LOOK_EVERY_S: Final = 0.25
_SETTLED_S: Final = 2.0  # without a check, one that still runs after so long counts as started


def until_well(engine: Engine, container: str, title: str, *, within_s: float, may_end: bool = False) -> Container:
    """Wait until a container runs and, where it has a health check, is healthy; or, where it may, ended well.

    Raises:
        ActionError: it ended, is unhealthy, or got nowhere in time; the message says what it was instead.
    """
    before = current(engine, container, title)
    until = time.monotonic() + within_s
    settled = min(time.monotonic() + _SETTLED_S, until)
    while True:
        found = current(engine, container, title)
        if may_end and found.state == "exited" and found.exit_code == 0:
            return found
        if trouble := _trouble(before, found):
            raise ActionError(f"{title} does not come up: {trouble}")
        if found.health == "healthy" or (found.health == "none" and time.monotonic() >= settled):
            return found
        if time.monotonic() >= until:
            raise ActionError(f"{title} is not healthy within {within_s:g} s: it is {found.state}, {found.health}")
        time.sleep(_LOOK_EVERY_S)


def _trouble(before: Container, found: Container) -> str:
    if found.restarts > before.restarts or found.state == "restarting":
        code = f" with exit code {found.exit_code}" if found.exit_code else ""
        return f"it ended{code} and the engine starts it again"
    if found.state in ("exited", "created"):
        return f"it is {found.state}, exit code {found.exit_code}"
    return "its health check fails" if found.health == "unhealthy" else ""
