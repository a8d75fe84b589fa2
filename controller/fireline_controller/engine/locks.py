"""One run or action at a time changes a host: locks with an owner, taken before anything is sent, renewed, given up.

The kernel of it is one transaction for all hosts of a target, so that two can't each hold half. A lock whose owner was
killed is in the way until it expires, or until somebody goes on with that run: its owner is the run, not the process.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from fireline_controller.model import PolicyError
from fireline_controller.runbooks.record import HostLock
from fireline_controller.store import Store, Transaction

LEASE: Final = timedelta(seconds=60)  # a lock that is not renewed is everybody's after that
_LOOK_S: Final = 0.5  # between two looks of one that waits


@dataclass(frozen=True)
class Holder:
    """Who takes locks: a run's or an operation's id, whose, and what for in words."""

    owner: str
    operator: str
    what: str


class Locks:
    """The locks on hosts."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    async def take(
        self,
        holder: Holder,
        hosts: Sequence[str],
        *,
        wait_s: float = 0,
        lasts: timedelta = LEASE,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take the locks of all these hosts, or none. Those that the holder has are renewed.

        Args:
            holder: who.
            hosts: names.
            wait_s: how long to wait for those that others hold; 0: not at all.
            lasts: how long the locks hold where nobody renews them.
            tell: told once for whom it waits.

        Raises:
            PolicyError: host_locked: others hold some; says who, since when and what for.
        """
        loop = asyncio.get_running_loop()
        until, told = loop.time() + wait_s, ""
        while in_the_way := await self._store.run(lambda tx: self.taken(tx, holder, hosts, lasts)):
            words = in_words(in_the_way)
            if loop.time() >= until:
                raise PolicyError(f"{words}; wait for it with --wait", reason="host_locked")
            if words != told:
                tell(f"waiting: {words}")
                told = words
            await asyncio.sleep(_LOOK_S)

    def taken(
        self, tx: Transaction, holder: Holder, hosts: Sequence[str], lasts: timedelta = LEASE
    ) -> Sequence[HostLock]:
        """`take` within a transaction: the locks in the way; none: all are taken."""
        now = self._now()
        wanted = [HostLock(host, holder.owner, holder.operator, holder.what, now, now + lasts) for host in hosts]
        return tx.take_locks(wanted)

    async def renew(self, owner: str) -> None:
        """Keep an owner's locks for another lease. To be called well within one."""
        until = self._now() + LEASE
        await self._store.run(lambda tx: tx.renew_locks(owner, until))

    async def release(self, owner: str) -> None:
        """Give up all of an owner's locks; none is no error."""
        await self._store.run(lambda tx: tx.release_locks(owner))


def in_words(locks: Sequence[HostLock]) -> str:
    """Who holds what since when, and what for."""
    first = locks[0]
    more = f" (and {len(locks) - 1} more)" if len(locks) > 1 else ""
    return (
        f"{first.host}{more} is being changed by {first.operator}'s {first.owner} since {first.since:%H:%M:%S} UTC:"
        f" {first.what}"
    )
