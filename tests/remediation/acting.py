"""Drives actions where a real service manager runs: on a lab host, inside its namespaces, by the agent's own loop."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.lab import Host
from tests.lab.services import Services

_PYTHON: Final = f"/opt/fireline/python/bin/{Path(sys.executable).resolve().name}"
_DRIVER: Final = """\
import importlib, json, sys
from dataclasses import asdict
sys.path[:0] = ["/opt/fireline/agent", "/opt/fireline/protos", "/opt/fireline/packages"]
from fireline_agent.remediation import applying
from fireline_agent.remediation.action import ActionError, Change, Tools

class Silent:
    planned = starting = done = failed = lambda *_: None

def answer(order):
    action = importlib.import_module("fireline_agent.remediation." + order["action"]).ACTION
    tools = Tools(request_id="lab-request")
    if order["verb"] == "undo":
        done = tuple(applying.Done(Change(**one["change"]), one["kept"]) for one in order["done"])
        return {"left": applying.undo(action, tools, done, lambda *_: None)}
    params = action.spec.check(order["params"])
    plan = applying.planned(action, tools, params)
    if order["verb"] == "plan":
        return {"plan": asdict(plan)}
    found = applying.apply(action, tools, params, plan_sha256=plan.sha256(action.spec.name, params), record=Silent())
    return asdict(found)

try:
    print(json.dumps(answer(json.loads(sys.argv[1]))))
except ActionError as error:
    print(json.dumps({"refused": str(error), "reason": error.reason}))
"""


@dataclass(frozen=True)
class Acting:
    """Actions on one host with systemd. Answers are JSON: `refused` and `reason`, or what the loop found."""

    host: Host
    manager: Services

    def plan(self, action: str, **params: object) -> dict[str, Any]:
        """What it would do."""
        return self._ask({"verb": "plan", "action": action, "params": params})

    def apply(self, action: str, **params: object) -> dict[str, Any]:
        """Do it."""
        return self._ask({"verb": "apply", "action": action, "params": params})

    def undo(self, action: str, applied: Mapping[str, Any]) -> list[str]:
        """Take it back; what could not be."""
        left: list[str] = self._ask({"verb": "undo", "action": action, "done": applied["done"]})["left"]
        return left

    def command(self, verb: str, action: str, **params: object) -> list[str]:
        """What asks it, as a command where the service manager runs."""
        return self._command({"verb": verb, "action": action, "params": params})

    def _command(self, order: Mapping[str, Any]) -> list[str]:
        driver = self.host.write("/lab-act.py", _DRIVER.encode(), mode=0o755)
        return [_PYTHON, "-I", driver, json.dumps(order)]

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.manager.run(*self._command(order)).splitlines()[-1])
        return answer
