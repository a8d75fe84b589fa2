"""From one look at a host to what follows: a new state, and verdicts with a sentence each. Pure.

Sources: the circuit breaker of Nygard, Release It!, ch. 5; exponential back-off with jitter.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from fireline_controller.recovery.model import (
    Capped,
    Held,
    Key,
    Look,
    Recovered,
    Restart,
    Rules,
    Seen,
    State,
    Track,
    Tripped,
    Verdict,
)

_MOST_DOUBLINGS: Final = 30  # beyond it the back-off is at its most anyway
_DOWN: Final = ("exited", "dead")


class _Condition(Enum):
    WELL = "well"
    FAILING = "failing"
    UNSURE = "unsure"


def decide(rules: Rules, state: State, look: Look, now: datetime) -> tuple[State, tuple[Verdict, ...]]:
    """What follows from a look at one host. The same look twice counts twice: give each once, in order."""
    tracks = dict(state.tracks)
    verdicts: list[Verdict] = []
    watched = [seen for seen in look.containers if rules.watches(seen)]
    for seen in watched:
        key = look.host, seen.name
        tracks[key], told = _noted(rules, _aged(rules, tracks.get(key, Track()), now), seen, key, now)
        verdicts += told
    _forget_gone(rules, tracks, look, now)
    is_capped = state.is_capped and _spent(tracks) >= rules.fleet_budget
    for seen in _dependencies_first(watched):
        key = look.host, seen.name
        verdict = _verdict(rules, tracks, watched, seen, key, now)
        if isinstance(verdict, Capped) and is_capped:
            continue
        is_capped = is_capped or isinstance(verdict, Capped)
        if verdict is not None:
            tracks[key] = _after(rules, tracks[key], verdict, key, now)
            is_told = isinstance(verdict, Held) and verdict.why == state.tracks.get(key, Track()).held
            verdicts += [] if is_told else [verdict]
        elif tracks[key].held:
            tracks[key] = replace(tracks[key], held="")
    return State(tracks, is_capped), tuple(verdicts)


def ended(rules: Rules, state: State, key: Key, *, is_well: bool) -> State:
    """A restart that was under way has ended. One that did not help makes the next due after the back-off."""
    track = state.tracks.get(key, Track())
    failures = 0 if is_well else rules.failures
    return replace(state, tracks={**state.tracks, key: replace(track, is_in_hand=False, failures=failures)})


def backoff(rules: Rules, key: Key, attempts: int) -> timedelta:
    """How long after the given attempt (from 1) the next may follow."""
    plain = min(rules.backoff_s * 2 ** min(attempts - 1, _MOST_DOUBLINGS), rules.backoff_most_s)
    digest = hashlib.sha256(f"{rules.seed}\0{key[0]}\0{key[1]}\0{attempts}".encode()).digest()
    share = int.from_bytes(digest[:8]) / (1 << 64) * 2 - 1
    return timedelta(seconds=plain * (1 + rules.jitter * share))


def _condition(seen: Seen, former: Track) -> _Condition:
    if seen.state == "paused":
        return _Condition.UNSURE
    grew = former.restarts >= 0 and seen.restarts > former.restarts
    if seen.health == "unhealthy" or seen.state in ("restarting", "dead") or grew:
        return _Condition.FAILING
    if seen.state == "exited":  # one that ended well was stopped, or is a job
        return _Condition.FAILING if seen.exit_code else _Condition.UNSURE
    if seen.state != "running" or seen.health == "starting":
        return _Condition.UNSURE
    return _Condition.WELL


def _aged(rules: Rules, track: Track, now: datetime) -> Track:
    since = now - timedelta(seconds=rules.window_s)
    return replace(track, tries=tuple(at for at in track.tries if at > since))


def _noted(rules: Rules, track: Track, seen: Seen, key: Key, now: datetime) -> tuple[Track, tuple[Verdict, ...]]:
    """The track after a look, and whether it has recovered by it."""
    found = _condition(seen, track)
    grown = max(1, seen.restarts - track.restarts) if track.restarts >= 0 else 1
    track = replace(track, restarts=seen.restarts)
    if track.is_in_hand or found is _Condition.UNSURE:
        return track, ()
    if found is _Condition.FAILING:
        return replace(track, failures=track.failures + grown, well_since=None), ()
    since = track.well_since or now
    if (now - since).total_seconds() < rules.settled_s or not (track.attempts or track.opened_at):
        return replace(track, failures=0, well_since=since), ()
    sentence = f"{key[1]} on {key[0]} is well for {(now - since).total_seconds():.0f} s"
    return Track(restarts=seen.restarts, tries=track.tries, well_since=since), (Recovered(*key, sentence),)


def _forget_gone(rules: Rules, tracks: dict[Key, Track], look: Look, now: datetime) -> None:
    """What is not on the host any more, unless its restarts still count."""
    names = {seen.name for seen in look.containers}
    for key in [key for key in tracks if key[0] == look.host and key[1] not in names]:
        aged = _aged(rules, tracks[key], now)
        if aged.tries or aged.is_in_hand:
            tracks[key] = aged
        else:
            del tracks[key]


def _verdict(
    rules: Rules, tracks: dict[Key, Track], watched: Sequence[Seen], seen: Seen, key: Key, now: datetime
) -> Verdict | None:
    track = tracks[key]
    if track.is_in_hand or track.failures < rules.failures:
        return None
    has_cooled = track.opened_at is not None and (now - track.opened_at).total_seconds() >= rules.cool_s
    if track.opened_at is not None and not has_cooled:
        return None
    if why := _reason_to_wait(rules, tracks, watched, seen, key, now):
        return Held(*key, f"{_failing(seen, track)}; not restarted: {why}", why)
    if len(track.tries) >= rules.budget and not has_cooled:
        tried = f"{len(track.tries)} restarts in {rules.window_s:g} s did not help"
        return Tripped(*key, f"{_failing(seen, track)}; {tried}: no more, somebody must look")
    if _spent(tracks) >= rules.fleet_budget:
        spent = f"{rules.fleet_budget} restarts in {rules.window_s:g} s over the fleet"
        return Capped(*key, f"{_failing(seen, track)}; {spent}: a common cause is likely, somebody must look")
    return Restart(*key, f"{_failing(seen, track)}; restart {len(track.tries) + 1} of {rules.budget}")


def _failing(seen: Seen, track: Track) -> str:
    what = "fails its health check" if seen.health == "unhealthy" else f"is {seen.state}"
    return f"{seen.name} {what}, {track.failures} failures in a row"


def _reason_to_wait(
    rules: Rules, tracks: dict[Key, Track], watched: Sequence[Seen], seen: Seen, key: Key, now: datetime
) -> str:
    for window in rules.windows:
        if window.is_open(now):
            return f"maintenance window {window.text}"
    if unwell := _unwell_needs(rules, tracks, watched, seen, key[0]):
        return f"it needs {', '.join(unwell)}, which is not well either"
    track = tracks[key]
    if track.next_at is not None and now < track.next_at:
        return f"backing off until {track.next_at:%Y-%m-%dT%H:%M:%SZ}"
    in_hand = [name for (host, name), one in tracks.items() if host == key[0] and one.is_in_hand]
    return f"{', '.join(in_hand)} is being restarted" if len(in_hand) >= rules.at_once else ""


def _unwell_needs(rules: Rules, tracks: dict[Key, Track], watched: Sequence[Seen], seen: Seen, host: str) -> list[str]:
    """Services that it depends on and that are failing or being restarted; not where they wait for it in turn."""
    unwell = []
    for other in watched:
        track = tracks[host, other.name]
        is_needed = other.project == seen.project and other.service in seen.needs and seen.service not in other.needs
        if is_needed and (track.failures or track.is_in_hand):
            unwell.append(other.service)
    return sorted(set(unwell))


def _after(rules: Rules, track: Track, verdict: Verdict, key: Key, now: datetime) -> Track:
    if isinstance(verdict, Restart):
        attempts = track.attempts + 1
        return replace(
            track,
            tries=(*track.tries, now),
            attempts=attempts,
            next_at=now + backoff(rules, key, attempts),
            failures=0,
            opened_at=None,  # the one that a cooled breaker lets through; the budget opens it again
            is_in_hand=True,
            held="",
        )
    if isinstance(verdict, Tripped):
        return replace(track, opened_at=now, held="")
    return replace(track, held=verdict.why) if isinstance(verdict, Held) else track


def _spent(tracks: dict[Key, Track]) -> int:
    return sum(len(track.tries) for track in tracks.values())


def _dependencies_first(watched: Sequence[Seen]) -> Iterator[Seen]:
    """By name, with what others need before them; in a circle by name."""
    left = sorted(watched, key=lambda seen: (seen.project, seen.service, seen.name))
    while left:
        waiting = {(seen.project, seen.service) for seen in left}
        free = [
            seen
            for seen in left
            if not any((seen.project, need) in waiting and need != seen.service for need in seen.needs)
        ]
        taken = (free or left)[0]
        left.remove(taken)
        yield taken
