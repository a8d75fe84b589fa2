"""Which hosts a target means: names, ranges, groups and label selectors, resolved once and then frozen.

A term is one of:

    all                           every host
    web[01-20],db-1   @db   web*  names, ranges, groups and wildcards, with ClusterShell's algebra (, ! & ^)
    role=db,env!=dev              label selector: all of its requirements hold
    env in (a,b)   tier notin (x)   !gpu   gpu

Selectors are Kubernetes': `env!=dev` and `env notin (dev)` also hold for a host without the label `env`. A bare word is
a host's name first; only where no host has that name is it the label that a host must carry. Pure: leaves to others
where hosts and groups come from, and the confirmation of a wide target.
"""

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from ClusterShell.NodeSet import NodeSet, NodeSetException
from ClusterShell.NodeUtils import GroupResolver, GroupSource

from fireline_controller.model import EmptyTarget, Host, NotFound, Target, TargetError

ALL: Final = "all"
MAX_NAMES: Final = 100_000  # in one term: a slip like web[1-99999999] must not fill the memory

_KEY: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?"
_VALUE: Final = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)?"
_BARE: Final = re.compile(rf"{_KEY}\Z")
_COMPARED: Final = re.compile(rf"({_KEY})\s*(==|=|!=)\s*({_VALUE})\Z")
_LISTED: Final = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)\Z")
_SELECTOR: Final = re.compile(r"\s*!|.*=|.*\s(in|notin)\s*\(")
_GROUP: Final = re.compile(r"(?:^|[,!&^])\s*@([^,!&^\s]+)")
_RANGE: Final = re.compile(r"(\d+)-(\d+)")


def resolve(terms: Sequence[str], excluded: Sequence[str], hosts: Sequence[Host], groups: Mapping[str, str]) -> Target:
    """Resolve the terms' union, less the exceptions, and freeze it. Removed hosts are no hosts.

    A name that is not a host's is an error, in exceptions too: a slip there would hit the very host that was to be
    spared. What a group names and nobody has enrolled can be excepted by name.

    Raises:
        TargetError: there is no term, or one does not parse.
        NotFound: a term names a host or a group that is not known; the message says the nearest that is.
        EmptyTarget: no host is left.
    """
    if not terms:
        raise TargetError("no target: say --target: names, ranges, @groups, label selectors or all")
    fleet = _Fleet.of(hosts, groups)
    wanted = _union(terms, fleet)
    spared = _union(excluded, fleet)
    fleet.require_known(wanted - spared, "target")
    fleet.require_known(spared - wanted, "exception")
    chosen = wanted - spared
    spelled = _spell(terms, excluded)
    if not chosen:
        raise EmptyTarget(_nothing_matched(spelled, wanted, fleet))
    return freeze(chosen, spelled=spelled)


def selected(selector: str, hosts: Iterable[Host]) -> frozenset[str]:
    """The names of the hosts for which a label selector, or `all`, holds. Names and groups are no selectors here.

    Raises:
        TargetError: it does not parse.
    """
    if selector.strip() == ALL:
        return frozenset(host.name for host in hosts)
    requirements = [_requirement(part, selector, _NOBODY) for part in _parts(selector)]
    return frozenset(host.name for host in hosts if all(r.holds(host.labels) for r in requirements))


def freeze(names: Iterable[str], *, spelled: str) -> Target:
    """Freeze names that are known to be hosts': sorted, folded, and hashed one a line."""
    ordered = tuple(sorted(set(names)))
    digest = hashlib.sha256("".join(f"{name}\n" for name in ordered).encode()).hexdigest()
    return Target(hosts=ordered, sha256=digest, folded=fold(ordered), spelled=spelled)


def fold(names: Iterable[str]) -> str:
    """Names in ClusterShell's short form: web[1-3],web-5."""
    return _folded(tuple(names))


@lru_cache(maxsize=64)  # folding 1,000 names costs as much as calling 200 hosts, and a fleet rarely changes
def _folded(names: tuple[str, ...]) -> str:
    return str(NodeSet.fromlist(list(names), resolver=GroupResolver()))


@dataclass(frozen=True)
class _Fleet:
    """What terms are resolved against."""

    hosts: Mapping[str, Host]
    groups: Mapping[str, str]
    resolver: GroupResolver
    label_keys: frozenset[str]

    @classmethod
    def of(cls, hosts: Sequence[Host], groups: Mapping[str, str]) -> "_Fleet":
        present = {host.name: host for host in hosts if not host.removed}
        source = GroupSource("fireline", dict(groups), allgroups=fold(present))
        keys = frozenset(key for host in present.values() for key in host.labels)
        return cls(present, groups, GroupResolver(default_source=source), keys)

    def require_known(self, names: set[str], what: str) -> None:
        unknown = sorted(names - self.hosts.keys())
        if not unknown:
            return
        raise NotFound(
            f"{what} names {fold(unknown)}: no such host is enrolled{_nearest(unknown[0], self.hosts)};"
            " see `fireline host list`"
        )


_NOBODY: Final = _Fleet.of((), {})  # a selector is read the same whatever hosts are called


def _union(terms: Sequence[str], fleet: _Fleet) -> set[str]:
    names: set[str] = set()
    for term in terms:
        names |= _expand(term.strip(), fleet)
    return names


def _expand(term: str, fleet: _Fleet) -> set[str]:
    if not term:
        raise TargetError("a target term is empty: wanted a name, a range, @group, a label selector or `all`")
    if term == ALL:
        return set(fleet.hosts)
    if _is_selector(term, fleet):
        requirements = [_requirement(part, term, fleet) for part in _parts(term)]
        return {name for name, host in fleet.hosts.items() if all(r.holds(host.labels) for r in requirements)}
    return _names(term, fleet)


def _is_selector(term: str, fleet: _Fleet) -> bool:
    if _SELECTOR.match(term):
        return True
    return term in fleet.label_keys and term not in fleet.hosts


def _names(term: str, fleet: _Fleet) -> set[str]:
    _check_groups(term, fleet.groups, ())
    for low, high in _RANGE.findall(term):
        if len(high) > 9 or int(high) - int(low) >= MAX_NAMES:
            raise TargetError(f"target {term!r}: the range {low}-{high} is longer than {MAX_NAMES} names")
    try:
        nodes = NodeSet(term, resolver=fleet.resolver)
    except NodeSetException as error:
        raise TargetError(f"target {term!r} does not parse: {error}") from error
    if len(nodes) > MAX_NAMES:
        raise TargetError(f"target {term!r} means {len(nodes)} names: at most {MAX_NAMES} are allowed")
    return set(nodes)


def _check_groups(text: str, groups: Mapping[str, str], outer: tuple[str, ...]) -> None:
    """Refuse an unknown group and a circle of groups: ClusterShell takes the first for empty, silently."""
    for name in _GROUP.findall(text):
        if name == "*":
            continue
        if name not in groups:
            where = f" (in group @{outer[-1]})" if outer else ""
            raise NotFound(
                f"no group is named @{name}{where}{_nearest(name, groups, '@')};"
                " groups are set in [groups] of fireline.toml"
            )
        if name in outer:
            raise TargetError(f"group @{name} contains itself: {' > '.join('@' + g for g in (*outer, name))}")
        _check_groups(groups[name], groups, (*outer, name))


@dataclass(frozen=True)
class _Requirement:
    """One part of a selector. Absent stands for a label that a host does not carry."""

    key: str
    values: frozenset[str] | None  # None: any value
    wanted: bool

    def holds(self, labels: Mapping[str, str]) -> bool:
        if self.values is None:
            return (self.key in labels) == self.wanted
        return (labels.get(self.key) in self.values) == self.wanted


def _parts(term: str) -> list[str]:
    """The selector's requirements: split at commas outside of parentheses."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", term)]


def _requirement(part: str, term: str, fleet: _Fleet) -> _Requirement:
    if part in fleet.hosts and part not in fleet.label_keys:
        raise TargetError(
            f"selector {term!r}: {part!r} is a host's name; give names and selectors as targets of their own"
        )
    if compared := _COMPARED.match(part):
        key, operator, value = compared.groups()
        return _Requirement(key, frozenset([value]), wanted=operator != "!=")
    if listed := _LISTED.match(part):
        key, operator, values = listed.groups()
        return _Requirement(key, _values(values, term), wanted=operator == "in")
    bare = part.removeprefix("!").strip()
    if _BARE.match(bare):
        return _Requirement(bare, None, wanted=not part.startswith("!"))
    raise TargetError(
        f"selector {term!r}: {part!r} is no requirement; wanted KEY=VALUE, KEY!=VALUE, KEY in (A,B), KEY notin (A,B),"
        " KEY or !KEY"
    )


def _values(text: str, term: str) -> frozenset[str]:
    values = frozenset(value.strip() for value in text.split(","))
    for value in values:
        if not re.fullmatch(_VALUE, value):
            raise TargetError(
                f"selector {term!r}: {value!r} is no label value; wanted letters, digits, '-', '_' and '.'"
            )
    return values


def _nearest(name: str, known: Iterable[str], mark: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (nearest: {mark}{near[0]})" if near else ""


def _spell(terms: Sequence[str], excluded: Sequence[str]) -> str:
    """As a person reads it; a term may hold commas itself, so several stand with `and`."""
    return " except ".join(" and ".join(" ".join(term.split()) for term in part) for part in (terms, excluded) if part)


def _nothing_matched(spelled: str, wanted: set[str], fleet: _Fleet) -> str:
    if not fleet.hosts:
        return "no host is enrolled: make a token with `fireline enroll token`"
    if wanted:
        return f"target {spelled}: every host that it names is excepted: {fold(wanted)}"
    keys = ", ".join(sorted(fleet.label_keys)[:20]) or "none"
    hosts = "the one host" if len(fleet.hosts) == 1 else f"any of the {len(fleet.hosts)} hosts"
    return f"target {spelled} does not match {hosts}; labels in use: {keys}"
