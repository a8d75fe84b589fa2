"""What a scheduled clean-up runs: one of the two cleaning actions, by the same rules, without a controller. No action.

Started by the host's own timer as a program (schedule_cleanup); says in one line what it did, and exits 1 where that
was not everything.
"""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fireline_agent.remediation import applying
from fireline_agent.remediation.action import Action, ActionError, Change, Plan, Tools


class _Unrecorded:
    """Nobody resumes a sweep: the next one does what this one left."""

    def planned(self, plan: Plan) -> None:
        """See Record."""

    def starting(self, index: int, change: Change) -> None:
        """See Record."""

    def done(self, index: int, kept: Mapping[str, Any]) -> None:
        """See Record."""

    def failed(self, index: int, why: str) -> None:
        """See Record."""


def main(argv: Sequence[str] | None = None) -> int:
    """Clean once."""
    parser = argparse.ArgumentParser(prog="fireline clean-up", description=__doc__)
    parser.add_argument("kind", choices=("logs", "temp"))
    parser.add_argument("--older-than", type=int, required=True, help="seconds")
    parser.add_argument("--pattern", action="append", required=True)
    parser.add_argument("--root", action="append", required=True)
    args = parser.parse_args(argv)
    action: Action = importlib.import_module(f"fireline_agent.remediation.disk.clean_{args.kind}").ACTION
    try:
        params = action.spec.check({"roots": args.root, "patterns": args.pattern, "older_than": args.older_than})
        wanted = applying.planned(action, Tools(), params).sha256(action.spec.name, params)
        applied = applying.apply(action, Tools(), params, plan_sha256=wanted, record=_Unrecorded())
    except (ActionError, applying.PlanChanged) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{applied.plan.summary}: {applied.error or applied.verified.sentence}\n")
    return 0 if applied.verified.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
