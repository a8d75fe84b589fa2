"""The recovery's hands: looks at the fleet, has restarts captured and done, opens incidents, keeps the record.

Leaves to others: every decision (the room `recovery`); how an action is planned and applied (remediations).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Final

from fireline_controller import recovery
from fireline_controller.config import Recovery as Settings
from fireline_controller.engine import recovery_entries as entries
from fireline_controller.engine import safeguard
from fireline_controller.engine.collect import Rooms
from fireline_controller.engine.incidents import Incidents
from fireline_controller.engine.locks import Holder, Locks
from fireline_controller.engine.recovery_looks import Looks
from fireline_controller.engine.remediations import Remediations
from fireline_controller.engine.values import News, Started, TargetSpec, Wish
from fireline_controller.hosts import Fleet
from fireline_controller.model import ConfigError, Entry, FirelineError, HostOutcome, Outcome
from fireline_controller.profiles import Profile
from fireline_controller.recovery import Capped, Held, Look, Restart, Rules, State, Tripped, Verdict
from fireline_controller.recovery.model import Key, Track
from fireline_controller.runbooks.model import ActionCall
from fireline_controller.store import Transaction

log = logging.getLogger(__name__)

_EVIDENCE: Final[Mapping[str, Mapping[str, object]]] = {
    "docker_containers": {}
}  # what a restart loses: processes, memory, the state of the check
_LEAD: Final = "(recovery)"  # a lock beside those of hosts, so that one controller of several does it
_LEAD_SPARE_S: Final = 10.0
_HELD_LINES: Final = 20  # of one look on record; a host may not flood the journal
_LINES_BACK: Final = 5000  # of the journal, to know what was restarted before this process


def rules_of(settings: Settings) -> Rules:
    """The rules that the settings mean.

    Raises:
        ConfigError: no service is named, or a window is none.
    """
    if not settings.services:
        raise ConfigError("recovery.services: name what may be restarted, such as ['web', 'shop-*'], or ['*'] for all")
    shared = {name: getattr(settings, name) for name in Rules.__dataclass_fields__ if hasattr(settings, name)}
    return Rules(**{**shared, "windows": tuple(map(recovery.parse_window, settings.windows))})


class Recovering:
    """Restarts what fails on the fleet, within its rules, until it is stopped."""

    def __init__(
        self,
        rooms: Rooms,
        fleet: Fleet,
        *,
        remediations: Remediations,
        incidents: Incidents,
        locks: Locks,
        capture: Callable[[Wish, Profile], AsyncIterator[News]],
    ) -> None:
        self._rooms = rooms
        self._looks = Looks(rooms, fleet)
        self._remediations = remediations
        self._incidents = incidents
        self._locks = locks
        self._capture = capture
        self._state = State()
        self._is_informed = False
        self._holder = Holder(f"recovery {token_hex(4)}", entries.ACTOR, "restarts what fails unasked")

    async def run(self, settings: Settings) -> None:
        """Look and act, round after round, until cancelled. A round that fails is logged, and not the last one.

        Raises:
            ConfigError: see `rules_of`; nothing was done.
        """
        rules = rules_of(settings)
        log.info("recovery: %s, every %g s", "observing" if settings.observe else "on", settings.every_s)
        try:
            async with asyncio.TaskGroup() as restarts:
                while True:
                    await self._round(settings, rules, restarts)
                    await asyncio.sleep(settings.every_s)
        finally:
            await self._locks.release(self._holder.owner)

    async def _round(self, settings: Settings, rules: Rules, restarts: asyncio.TaskGroup) -> None:
        try:
            if not await self._leads(settings):
                self._is_informed = False  # another does it meanwhile
                return
            if not self._is_informed:
                self._state = await self._rooms.store.read(lambda tx: remembered(tx, rules, self._rooms.now()))
                self._is_informed = True
            for look in await self._looks.all():
                for restart in await self._decide(settings, rules, look):
                    restarts.create_task(self._restart(rules, restart))
        except Exception:  # a round that fails must not be the last one
            log.exception("recovery: a round failed, the next is in %g s", settings.every_s)

    async def _leads(self, settings: Settings) -> bool:
        lasts = timedelta(seconds=3 * settings.every_s + _LEAD_SPARE_S)
        taken = await self._rooms.store.run(lambda tx: self._locks.taken(tx, self._holder, (_LEAD,), lasts))
        return not taken

    async def _decide(self, settings: Settings, rules: Rules, look: Look) -> list[Restart]:
        """Returns: what is to be restarted."""
        self._state, verdicts = recovery.decide(rules, self._state, look, self._rooms.now())
        restarts = [verdict for verdict in verdicts if isinstance(verdict, Restart)]
        await self._record(_bounded(verdicts), is_observed=settings.observe)
        if settings.observe:
            for restart in restarts:
                self._ended(rules, restart, is_well=False)
            return []
        for verdict in verdicts:
            if isinstance(verdict, Tripped | Capped):
                await self._call(verdict, settings.severity)
        return restarts

    async def _record(self, verdicts: Iterable[Verdict], *, is_observed: bool) -> None:
        now = self._rooms.now()
        lines = [entries.decided(verdict, now, is_observed=is_observed) for verdict in verdicts]
        for line in lines:
            log.warning("recovery: %s", line.summary)
        await self._rooms.store.run(lambda tx: tx.append(*lines))

    async def _call(self, verdict: Tripped | Capped, severity: str) -> None:
        """Open an incident and ask for somebody to be called."""
        title = f"{verdict.name} on {verdict.host}: restarts do not help"
        if isinstance(verdict, Capped):
            title = "containers fail over the fleet: restarts do not help"
        incident = await self._incidents.open(
            severity, title, target=verdict.host, operator=entries.ACTOR, reason=verdict.sentence
        )
        page = entries.paged(verdict, self._rooms.now(), severity=severity, incident_id=incident.id)
        await self._rooms.store.run(lambda tx: tx.append(page))

    async def _restart(self, rules: Rules, restart: Restart) -> None:
        """Capture, plan, apply; whatever becomes of it is on record, and the container's turn is over."""
        is_well, detail = False, "stopped in the middle"
        try:
            detail = await self._carried_out(restart)
            is_well = True
        except FirelineError as error:
            detail = f"not restarted: {error}"
        except Exception:  # an edge: one restart that fails must not end the others
            log.exception("recovery: %s on %s", restart.name, restart.host)
            detail = "not restarted: the controller failed; its log says how"
        finally:
            self._ended(rules, restart, is_well=is_well)
            entry = entries.ended(restart, self._rooms.now(), is_well=is_well, detail=detail)
            await asyncio.shield(self._note(entry))

    async def _note(self, entry: Entry) -> None:
        try:
            await self._rooms.store.run(lambda tx: tx.append(entry))
        except FirelineError:
            log.exception("recovery: not on record: %s", entry.summary)

    async def _carried_out(self, restart: Restart) -> str:
        """Returns: how it is known that it helped."""
        wish = Wish(entries.ACTOR, TargetSpec((restart.host,)), reason=f"recovery: {restart.sentence}")
        profile = safeguard.profile("container.restart", _EVIDENCE)
        await _succeeded(self._capture(wish, profile), "not captured, so left alone")
        call = ActionCall("container.restart", {"container": restart.name})
        planned, _ = await _succeeded(self._remediations.plan(wish, call), "no plan")
        _, outcome = await _succeeded(self._remediations.apply(wish, planned), "the restart did not help")
        return outcome.detail

    def _ended(self, rules: Rules, restart: Restart, *, is_well: bool) -> None:
        self._state = recovery.ended(rules, self._state, (restart.host, restart.name), is_well=is_well)


def remembered(tx: Transaction, rules: Rules, now: datetime) -> State:
    """What the journal's last lines tell of restarts and breakers, so that a new process has no new budget."""
    since = now - timedelta(seconds=max(rules.window_s, rules.cool_s))
    head = tx.head()[0]
    lines = (line.entry for line in tx.lines(max(1, head - _LINES_BACK)))
    tracks: dict[Key, Track] = {}
    for kind, host, name, at in entries.earlier(lines):
        track = tracks.get((host, name), Track())
        if at <= since:
            continue
        if kind == entries.RESTARTING:
            attempts = track.attempts + 1
            next_at = at + recovery.backoff(rules, (host, name), attempts)
            tracks[host, name] = Track(tries=(*track.tries, at), attempts=attempts, next_at=next_at)
        else:
            tracks[host, name] = replace(track, opened_at=at)
    return State(tracks)


async def _succeeded(news: AsyncIterator[News], otherwise: str) -> tuple[str, HostOutcome]:
    """The operation and its one host's outcome.

    Raises:
        FirelineError: it was not ok.
    """
    operation_id, outcome = "", None
    async for one in news:
        if isinstance(one, Started):
            operation_id = one.operation_id
        elif isinstance(one, HostOutcome):
            outcome = one
    if outcome is None or outcome.outcome is not Outcome.OK:
        raise FirelineError(f"{otherwise}: {outcome.detail if outcome else 'no word from the host'}")
    return operation_id, outcome


def _bounded(verdicts: Iterable[Verdict]) -> list[Verdict]:
    every = list(verdicts)
    held = [verdict for verdict in every if isinstance(verdict, Held)]
    return [verdict for verdict in every if verdict not in held[_HELD_LINES:]]
