"""security.rotate_env_file: new secrets in an environment file or a secret file, and who uses them started again.

For secrets that no server checks but those who read the file: signing keys, tokens between services. Each of the
variables gets a secret of its own.
"""

from collections.abc import Mapping
from typing import Any, Final

from fireline_agent.remediation.action import Action, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.security import aside, dependents, rotation, secretfile
from fireline_wire.actions import ActionSpec, Risk


def gather(tools: Tools, params: Params) -> Facts:
    """The file and who depends on it."""
    return rotation.gather(tools, params)


def plan(facts: Facts, params: Params) -> Plan:
    """The file first, then everyone in order."""
    count = len(params["keys"]) or 1
    return rotation.plan(facts, params, what=f"{count} secret{'s' * (count != 1)}")


def do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    """One step."""
    if change.kind != rotation.SECRET:
        return dependents.do(tools, change, rotation.pairs(tools, params))

    def fresh(content: bytes) -> bytes:
        if not params["keys"]:
            return secretfile.with_secret(content, (), secretfile.new_secret())
        return secretfile.with_secrets(content, {key: secretfile.new_secret() for key in params["keys"]})

    return rotation.exchange(tools, change, fresh, between=None)


def verify(tools: Tools, plan_: Plan, params: Params) -> Verified:
    """All variables are others than before, and all who use them are well."""
    data = plan_.changes[0].data
    now = rotation.read(tools, params["file"]).content
    if now == aside.held(aside.path_of(tools, params["file"])):
        return Verified(False, f"{params['file']} is as before")
    problems = dependents.unwell(tools, data["dependents"])
    sentence = (
        "; ".join(problems) or f"the file holds new secrets, and all {len(data['dependents'])} dependents are well"
    )
    return Verified(not problems, sentence)


def undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """The former secrets again."""
    if change.kind != rotation.SECRET:
        return dependents.undo(tools, change, kept)
    rotation.restore(tools, kept, between=None)
    dependents.restart(tools, change.data["dependents"])
    return "the file holds the former secrets again, and its dependents were started again"


ACTION: Final = Action(
    ActionSpec(
        "security.rotate_env_file",
        "Make new secrets in an environment or secret file, and start who uses them again, in order",
        Risk.DISRUPTIVE,
        (rotation.FILE, rotation.KEYS, dependents.DEPENDENTS),
        rotation.RESULTS,
        evidence=("processes", "docker_containers"),
        undo="the former secrets are put back, and the dependents started again",
    ),
    gather,
    plan,
    do,
    verify,
    undo,
)
