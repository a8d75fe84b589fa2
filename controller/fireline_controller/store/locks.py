"""Verbs for locks: who alone may change a host."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select, update

from fireline_controller.runbooks.record import HostLock
from fireline_controller.store import schema
from fireline_controller.store.verbs import Verbs, columns_of, value_of


class LockVerbs(Verbs):
    """Locks on hosts."""

    def take_locks(self, locks: Sequence[HostLock]) -> tuple[HostLock, ...]:
        """Take all of these, or none: then the locks of others are returned that are in the way.

        One that has expired, or has the same owner, is in nobody's way.
        """
        held = {lock.host: lock for lock in self.locks()}
        others = [held[lock.host] for lock in locks if lock.host in held and _hinders(held[lock.host], lock)]
        if not others:
            for lock in locks:
                self._put(schema.host_locks, columns_of(lock))
        return tuple(others)

    def renew_locks(self, owner: str, expires_at: datetime) -> int:
        """Keep an owner's locks until then; how many these are."""
        table = schema.host_locks
        return self._connection.execute(
            update(table).where(table.c.owner == owner).values(expires_at=expires_at)
        ).rowcount

    def release_locks(self, owner: str) -> None:
        """Give up all of an owner's locks."""
        table = schema.host_locks
        self._connection.execute(delete(table).where(table.c.owner == owner))

    def locks(self) -> tuple[HostLock, ...]:
        """Every lock, expired ones too, by host."""
        rows = self._connection.execute(select(schema.host_locks).order_by(schema.host_locks.c.host))
        return tuple(value_of(HostLock, row) for row in rows)


def _hinders(held: HostLock, wanted: HostLock) -> bool:
    return held.owner != wanted.owner and held.expires_at > wanted.since
