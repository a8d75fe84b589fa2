"""What of an isolation is in force, read from the kernel and never from what we remember."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from fireline_agent.hands import namespaces
from fireline_agent.hands.nft import Nft
from fireline_agent.isolation.means import Force
from fireline_agent.isolation.model import FAMILIES, TABLE_PREFIX

_OURS: Final = re.compile(re.escape(TABLE_PREFIX) + r"[0-9a-f]{8}\Z")
_LEASE: Final = re.compile(r" timeout [0-9dhms]+")
_DEVICES: Final = re.compile(r"\bdevices? (?:= \{[^}]*\}|\"[^\"]*\")")
_DEVICE: Final = re.compile(r"[^\s{},=\"]+")
_HEADER: Final = re.compile(r"table \S+ (\S+) \{$")


def look(nft: Nft, name: str) -> Force:
    """Whether the tables of this name drop in this thread's network namespace, and for how long.

    The lease of one table is that of all: they are made in one transaction, and `inspect` finds out where one was
    changed.

    Raises:
        NftError: they can't be listed.
    """
    if ("inet", name) not in nft.tables():
        return Force()
    return Force(is_there=True, lease_left_ms=_lease_left_ms(nft.table("inet", name)))


def inspect(nft: Nft, name: str) -> Force:
    """The same of every table, with what was dropped and what they say.

    Raises:
        NftError: they can't be listed.
    """
    found = set(nft.tables())
    families = [family for family in FAMILIES if (family, name) in found]
    if not families:
        return Force()
    parts = [nft.table(family, name) for family in families]
    left = [_lease_left_ms(part) for part in parts]
    return Force(
        is_there=True,
        # The shortest lease counts: where one table has let go, the host is not dark.
        lease_left_ms=min((ms for ms in left if ms is not None), default=None),
        dropped_packets=sum(_dropped(part) for part in parts),
        written="".join(nft.written(family, name) for family in families),
    )


def rehearsed(nft: Nft, transaction: str, name: str) -> str:
    """What this kernel and its nft would write of a transaction, found in a namespace that is thrown away.

    So nobody can pass off changed rules as ours, however soon after us they were changed.

    Raises:
        NftError: it is refused.
        OSError: there can be no such namespace.
    """
    with namespaces.throw_away():
        nft.apply(_DEVICES.sub('device "lo"', transaction))
        return inspect(nft, name).written


def is_as_rehearsed(written: str, rehearsal: str, devices: Collection[str]) -> bool:
    """Whether what is written is what was rehearsed, leases left out, on these devices."""
    found = {
        frozenset(_DEVICE.findall(place)) - {"device", "devices"} for place in _DEVICES.findall(_LEASE.sub("", written))
    }
    return _bare(written) == _bare(rehearsal) and found <= {frozenset(devices)}


def _bare(written: str) -> str:
    return _DEVICES.sub("devices", _LEASE.sub("", written))


def own_names(nft: Nft) -> set[str]:
    """The names of all tables that an agent of ours made here.

    Raises:
        NftError: tables can't be listed.
    """
    return {name for _, name in nft.tables() if _OURS.match(name)}


def without_ours(ruleset: str) -> str:
    """A listed ruleset without the tables that agents of ours made."""
    kept, is_ours = [], False
    for line in ruleset.splitlines(keepends=True):
        header = _HEADER.match(line.rstrip("\n"))
        if header is not None:
            is_ours = _OURS.match(header[1]) is not None
        if not is_ours:
            kept.append(line)
    return "".join(kept)


def _lease_left_ms(parts: list[dict[str, Any]]) -> int | None:
    for part in parts:
        found = part.get("set")
        if isinstance(found, dict) and found.get("name") == "armed":
            return next(map(_left_ms, found.get("elem", ())), 0)
    return 0


def _left_ms(element: Any) -> int | None:
    """nft gives whole seconds; what is in its last second still counts as one."""
    inside = element.get("elem") if isinstance(element, Mapping) else None
    if not isinstance(inside, Mapping) or "expires" not in inside:
        return None
    return max(1, int(inside["expires"]) * 1000)


def _dropped(parts: list[dict[str, Any]]) -> int:
    return sum(counter for part in parts for counter in _counters(part.get("rule")))


def _counters(rule: Any) -> Iterator[int]:
    for expression in rule.get("expr", ()) if isinstance(rule, dict) else ():
        if isinstance(expression, dict) and isinstance(expression.get("counter"), dict):
            yield int(expression["counter"].get("packets", 0))
