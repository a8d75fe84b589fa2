"""How long containers have failed their own health checks. Leaves to others: what follows from it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from fireline_agent.remediation.action import Tools
from fireline_agent.remediation.container.reaching import reading
from fireline_agent.remediation.container.selection import Container, inspected, moment, number, part

_INTERVAL_S: Final = 30.0  # the engine's default between two checks
_NS: Final = 1e9


def gather(tools: Tools, params: Mapping[str, Any]) -> dict[str, Any]:
    """All selected containers, with how long each has been failing its check."""
    now = datetime.now(UTC)
    with reading(tools) as engine:
        answers = inspected(engine, params, is_all_allowed=True)
    return {
        "containers": [
            {**Container.inspected(answer).to_document(), "failing_s": failing_s(answer, now=now)} for answer in answers
        ]
    }


def failing_s(told: Mapping[str, Any], *, now: datetime) -> float:
    """How long a container has failed its check, by the checks that the engine remembers; 0 where it does not.

    The engine keeps the last five checks and counts the failures in a row (`FailingStreak`): those that it no longer
    has are taken to be an interval apart.
    """
    health = part(told, "State", "Health")
    checks = health.get("Log")
    failed = []
    for check in reversed(checks if isinstance(checks, list) else []):
        if part(check).get("ExitCode") == 0:
            break
        failed.append(moment(str(part(check).get("Start", ""))))
    known = [at for at in failed if at is not None]
    if not known:
        return 0.0
    interval = number(part(told, "Config", "Healthcheck"), "Interval") / _NS or _INTERVAL_S
    forgotten = max(0, number(health, "FailingStreak") - len(failed))
    return max(0.0, (now - min(known)).total_seconds()) + forgotten * interval
