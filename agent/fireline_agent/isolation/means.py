"""How one kind of scope is isolated: what the keeper wants done, without knowing the kernel's part of it."""

from dataclasses import dataclass, field
from typing import Protocol

from fireline_agent.isolation.model import Cut, Plan
from fireline_wire.isolation import IsolationOrder


class MeansError(Exception):
    """The kernel or a tool refused; the message is its complaint. What was there before is there still."""


@dataclass(frozen=True)
class Force:
    """What of an isolation is in force. `is_there` also where nothing is stopped any more, since the lease ran out.

    `lease_left_ms` is None where it stands for ever, 0 where nothing is stopped. `written` is what is there.
    """

    is_there: bool = False
    lease_left_ms: int | None = 0
    dropped_packets: int = 0
    written: str = ""


@dataclass
class Harvest:
    """What was cut. `lacks` says where it could not be done."""

    cut: list[Cut] = field(default_factory=list)
    flows: int = 0
    lacks: list[str] = field(default_factory=list)


class Means(Protocol):
    """Carries out orders of some kinds of scope. Blocking; every method but `plan` raises MeansError."""

    @property
    def look_every_s(self) -> float:
        """How long a change may go unseen that the kernel does not tell of."""

    def plan(self, order: IsolationOrder, *, left_ms: int | None, replaced: tuple[str, ...] = ()) -> Plan:
        """What would be done now; `left_ms` is the lease, None for ever; `replaced` order ids end with it."""

    def put(self, plan: Plan) -> None:
        """Put a plan in force, whole or not at all, in the place of what is there of the same order."""

    def look(self, order: IsolationOrder) -> Force:
        """Whether it is in force, and for how long. Quick: a controller waits for it."""

    def inspect(self, order: IsolationOrder) -> Force:
        """All that can be told of it."""

    def is_as_planned(self, plan: Plan, force: Force) -> bool:
        """Whether what is there is the plan, whatever its lease."""

    def make_permanent(self, order: IsolationOrder) -> None:
        """End the lease; refused where it has run out."""

    def lift(self, order: IsolationOrder) -> None:
        """Take away what is there of an order, and nothing else."""

    def cut(self, order: IsolationOrder) -> Harvest:
        """End the connections that the order closes."""
