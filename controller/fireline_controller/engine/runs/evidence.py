"""Which captures a capture step is: a profile, or what keeps the very things that later steps would destroy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fireline_controller.engine import safeguard
from fireline_controller.engine.runs.deeds import Order
from fireline_controller.profiles import Profile
from fireline_wire.actions import catalogue


def captures_of(order: Order, profile: Callable[[str], Profile]) -> Sequence[Profile]:
    """The captures of a step, one after the other: a collector can be told one thing in each.

    Raises:
        BadValue: a parameter of a later step does not fit.
    """
    if not order.evidence_for:
        return [_told(profile(order.what), next(iter(order.given.values()), {}))]
    found: dict[str, Profile] = {}
    for call in order.evidence_for:
        spec = catalogue()[call.action]
        wanted = safeguard.profile(call.action, spec.evidence_orders(call.given))
        found.setdefault(repr(wanted.collectors), wanted)
    return list(found.values())


def _told(profile: Profile, given: Mapping[str, Any]) -> Profile:
    """The profile with what its collectors are told besides, by `COLLECTOR.NAME`."""
    if not given:
        return profile
    orders = []
    for order in profile.collectors:
        own = {key.partition(".")[2]: value for key, value in given.items() if key.partition(".")[0] == order.name}
        orders.append(replace(order, params={**order.params, **own}))
    return replace(profile, collectors=tuple(orders))
