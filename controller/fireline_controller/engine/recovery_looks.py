"""Looks at the containers of the fleet for the recovery. Reads only; nothing that a host tells is trusted (I8)."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from fireline_controller import targets
from fireline_controller.engine.collect import Rooms
from fireline_controller.engine.operations import new_operation_id
from fireline_controller.engine.recovery_entries import ACTOR
from fireline_controller.hosts import Command, Fleet
from fireline_controller.isolation import STANDING
from fireline_controller.model import EmptyTarget, Host, HostError, NotFound
from fireline_controller.recovery import Look, Seen
from fireline_controller.store import Transaction

log = logging.getLogger(__name__)

_ACTION: Final = "container.states"
_TIMEOUT_S: Final = 20.0
_MOST: Final = 1000  # containers of one host
_MAX_TEXT: Final = 256
_STATES: Final = frozenset({"created", "running", "paused", "restarting", "removing", "exited", "dead"})
_HEALTHS: Final = frozenset({"none", "starting", "healthy", "unhealthy"})


class Looks:
    """Looks at every host of a target, several at once."""

    def __init__(self, rooms: Rooms, fleet: Fleet) -> None:
        self._rooms = rooms
        self._fleet = fleet
        self._at_once = asyncio.Semaphore(rooms.settings.fanout.concurrency)

    async def all(self) -> list[Look]:
        """What there is to see now; a host that can't be asked, has no engine, is isolated or locked is left out.

        Raises:
            FirelineError: the target does not parse, or the store fails.
        """
        hosts = await self._rooms.store.read(self._free_hosts)
        found = await asyncio.gather(*(self._look(host) for host in hosts))
        return [look for look in found if look is not None]

    def _free_hosts(self, tx: Transaction) -> list[Host]:
        """Hosts that nobody works on: what is isolated is evidence, and a run or command knows better than we."""
        settings, now = self._rooms.settings, self._rooms.now()
        hosts = [host for host in tx.hosts() if not host.removed]
        try:
            wanted = set(targets.resolve((settings.recovery.target,), (), hosts, settings.groups).hosts)
        except (EmptyTarget, NotFound):
            return []
        busy = {one.host for one in tx.isolations(STANDING)}
        busy |= {lock.host for lock in tx.locks() if lock.expires_at > now}
        return [host for host in hosts if host.name in wanted - busy]

    async def _look(self, host: Host) -> Look | None:
        now = self._rooms.now()
        request_id = new_operation_id(now)
        deadline = now + timedelta(seconds=_TIMEOUT_S)
        command = Command(request_id, request_id, "", ACTOR, "recovery: look at containers", deadline, 0)
        async with self._at_once:
            try:
                planned = await self._fleet.client(host).plan_action(command, _ACTION, {}, timeout_s=_TIMEOUT_S)
            except HostError as error:
                log.info("recovery: %s not looked at: %s", host.name, error)
                return None
        return Look(host.name, self._rooms.now(), seen(planned.result))


def seen(result: Mapping[str, Any]) -> tuple[Seen, ...]:
    """The containers of an answer; a row that is of another shape is as if it weren't there."""
    rows = result.get("containers")
    found = (_seen(row) for row in rows[:_MOST]) if isinstance(rows, list) else ()
    by_name = {one.name: one for one in found if one is not None}
    return tuple(by_name.values())


def _seen(row: Any) -> Seen | None:
    if not isinstance(row, Mapping):
        return None
    name, state, health = _text(row, "name"), _text(row, "state"), _text(row, "health")
    if not name or state not in _STATES or health not in _HEALTHS:
        return None
    needs = row.get("needs")
    return Seen(
        name,
        state,
        health,
        project=_text(row, "project"),
        service=_text(row, "service"),
        needs=tuple(one for one in needs[:_MAX_TEXT] if isinstance(one, str)) if isinstance(needs, list) else (),
        restarts=_number(row, "restarts"),
        exit_code=_number(row, "exit_code"),
    )


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return value if isinstance(value, str) and len(value) <= _MAX_TEXT and value.isprintable() else ""


def _number(row: Mapping[str, Any], key: str) -> int:
    value = row.get(key)
    return min(max(value, 0), 1 << 31) if type(value) is int else 0
