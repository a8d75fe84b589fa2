"""How actions are shown: what would be done, the same of several hosts once; what was found; what was done."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fireline_controller.cli import operations, output
from fireline_wire.actions import ActionSpec, Kind

if TYPE_CHECKING:
    from fireline_wire.v1 import control_pb2

_SHOWN_CHANGES = 20
_MAX_CELL = 200


def plan_table(seen: operations.Followed) -> None:
    """What would be done on each host, folded; hosts that could not be planned as in every other table."""
    planned = [h for h in seen.hosts if h.HasField("action")]
    others = [h for h in seen.hosts if not h.HasField("action")]
    for hosts, report in _alike(planned):
        _print_plan(hosts, report)
    if others:
        rows = output.outcome_rows(others)
        output.table(("HOSTS", "OUTCOME", "TIME", "DETAIL"), [(r[0], r[1], r[2], r[4]) for r in rows])


def result_table(seen: operations.Followed) -> None:
    """What a reading action found: its rows with a column for the hosts, and its values."""
    found = [(h.host, h.action) for h in seen.hosts if h.HasField("action")]
    results = {host: _result(report) for host, report in found}
    for name in _row_names(results.values()):
        _print_rows({host: result.get(name, []) for host, result in results.items()}, name)
    values = {host: _plain(result) for host, result in results.items()}
    if any(values.values()):
        _print_folded(values)
    cut = sorted(host for host, result in results.items() if result.get("truncated"))
    if cut:
        output.warn(f"cut short on {output.fold(cut)}: narrow the question to see all of it")
    print_warnings(seen.hosts)
    print_unanswered(seen.hosts)


def print_warnings(hosts: Sequence["control_pb2.HostOutcome"]) -> None:
    """What hosts warn of, the same of several once."""
    for warning, names in _warnings(hosts):
        output.warn(f"{output.fold(names)}: {warning}")


def print_unanswered(hosts: Sequence["control_pb2.HostOutcome"]) -> None:
    """Hosts that did not answer, as in every other table."""
    missing = [h for h in hosts if not h.HasField("action")]
    if missing:
        rows = output.outcome_rows(missing)
        output.table(("HOSTS", "OUTCOME", "TIME", "DETAIL"), [(r[0], r[1], r[2], r[4]) for r in rows])


def applied_table(seen: operations.Followed) -> None:
    """How it ended on each host, with the proof; what is in doubt loudly."""
    operations.outcome_table(seen)
    for host in sorted(seen.hosts, key=lambda h: h.host):
        for subject in host.action.in_doubt:
            output.warn(f"{host.host}: in doubt: {subject}")
    undoable = [h.host for h in seen.hosts if h.action.can_undo]
    if undoable and seen.started is not None:
        output.say(f"take it back: fireline action undo {seen.started.operation_id} --reason WHY")


def print_spec(spec: ActionSpec) -> None:
    """All that is to know of an action."""
    facts = {
        "risk": str(spec.risk),
        "taken back": spec.undo or "never",
        "needs": ", ".join(spec.needs),
        "evidence before": ", ".join(spec.evidence),
    }
    print(f"{spec.name}: {spec.summary}")
    for name, fact in facts.items():
        if fact:
            print(f"  {name}: {fact}")
    if spec.parameters:
        print()
        output.table(("PARAMETER", "KIND", "DEFAULT", "WHAT"), [
            (p.name, str(p.kind), "required" if p.is_required else _cell(p.default), p.summary) for p in spec.parameters
        ])  # fmt: skip
    if spec.results:
        print()
        output.table(("RESULT", "KIND", "WHAT"), [(r.name, str(r.kind), r.summary) for r in spec.results])


def _alike(hosts: Sequence["control_pb2.HostOutcome"]) -> list[tuple[list[str], "control_pb2.ActionReport"]]:
    """Hosts with the same plan together: the same changes in the same words."""
    alike: defaultdict[tuple[object, ...], list[control_pb2.HostOutcome]] = defaultdict(list)
    for host in hosts:
        report = host.action
        changes = tuple((c.kind, c.does) for c in report.changes)
        alike[report.summary, changes, tuple(report.warnings), report.change_count].append(host)
    return [([h.host for h in group], group[0].action) for group in alike.values()]


def _print_plan(hosts: Sequence[str], report: "control_pb2.ActionReport") -> None:
    print(f"{output.fold(hosts)}: {output.printable(report.summary)} [{report.risk}]")
    for change in report.changes[:_SHOWN_CHANGES]:
        size = f" ({output.size(change.size_bytes)})" if change.size_bytes else ""
        print(f"  {output.printable(change.kind)}: {output.printable(change.does)}{size}")
    left = report.change_count - min(len(report.changes), _SHOWN_CHANGES)
    if left > 0:
        print(f"  and {left} more, {output.size(report.total_bytes)} in all")
    if not report.change_count:
        print("  nothing to do")
    for warning in report.warnings:
        output.warn(f"  {warning}")


def _result(report: "control_pb2.ActionReport") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report.result_json or "{}")
    return found


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _row_names(results: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted({name for result in results for name, value in result.items() if _is_rows(value)})


def _plain(result: Mapping[str, Any]) -> dict[str, str]:
    """The values that are no rows."""
    kept = {name: value for name, value in result.items() if not _is_rows(value) and name != "truncated"}
    return {name: _cell(value) for name, value in kept.items() if value not in ([], None)}


def _print_rows(found: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> None:
    alike: defaultdict[tuple[tuple[str, str], ...], list[str]] = defaultdict(list)
    for host, rows in found.items():
        for row in rows:
            alike[tuple((key, _cell(value)) for key, value in row.items())].append(host)
    columns = list(dict.fromkeys(key for row in alike for key, _ in row))
    print(f"{output.printable(name)}:")
    output.table(
        ("HOSTS", *(output.printable(c).upper() for c in columns)),
        [(output.fold(set(hosts)), *(dict(row).get(c, "") for c in columns)) for row, hosts in alike.items()],
    )
    print()


def _print_folded(values: Mapping[str, Mapping[str, str]]) -> None:
    alike: defaultdict[tuple[tuple[str, str], ...], list[str]] = defaultdict(list)
    for host, found in values.items():
        alike[tuple(found.items())].append(host)
    columns = list(dict.fromkeys(key for found in alike for key, _ in found))
    output.table(
        ("HOSTS", *(output.printable(c).upper() for c in columns)),
        [(output.fold(hosts), *(dict(found).get(c, "") for c in columns)) for found, hosts in alike.items()],
    )


def _warnings(hosts: Sequence["control_pb2.HostOutcome"]) -> list[tuple[str, list[str]]]:
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for host in hosts:
        for warning in host.action.warnings:
            alike[warning].append(host.host)
    return sorted(alike.items())


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 1]}…"


def parsed(spec: ActionSpec, given: Sequence[str]) -> dict[str, Any]:
    """Parameters as typed, `key=value`, as JSON values; a list may be given more than once.

    Raises:
        BadValue: an unknown parameter or a wrong value; names both.
    """
    from fireline_wire.actions import BadValue, nearest

    known = {parameter.name: parameter for parameter in spec.parameters}
    found: dict[str, Any] = {}
    for word in given:
        name, equals, text = word.partition("=")
        if not equals:
            raise BadValue(f"{word!r}: wanted KEY=VALUE")
        if name not in known:
            raise BadValue(f"{spec.name}: unknown parameter {name!r}; {nearest(name, known)}")
        value = known[name].parse(text)
        is_list = known[name].kind in (Kind.TEXTS, Kind.PATHS)
        found[name] = [*found.get(name, []), *value] if is_list else value
    return spec.check(found) and found
