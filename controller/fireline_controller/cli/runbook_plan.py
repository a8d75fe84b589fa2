"""A run that was only looked at, as a table or as JSON."""

from typing import TYPE_CHECKING, Any

from fireline_controller.cli import output

if TYPE_CHECKING:
    from fireline_wire.v1 import runs_pb2


def show(found: "runs_pb2.PlanRunReply") -> None:
    """For a person."""
    print(f"{found.runbook} version {found.version} on {found.hosts}")
    rows = [
        (
            step.step,
            step.does,
            step.risk,
            " ".join(filter(None, (step.hosts, f"(decided then: {step.open_hosts})" if step.open_hosts else ""))),
            step.approval,
            step.on_failure,
            step.rollback,
        )
        for step in found.steps
    ]
    output.table(("STEP", "DOES", "RISK", "HOSTS", "APPROVAL", "ON FAILURE", "ROLLBACK"), rows)
    effects = [(s.step, e.host, output.outcome_name(e.outcome), e.effect) for s in found.steps for e in s.effects]
    if effects:
        print()
        output.table(("STEP", "HOST", "PLAN", "WOULD DO NOW"), effects)
    for step in found.steps:
        if step.when:
            output.say(f"{step.step}: only where {output.printable(step.when)}")
    for problem in found.problems:
        output.warn(problem)


def document(found: "runs_pb2.PlanRunReply") -> dict[str, Any]:
    """With its stable keys."""
    return {
        "runbook": found.runbook,
        "version": found.version,
        "sha256": found.sha256,
        "hosts": found.hosts,
        "problems": list(found.problems),
        "steps": [
            {
                "step": s.step,
                "title": s.title,
                "does": s.does,
                "risk": s.risk,
                "hosts": s.hosts,
                "hosts_decided_then": s.open_hosts,
                "when": s.when,
                "approval": s.approval,
                "on_failure": s.on_failure,
                "rollback": s.rollback,
                "effects": [
                    {"host": e.host, "outcome": output.outcome_name(e.outcome), "effect": e.effect} for e in s.effects
                ],
            }
            for s in found.steps
        ],
    }
