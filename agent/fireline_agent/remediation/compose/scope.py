"""Which containers of a project an action is about. Leaves to others: what is done with them."""

from collections.abc import Mapping
from typing import Any, Final

from fireline_agent.hands.docker import Engine
from fireline_agent.remediation.container.selection import inspected
from fireline_wire.actions import Kind, Parameter

PROJECT: Final = Parameter("project", Kind.TEXT, "the Compose project", is_required=True)
SERVICE: Final = Parameter("service", Kind.TEXT, "one service of it; all where left out")


def of_project(engine: Engine, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The engine's answers about the containers of a project, or of one service of it.

    Raises:
        ActionError: it has none here.
        EngineError: the engine does not answer as it should.
    """
    return inspected(engine, {"project": params["project"], "service": params["service"]})
