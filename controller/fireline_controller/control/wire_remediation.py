"""Remediation's part of `wire`: the engine's values to messages, and messages to values."""

import json
from typing import Final

from fireline_controller.engine import Outlook
from fireline_controller.model import ActionReport, PolicyError
from fireline_controller.runbooks.model import ActionCall
from fireline_wire.v1 import control_pb2, remediation_pb2

_MAX_PARAMS: Final = 256 << 10  # characters


def call(message: control_pb2.PlanActionsRequest) -> ActionCall:
    """What is to be planned.

    Raises:
        PolicyError: the parameters are no JSON object.
    """
    try:
        given = json.loads(message.params_json or "{}") if len(message.params_json) <= _MAX_PARAMS else None
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise PolicyError(f"params: wanted a JSON object of at most {_MAX_PARAMS} characters", reason="invalid_request")
    return ActionCall(message.action, given)


def report(value: ActionReport | None) -> control_pb2.ActionReport | None:
    """What is known of an action on a host."""
    if value is None:
        return None
    return control_pb2.ActionReport(
        action=value.action,
        plan_sha256=value.plan_sha256,
        risk=value.risk,
        summary=value.summary,
        changes=[remediation_pb2.ActionChange(**vars(change)) for change in value.changes],
        change_count=value.change_count,
        total_bytes=value.total_bytes,
        warnings=value.warnings,
        changes_done=value.changes_done,
        verified=value.verified,
        result_json=json.dumps(dict(value.result)),
        can_undo=value.can_undo,
        in_doubt=value.in_doubt,
        params_json=json.dumps(dict(value.params)),
    )


def outlook(value: Outlook) -> control_pb2.ForeseeApplyReply:
    """What applying a plan would still need."""
    return control_pb2.ForeseeApplyReply(
        action=value.action,
        risk=value.risk,
        approval=value.approval,
        hosts_without_evidence=value.unkept,
        evidence=value.evidence,
        changing=value.changing,
        target=control_pb2.ResolvedTarget(
            hosts=value.target.hosts,
            sha256=value.target.sha256,
            needs_confirmation=value.needs_confirmation,
            folded=value.target.folded,
        ),
    )
