"""Messages over a host's control line: asked and answered, or a HostError. What the parts of HostClient share."""

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from fireline_controller.hosts import failures
from fireline_controller.hosts.calls import Caller
from fireline_controller.hosts.channels import Line

_Reply = TypeVar("_Reply", bound=Message)


class Asker:
    """Asks one host on its control line. `fresh` makes one more line to the same host."""

    def __init__(self, control: Line, caller: Caller, fresh: Callable[[], Line]) -> None:
        self._name = control.destination.host
        self._control = control
        self._caller = caller
        self._fresh = fresh

    async def _ask(
        self, method: str, request: Message, reply: type[_Reply], timeout_s: float, line: Line | None = None
    ) -> _Reply:
        data = await self._caller.unary(line or self._control, method, request.SerializeToString(), timeout_s=timeout_s)
        return self._parsed(reply, data)

    def _parsed(self, kind: type[_Reply], data: bytes) -> _Reply:
        try:
            return kind.FromString(data)
        except DecodeError:
            raise failures.bad_data(self._name, f"it answered with bytes that are no {kind.__name__}") from None
