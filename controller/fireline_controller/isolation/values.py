"""One isolation as the controller has it on record, and what a vantage saw of a host."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final


class How(StrEnum):
    """What came back from one address and port over TCP."""

    CONNECTED = "connected"
    REFUSED = "refused"
    SILENT = "silent"
    UNREACHABLE = "unreachable"

    @property
    def is_answer(self) -> bool:
        """Whether the host itself answered: a reset is an answer too."""
        return self in (How.CONNECTED, How.REFUSED)


@dataclass(frozen=True)
class Sight:
    """What one vantage saw of one address and port."""

    address: str
    port: int
    how: How

    @property
    def place(self) -> tuple[str, int]:
        """The address and the port."""
        return self.address, self.port


class Phase(StrEnum):
    """How far an isolation has come, as last known; what is in force only the host's kernel knows."""

    PENDING = "pending"  # its host could not be reached: it waits for it
    ARMING = "arming"  # on record before the host is told (I6), and perhaps in force under its lease
    COMMITTED = "committed"  # in force until it is released
    RELEASED = "released"
    LIFTED = "lifted"  # undone before it was committed, by us or by the end of its lease
    BROKEN = "broken"  # ended on the console with its code
    WITHDRAWN = "withdrawn"  # it was never carried out: released before, out of time, or refused


# The host may be cut off; it is no witness and no healthy member of anything.
IN_FORCE: Final = frozenset({Phase.ARMING, Phase.COMMITTED})
# Something may still come of it.
STANDING: Final = IN_FORCE | {Phase.PENDING}


@dataclass(frozen=True)
class Isolation:
    """One order. Times are aware UTC; `not_after` is of a pending one, until when it is carried out.

    `code` ends it on the console, and is shown to nobody without a line in the journal. `places` are the addresses and
    ports that answered before, by which a release is proved. `proof` says how it is known that the host is dark.
    """

    order_id: str
    host: str
    scope: str
    phase: Phase
    operation_id: str
    incident_id: str
    operator: str
    reason: str
    code: str
    controllers: tuple[str, ...]
    allowances: tuple[str, ...]
    lease_s: int
    fence_token: int
    force: str
    unproved: str
    without_evidence: bool
    ordered_at: datetime
    places: tuple[tuple[str, int], ...] = ()
    proof: str = ""
    armed_at: datetime | None = None
    committed_at: datetime | None = None
    ended_at: datetime | None = None
    not_after: datetime | None = None
