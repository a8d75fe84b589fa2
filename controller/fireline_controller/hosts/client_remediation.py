"""Actions on a host as the controller asks for them: the promise and its gRPC form.

The part of HostClient that is about remediation; what holds for the others' failures and time-outs holds here.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final, Protocol

from google.protobuf.message import Message

from fireline_controller.hosts import failures, wire, wire_remediation
from fireline_controller.hosts.asking import Asker
from fireline_controller.hosts.values import Command
from fireline_controller.hosts.values_remediation import ActionEnded, ActionNews, ActionPlan
from fireline_controller.model import HostError
from fireline_wire.v1 import remediation_pb2

_REMEDIATION: Final = "/fireline_wire.v1.Remediation/"
_MOST_EVENTS: Final = 200_000  # some days of news: more is a host that lies


class RemediationCalls(Protocol):
    """What a host can be asked about actions."""

    async def plan_action(
        self, command: Command, action: str, params: Mapping[str, Any], *, timeout_s: float
    ) -> ActionPlan:
        """What an action would do; of one that only reads, what it found. Changes nothing."""

    def apply_action(
        self, command: Command, action: str, params: Mapping[str, Any], plan_sha256: str, *, idle_s: float
    ) -> AsyncIterator[ActionNews]:
        """Do what was planned, and follow; the last news is ActionEnded. A repeat attaches, or gets the first end."""

    def undo_action(self, command: Command, applied_request_id: str, *, idle_s: float) -> AsyncIterator[ActionNews]:
        """Take back what an application did, and follow, as for `apply_action`."""

    async def cancel_action(self, command: Command, action_request_id: str, *, timeout_s: float) -> bool:
        """Stop an application or an undo; whether there was something to stop."""


class GrpcRemediation(Asker):
    """The calls on a host's control line, so that they never stand behind a capture (I9)."""

    async def plan_action(
        self, command: Command, action: str, params: Mapping[str, Any], *, timeout_s: float
    ) -> ActionPlan:
        """See RemediationCalls."""
        request = wire_remediation.plan_request(command, action, params)
        said = await self._ask(_REMEDIATION + "Plan", request, remediation_pb2.ActionPlan, timeout_s)
        return wire_remediation.plan(said, host=self._name)

    def apply_action(
        self, command: Command, action: str, params: Mapping[str, Any], plan_sha256: str, *, idle_s: float
    ) -> AsyncGenerator[ActionNews, None]:
        """See RemediationCalls."""
        return self._followed("Apply", wire_remediation.apply_request(command, action, params, plan_sha256), idle_s)

    def undo_action(
        self, command: Command, applied_request_id: str, *, idle_s: float
    ) -> AsyncGenerator[ActionNews, None]:
        """See RemediationCalls."""
        request = remediation_pb2.UndoActionRequest(
            context=wire.context(command), applied_request_id=applied_request_id
        )
        return self._followed("Undo", request, idle_s)

    async def cancel_action(self, command: Command, action_request_id: str, *, timeout_s: float) -> bool:
        """See RemediationCalls."""
        request = remediation_pb2.CancelActionRequest(
            context=wire.context(command), action_request_id=action_request_id
        )
        try:
            reply = await self._ask(_REMEDIATION + "Cancel", request, remediation_pb2.CancelActionReply, timeout_s)
        except HostError as error:
            if error.reason == "not_found":
                return False
            raise
        return reply.stopped

    async def _followed(self, method: str, request: Message, idle_s: float) -> AsyncGenerator[ActionNews, None]:
        left = _MOST_EVENTS
        stream = self._caller.stream(self._control, _REMEDIATION + method, request.SerializeToString(), idle_s=idle_s)
        async with aclosing(stream) as events:
            async for data in events:
                news = wire_remediation.news(self._parsed(remediation_pb2.ActionEvent, data), host=self._name)
                left -= 1
                if left < 0:
                    raise failures.bad_data(self._name, "its action sends events without end")
                yield news
                if isinstance(news, ActionEnded):
                    return
        raise failures.bad_data(self._name, "its action ended without saying how")
