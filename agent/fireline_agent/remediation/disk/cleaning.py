"""Removing chosen files below named roots: what clean_logs and clean_temp share. No action.

A change is a batch of files (selection); it is done only where every one of them is still the planned one. Leaves
to others: which files (selection), where (ground), removing them (removal).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from fireline_agent.hands import holders, selection, space, tree
from fireline_agent.hands.chosen import NO_AGE, SHOWN, Batch, Look, Lot, Rules, Selected
from fireline_agent.hands.printable import printable
from fireline_agent.hands.tree import Folder
from fireline_agent.remediation.action import ActionError, Change, Facts, Plan, Tools, Verified
from fireline_agent.remediation.disk import ground
from fireline_agent.remediation.disk.removal import PATH_LETTERS, Removal
from fireline_wire.actions import Kind, Result

_MAX_WARNED: Final = 5

# What the collector `selected_files` is told of a cleaning: the same words choose the same files.
CHOSEN_BY: Final = {"roots": "$roots", "older_than": "$older_than", "patterns": "$patterns"}
RESULTS: Final = (
    Result("files", Kind.INT, "Files that are chosen."),
    Result("size_bytes", Kind.SIZE, "What they take on the disk."),
    Result("largest", Kind.ROWS, "The largest of them, at most 200."),
    Result("spared", Kind.ROWS, "What is left alone, and why; at most 200."),
    Result("available_bytes", Kind.SIZE, "Space left where the roots lie, the least of them."),
    Result("used_percent", Kind.NUMBER, "Space used where the roots lie, the most of them, as df counts."),
)


@dataclass(frozen=True)
class _Root:
    path: str
    selected: Selected
    available_bytes: int
    used_percent: float


def gather(tools: Tools, roots: Sequence[str], rules: Rules) -> Facts:
    """What is chosen below each root now.

    Raises:
        ActionError: a root may not be cleaned, or is no folder.
    """
    ground.check_patterns(rules.patterns)
    ground.check(roots, state=tools.roots.state.resolve(), allows_path=tools.allows_path)
    look = _look(tools)
    found = [_selected(root, rules, look) for root in roots]
    return {
        "before_ns": rules.before_ns,
        "roots": [
            {
                "path": root.path,
                "available_bytes": root.available_bytes,
                "used_percent": root.used_percent,
                "batches": [_document(batch) for batch in root.selected.batches],
                "largest": [asdict(one) for one in root.selected.largest],
                "spared": root.selected.spared,
                "spared_count": root.selected.spared_count,
                "linked": root.selected.linked,
                "linked_count": root.selected.linked_count,
            }
            for root in found
        ],
    }


def plan(facts: Facts, *, held: str) -> Plan:
    """One change a batch. `held` says what happens to files in use, where that is not nothing."""
    changes = [_change(root["path"], batch, facts["before_ns"], held) for root, batch in _batches(facts)]
    files = sum(change.data["files"] for change in changes)
    size = sum(change.size_bytes for change in changes)
    where = ", ".join(printable(root["path"]) for root in facts["roots"])
    return Plan(
        f"{_counted(files)} of {size_text(size)} below {where}" if files else f"nothing to remove below {where}",
        tuple(changes),
        tuple(_warnings(facts)),
        {
            "files": files,
            "size_bytes": size,
            "largest": _largest(facts),
            "spared": [
                {"path": printable(path, limit=PATH_LETTERS), "why": printable(why)}
                for root in facts["roots"]
                for path, why in root["spared"].items()
            ][:SHOWN],
            **_left(facts["roots"]),
        },
    )


def do(tools: Tools, change: Change, rules: Rules) -> Mapping[str, Any]:
    """Remove one batch.

    Raises:
        ActionError: it is not what was planned any more; nothing of it was removed. Or a file refuses to go.
    """
    data = change.data
    batch = _batch(data)
    rules = replace(rules, before_ns=data["before_ns"])
    try:
        with _opened(data["root"], batch.path) as folder:
            if (folder.found.st_dev, folder.found.st_ino) != batch.identity:
                raise ActionError(f"{printable(batch.path)}: is another folder than the planned one; plan again")
            lot, picked = selection.pick(folder, batch, rules, _look(tools))
            if lot.digest != batch.lot.digest:
                raise ActionError(
                    f"{printable(batch.path)}: wanted the {batch.lot.files} files of the plan, found {lot.files} that "
                    "are not all the same (one was changed, opened or removed meanwhile); plan again"
                )
            return Removal(tools, folder).run(picked)
    except tree.NoFolder as error:
        raise ActionError(f"{printable(str(error.filename))}: {error.strerror}; plan again") from None


def verify(tools: Tools, planned: Plan, rules: Rules) -> Verified:
    """Whether the planned files are gone, and how much room there is now."""
    look, left = _look(tools), 0
    for change in planned.changes:
        batch = _batch(change.data)
        newest = replace(rules, before_ns=batch.lot.newest_ns)
        with suppress(tree.NoFolder), _opened(change.data["root"], batch.path) as folder:
            left += sum(not (one.is_held or one.is_folder) for one in selection.pick(folder, batch, newest, look)[1])
    roots = list(dict.fromkeys(change.data["root"] for change in planned.changes))
    spaces = [space.of(root) for root in roots]
    now = _left([{"available_bytes": s.available_bytes, "used_percent": s.used_percent} for s in spaces])
    if left:
        return Verified(False, f"{left} of {planned.result['files']} files are still there", now)
    had = planned.result["available_bytes"]
    room = now.get("available_bytes", had)
    return Verified(
        True, f"all {planned.result['files']} files went; {size_text(room)} free, was {size_text(had)}", now
    )


def size_text(size: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _look(tools: Tools) -> Look:
    return Look(holders.held(tools.roots.proc), tree.mount_points(tools.roots.proc))


@contextmanager
def _opened(root: str, path: str) -> Iterator[Folder]:
    with tree.opened(root) as top, tree.opened_below(top, path[len(root.rstrip("/")) + 1 :]) as folder:
        yield folder


def _selected(root: str, rules: Rules, look: Look) -> _Root:
    try:
        with tree.opened(root) as folder:
            selected = selection.select(folder, rules, look)
        found = space.of(root)
    except tree.NoFolder as error:
        raise ActionError(f"{printable(str(error.filename))}: {error.strerror}", reason="not_found") from None
    except OSError as error:
        raise ActionError(f"{printable(root)}: could not be looked through: {error}") from None
    return _Root(root, selected, found.available_bytes, found.used_percent)


def _document(batch: Batch) -> dict[str, Any]:
    document = asdict(batch) | asdict(batch.lot)
    del document["lot"]
    return document | {"digest": f"{batch.lot.digest:064x}", "identity": list(batch.identity)}


def _batch(data: Mapping[str, Any]) -> Batch:
    lot = Lot(data["files"], data["held"], 0, data["newest_ns"], int(data["digest"], 16))
    device, inode = data["identity"]
    return Batch(data["path"], (device, inode), data["first"], data["last"], lot)


def _batches(facts: Facts) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    return ((root, batch) for root in facts["roots"] for batch in root["batches"])


def _change(root: str, batch: Mapping[str, Any], before: int, held: str) -> Change:
    path, files = printable(batch["path"], limit=PATH_LETTERS), batch["files"] - batch["held"]
    until = datetime.fromtimestamp(batch["newest_ns"] / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    part = "" if (batch["first"], batch["last"]) == (0, 63) else f" (part {batch['first']} to {batch['last']} of 64)"
    deeds = [f"remove {_counted(files)}, the newest of {until}"] if files else []
    deeds += [held.format(batch["held"])] if batch["held"] else []
    data = {key: value for key, value in batch.items() if key != "size_bytes"}
    return Change(
        "files",
        f"{path}{part}, inode {batch['identity'][1]}",
        f"below {path}{part}: {'; '.join(deeds)}",
        data | {"root": root, "before_ns": NO_AGE if before == NO_AGE else batch["newest_ns"]},
        batch["size_bytes"],
    )


def _largest(facts: Facts) -> list[dict[str, Any]]:
    every = [one for root in facts["roots"] for one in root["largest"]]
    every.sort(key=lambda one: (-one["size_bytes"], one["folder"], one["name"]))
    return [
        {
            "path": printable(f"{one['folder'].rstrip('/')}/{one['name']}", limit=PATH_LETTERS),
            "size_bytes": one["size_bytes"],
            "modified": datetime.fromtimestamp(one["mtime_ns"] / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "held_open": one["is_held"],
        }
        for one in every[:SHOWN]
    ]


def _left(roots: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    found = list(roots)
    if not found:
        return {}
    return {
        "available_bytes": min(root["available_bytes"] for root in found),
        "used_percent": max(root["used_percent"] for root in found),
    }


def _warnings(facts: Facts) -> Iterator[str]:
    for root in facts["roots"]:
        yield from (
            f"left alone: {printable(p)}: {printable(w)}" for p, w in list(root["spared"].items())[:_MAX_WARNED]
        )
        if root["spared_count"] > _MAX_WARNED:
            yield f"{printable(root['path'])}: {root['spared_count'] - _MAX_WARNED} more are left alone"
        for path in root["linked"][:_MAX_WARNED]:
            yield f"{printable(path)} has other names: this one goes, and frees nothing until all of them are gone"


def _counted(files: int) -> str:
    return f"{files} file{'' if files == 1 else 's'}"
