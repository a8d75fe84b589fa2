"""Whether a host is dark, from what was seen of it before and after. Silence alone proves nothing: only silence where
there was an answer does.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fireline_controller.isolation.values import How, Sight

Views = Mapping[str, Sequence[Sight]]  # what each vantage saw, by its name

_NAMED = 5  # places that a sentence names before it only counts them


@dataclass(frozen=True)
class Verdict:
    """Whether it is proved, and the sentence that says so or says why not."""

    is_proved: bool
    sentence: str


def answered(views: Views) -> tuple[tuple[str, int], ...]:
    """Every address and port that answered anybody, sorted."""
    return tuple(sorted({sight.place for sights in views.values() for sight in sights if sight.how.is_answer}))


def judge(before: Views, after: Views) -> Verdict:
    """Judge a host dark: nothing answers anybody any more, and each address that answered is silent to one who saw it.

    A vantage that could not look again is missing in `after`. "No way there" is neither an answer nor silence: it may
    be the vantage's own network.
    """
    places = answered(before)
    if not places:
        return Verdict(False, f"nothing answered {_names(before)} before, so silence proves nothing")
    leaks = [(s, name) for name, sights in sorted(after.items()) for s in sights if s.how.is_answer]
    if leaks:
        return Verdict(False, f"it still answers: {_listed(_spelled(s, name) for s, name in leaks)}")
    proved = {
        sight.address
        for name, sights in before.items()
        for sight in sights
        if sight.how.is_answer and (sight.place, How.SILENT) in {(s.place, s.how) for s in after.get(name, ())}
    }
    if unproved := sorted({address for address, _ in places} - proved):
        why = _lost(before, after)
        return Verdict(False, f"nobody who saw {_listed(unproved)} before could see it silent: {why}")
    return Verdict(True, f"dark to {_names(after)}: {_counted(places)} that answered before {_are(places)} silent")


def restored(places: Iterable[tuple[str, int]], after: Views) -> Verdict:
    """Judge a release: what answered before the isolation answers again to somebody."""
    wanted = tuple(sorted(set(places)))
    missing = [f"{_at(*place)}" for place in wanted if place not in set(answered(after))]
    if not wanted or not after:
        return Verdict(False, "nobody could look whether its ports answer again")
    if missing:
        return Verdict(False, f"does not answer {_names(after)} as before: {_listed(missing)}")
    return Verdict(True, f"{_counted(wanted)} that answered before {_are(wanted)} seen again by {_names(after)}")


def _spelled(sight: Sight, name: str) -> str:
    return f"{_at(sight.address, sight.port)} ({sight.how} to {name})"


def _at(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _lost(before: Views, after: Views) -> str:
    lost = sorted(set(before) - set(after))
    return f"{_listed(lost)} could not look again" if lost else "they found no way there"


def _names(views: Views) -> str:
    return _listed(sorted(views)) if views else "anybody"


def _listed(texts: Iterable[str]) -> str:
    ordered = list(texts)
    more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return ", ".join(ordered[:_NAMED]) + more


def _counted(places: Sequence[tuple[str, int]]) -> str:
    addresses = len({address for address, _ in places})
    ports = "1 port" if len(places) == 1 else f"{len(places)} ports"
    return f"{ports} at {addresses} addresses" if addresses > 1 else ports


def _are(places: Sequence[tuple[str, int]]) -> str:
    return "is" if len(places) == 1 else "are"
