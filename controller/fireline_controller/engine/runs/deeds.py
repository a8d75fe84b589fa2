"""What a run does on hosts: the one door from a run to actions, captures and isolations.

Every application has a request id that follows from run, step, host and attempt, so that one which is ordered again
after a crash is answered from the host's ledger and never done twice (I2).
"""

import hashlib
from asyncio import Event
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from fireline_controller.runbooks.model import ActionCall
from fireline_controller.runbooks.record import HostEnd, Move, Part, Run

_MAX_REQUEST_ID: Final = 100  # what a host's ledger takes
# UNDO and BACK are no attempts of the step itself: they have names of their own.
_WORDS: Final = {Part.UNDO: "undo", Part.BACK: "back"}

Ends = tuple[HostEnd, ...]


@dataclass(frozen=True)
class Order:
    """One thing to do on some hosts.

    Attributes:
        run, step: for which.
        move: which of its moves.
        what: an action's name, a capture's profile, an isolation's scope.
        given: the action's parameters, by host.
        timeout_s: for all hosts together; 0: as configured.
        planned: of an application, how the plan of each host ended; of an undo, how the application did.
        evidence_for: of a capture, the actions whose prey it keeps, with their parameters.
        is_left: whether the run is parked: then hosts are not told to stop.
        stop: set when an operator cancels: hosts stop between two changes.
        tell: what a host is doing, for who watches.
    """

    run: Run
    step: str
    move: Move
    what: str
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    timeout_s: float = 0.0
    planned: Mapping[str, HostEnd] = field(default_factory=dict)
    evidence_for: tuple[ActionCall, ...] = ()
    is_left: Callable[[], bool] = lambda: False
    stop: Event = field(default_factory=Event)
    tell: Callable[[str, str], None] = lambda _host, _doing: None

    def request_id(self, host: str) -> str:
        """The idempotency key of what the move does on a host."""
        return request_id(self.run.id, self.move, host)


class Deeds(Protocol):
    """Each does its part on all hosts of the order and returns one end for each of them (I1).

    One host's failure is its end; a FirelineError means that the controller itself failed, and that the same order may
    be given again. When its task is cancelled the hosts go on, and the same order attaches to them again.
    """

    async def plan(self, order: Order) -> Ends:
        """What the action would do; of one that reads, what it found."""

    async def apply(self, order: Order) -> Ends:
        """Do what was planned: `order.move.plans` has each host's plan."""

    async def undo(self, order: Order) -> Ends:
        """Take back the application that `order.move.plans` names for each host."""

    async def capture(self, order: Order) -> Ends:
        """Collect and seal a profile."""

    async def isolate(self, order: Order) -> Ends:
        """Cut the hosts off, each proved dark."""

    async def release(self, order: Order) -> Ends:
        """Let the hosts back."""


def request_id(run_id: str, move: Move, host: str) -> str:
    """`run/step/host/attempt`, or a digest of it where that is longer than a ledger takes."""
    text = f"{run_id}/{move.step}/{host}/{_WORDS.get(move.part, '')}{move.attempt}"
    if len(text) <= _MAX_REQUEST_ID:
        return text
    return f"{run_id}/{hashlib.sha256(text.encode()).hexdigest()}"
