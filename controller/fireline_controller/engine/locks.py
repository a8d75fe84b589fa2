"""Who may change a host now: the promise. One run or command changes a host at a time."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol


class Locks(Protocol):
    """Locks on hosts, each with an owner and a time at which it is over by itself."""

    async def take(self, hosts: Sequence[str], owner: str, *, until: datetime) -> None:
        """Lock all of these hosts, or none. What the owner holds already is prolonged.

        Raises:
            PolicyError: host_locked; the message names the hosts, who holds them and until when.
        """

    async def release(self, owner: str) -> None:
        """Let go of all that the owner holds."""


class NoLocks:
    """Nobody keeps others out."""

    async def take(self, hosts: Sequence[str], owner: str, *, until: datetime) -> None:
        """See Locks."""

    async def release(self, owner: str) -> None:
        """See Locks."""
