"""Who fills which disk: space and inodes of every file system, what is largest, and what is deleted but still open."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from fireline_agent.hands import children, holders, procfs, space, tree
from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import Action, ActionError, Facts, Params, Plan, Tools
from fireline_agent.remediation.disk.weight import Weight, weigh
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

_MAX_DELETED: Final = 100
_PATH_LETTERS: Final = 500


def _gather(tools: Tools, params: Params) -> Facts:
    for root in params["roots"]:
        if not tools.allows_reading(root):
            raise ActionError(
                f"{printable(root)}: this host's policy does not allow it to be read (`paths`); name others",
                reason="denied",
            )
    mounts = tree.mount_points(tools.roots.proc)
    return {
        "filesystems": list(_filesystems(tools)),
        "roots": [_weighed(root, mounts, params["top"]) for root in params["roots"]],
        "deleted_open": [
            {
                "path": printable(one.path, limit=_PATH_LETTERS),
                "size_bytes": one.size_bytes,
                "pids": [holder.pid for holder in one.holders],
                "process": one.holders[0].comm,
            }
            for one in holders.deleted(tools.roots.proc)
        ],
    }


def _filesystems(tools: Tools) -> Iterator[dict[str, Any]]:
    mounts = list(procfs.mounts(procfs.read(tools.roots.proc / "self/mountinfo") or b""))
    for mount, answer in space.asked(space.one_per_device(mounts), space.HANG_S):
        about = {
            "mount": printable(mount.point.decode(errors="surrogateescape"), limit=_PATH_LETTERS),
            "source": printable(mount.source.decode(errors="surrogateescape")),
            "kind": printable(mount.kind.decode(errors="surrogateescape")),
        }
        if isinstance(answer, children.ChildFailed):
            yield about | {"lacks": str(answer)}
        elif space.counts(mount, answer):
            yield about | asdict(answer)


def _weighed(root: str, mounts: frozenset[str], top: int) -> dict[str, Any]:
    try:
        with tree.opened(root) as folder:
            weight: Weight = weigh(folder, mounts, top)
    except tree.NoFolder as error:
        raise ActionError(f"{error.filename}: {error.strerror}", reason="not_found") from None
    return {"root": root, **asdict(weight)}


def _plan(facts: Facts, params: Params) -> Plan:
    full = sorted((f for f in facts["filesystems"] if "lacks" not in f), key=lambda f: (-f["used_percent"], f["mount"]))
    deleted = facts["deleted_open"]
    deleted_bytes = sum(one["size_bytes"] for one in deleted)
    fullest = f"{full[0]['mount']} is the fullest, {full[0]['used_percent']} % used" if full else "no file system"
    return Plan(
        f"{len(full)} file systems, {fullest}; {len(deleted)} deleted files still take {deleted_bytes} bytes",
        warnings=tuple(_warnings(facts)),
        result={
            "filesystems": [*full, *(f for f in facts["filesystems"] if "lacks" in f)],
            "used_percent": max((f["used_percent"] for f in full), default=0),
            "inodes_used_percent": max((f["inodes_used_percent"] for f in full), default=0),
            "size_bytes": sum(root["size_bytes"] for root in facts["roots"]),
            "files": sum(root["files"] for root in facts["roots"]),
            "largest_folders": _merged(facts, "largest_folders", params["top"]),
            "largest_files": _merged(facts, "largest_files", params["top"]),
            "deleted_open": deleted[:_MAX_DELETED],
            "deleted_open_bytes": deleted_bytes,
        },
    )


def _merged(facts: Facts, what: str, top: int) -> list[dict[str, Any]]:
    every = sorted({(-size, path) for root in facts["roots"] for size, path in root[what]})
    return [{"path": printable(path, limit=_PATH_LETTERS), "size_bytes": -size} for size, path in every[:top]]


def _warnings(facts: Facts) -> Iterator[str]:
    for filesystem in facts["filesystems"]:
        if "lacks" in filesystem:
            yield f"{filesystem['mount']} ({filesystem['kind']}) gave no answer: {filesystem['lacks']}"
    for root in facts["roots"]:
        refused = [(path, why) for path, why in root["skipped"] if "mounted" not in why and "file system" not in why]
        for path, why in refused[:5]:
            yield f"{printable(path)} was not looked into: {why}"


ACTION = Action(
    ActionSpec(
        "disk.usage",
        "Show who fills which disk: space and inodes, largest folders and files, deleted files that are still open",
        Risk.READ,
        parameters=(
            Parameter("roots", Kind.PATHS, "Folders to look through; each on its own file system only.", ["/"]),
            Parameter("top", Kind.INT, "How many of the largest folders and files are told.", 20, least=1, most=200),
        ),
        results=(
            Result("filesystems", Kind.ROWS, "Every file system with space and inodes, the fullest first."),
            Result("used_percent", Kind.NUMBER, "Space used of the fullest, as df counts."),
            Result("inodes_used_percent", Kind.NUMBER, "Inodes used of the one with the fewest left."),
            Result("size_bytes", Kind.SIZE, "What lies below the roots takes so much, as du counts."),
            Result("files", Kind.INT, "Files below the roots."),
            Result("largest_folders", Kind.ROWS, "With all below them."),
            Result("largest_files", Kind.ROWS, "The largest files."),
            Result("deleted_open", Kind.ROWS, "Files without a name that processes keep open, at most 100."),
            Result("deleted_open_bytes", Kind.SIZE, "What restarting those processes would free."),
        ),
    ),
    _gather,
    _plan,
)
