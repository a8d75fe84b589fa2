"""Which captures a capture step is: a profile, or what keeps the very things that later steps would destroy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from fireline_controller.engine.runs.deeds import Order
from fireline_controller.profiles import CollectorOrder, Profile
from fireline_wire.actions import ActionSpec, catalogue

# What a collector is told of the parameters of an action, under the same names; the others are told nothing.
_TOLD: Final = {
    "selected_files": ("roots", "patterns", "older_than", "time", "kind"),
    "postgres_activity": ("service", "socket", "port", "user", "database"),
}
_KIND: Final = {"disk.clean_logs": "logs", "disk.clean_temp": "temporary"}


def captures_of(order: Order, profile: Callable[[str], Profile]) -> Sequence[Profile]:
    """The captures of a step, one after the other: a collector can be told one thing in each."""
    if not order.evidence_for:
        return [_told(profile(order.what), next(iter(order.given.values()), {}))]
    found: list[Profile] = []
    for call in order.evidence_for:
        spec = catalogue()[call.action]
        orders = tuple(collector_order(name, spec, call.given) for name in spec.evidence)
        wanted = Profile("evidence", f"what {call.action} would destroy", orders)
        if all(wanted.collectors != other.collectors for other in found):
            found.append(wanted)
    return found


def collector_order(name: str, spec: ActionSpec, given: Mapping[str, Any]) -> CollectorOrder:
    """A collector that keeps what an action with these parameters would destroy."""
    params = {**spec.check(given), **({"kind": _KIND[spec.name]} if spec.name in _KIND else {})}
    told = {key: params[key] for key in _TOLD.get(name, ()) if params.get(key) is not None}
    return CollectorOrder(name, told)


def _told(profile: Profile, given: Mapping[str, Any]) -> Profile:
    """The profile with what its collectors are told besides, by `COLLECTOR.NAME`."""
    if not given:
        return profile
    orders = []
    for order in profile.collectors:
        own = {key.partition(".")[2]: value for key, value in given.items() if key.partition(".")[0] == order.name}
        orders.append(replace(order, params={**order.params, **own}))
    return replace(profile, collectors=tuple(orders))
