"""Moves backups to other storage: each is copied, compared by hash on the other disk, and only then removed here."""

import errno
import fnmatch
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, Final

from fireline_agent.hands import holders, space, tree
from fireline_agent.hands.printable import printable
from fireline_agent.hands.selection import before_ns
from fireline_agent.hands.tree import Folder
from fireline_agent.remediation.action import Action, ActionError, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.disk import ground
from fireline_agent.remediation.disk.cleaning import size_text
from fireline_agent.remediation.disk.moving import Attributes, move
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

_MAX_FILES: Final = 10_000


def _gather(tools: Tools, params: Params) -> Facts:
    source, target = params["source"], params["destination"]
    ground.check_patterns(params["patterns"])
    ground.check([source], state=tools.roots.state.resolve(), allows_path=tools.allows_path)
    if not tools.allows_path(target):
        raise ActionError(f"{target}: this host's policy does not let actions write there", reason="denied")
    held = holders.held(tools.roots.proc)
    with _opened(source) as here, _opened(target) as there:
        found = space.of(target)
        return {
            "before_ns": before_ns(params["older_than"], time.time()),
            "files": list(_files(here, params["patterns"], held)),
            "available_bytes": found.available_bytes,
            "is_same_filesystem": here.found.st_dev == there.found.st_dev,
            "is_root_filesystem": there.found.st_dev == tools.roots.root.stat().st_dev,
        }


@contextmanager
def _opened(path: str) -> Iterator[Folder]:
    try:
        with tree.opened(path) as folder:
            yield folder
    except tree.NoFolder as error:
        raise ActionError(f"{printable(str(error.filename))}: {error.strerror}", reason="not_found") from None


def _files(folder: Folder, patterns: list[str], held: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    matches = re.compile("|".join(map(fnmatch.translate, patterns))).match
    with os.scandir(folder.fd) as entries:
        for entry in entries:
            if not matches(entry.name) or not entry.is_file(follow_symlinks=False):
                continue
            found = entry.stat(follow_symlinks=False)
            yield {
                "name": entry.name,
                "identity": [found.st_dev, found.st_ino],
                "mtime_ns": found.st_mtime_ns,
                "size": found.st_size,
                "links": found.st_nlink,
                "held_by": str(held.get((found.st_dev, found.st_ino), "")),
            }


def _plan(facts: Facts, params: Params) -> Plan:
    source, target = params["source"], params["destination"]
    if facts["is_same_filesystem"] and not params["same_filesystem"]:
        raise ActionError(
            f"{target}: is on the same file system as {source}, so that nothing is won; is the other disk mounted? "
            "Say same_filesystem=true to move anyway",
            reason="refused",
        )
    old = sorted((f for f in facts["files"] if f["mtime_ns"] <= facts["before_ns"]), key=lambda f: str(f["name"]))
    free = [file for file in old if not file["held_by"]]
    if len(free) > _MAX_FILES:
        raise ActionError(f"{source}: wanted at most {_MAX_FILES} files, found {len(free)}", reason="refused")
    size = sum(file["size"] for file in free)
    if size > facts["available_bytes"] and not facts["is_same_filesystem"]:
        raise ActionError(
            f"{target}: wanted {size_text(size)} free, found {size_text(facts['available_bytes'])}", reason="refused"
        )
    return Plan(
        f"{len(free)} files of {size_text(size)} from {source} to {target}",
        tuple(_change(file, source, target) for file in free),
        tuple(_warnings(facts, old, target)),
        {"files": len(free), "size_bytes": size},
    )


def _change(file: Mapping[str, Any], source: str, target: str) -> Change:
    name = printable(file["name"], limit=500)
    return Change(
        "file",
        f"{source}/{name}, inode {file['identity'][1]}",
        f"copy {name} to {target}, compare SHA-256, then remove it from {source}",
        {key: file[key] for key in ("name", "identity", "mtime_ns", "size")},
        file["size"],
    )


def _warnings(facts: Facts, old: list[Mapping[str, Any]], target: str) -> Iterator[str]:
    if facts["is_root_filesystem"] and target.startswith(("/mnt/", "/media/")):
        yield f"{target} is on the root file system: is the other disk mounted?"
    for file in old:
        if file["held_by"]:
            yield f"{printable(file['name'])} stays: in use by {printable(file['held_by'])}"
        elif file["links"] > 1:
            yield f"{printable(file['name'])} has other names: moving this one frees nothing"


def _do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    data = change.data
    try:
        with _opened(params["source"]) as source, _opened(params["destination"]) as target:
            found = os.stat(data["name"], dir_fd=source.fd, follow_symlinks=False)
            planned = (*data["identity"], data["mtime_ns"], data["size"])
            if (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size) != planned:
                raise ActionError(f"{printable(data['name'])}: is not the planned file any more; plan again")
            digest, was = move(source, data["name"], target, attributes=None, tell=tools.tell)
    except OSError as error:
        raise ActionError(f"{printable(data['name'])}: {error.strerror or error}; plan again") from None
    places = {"source": params["source"], "destination": params["destination"]}
    return {"sha256": digest, "attributes": asdict(Attributes.of(was)), **places}


def _verify(tools: Tools, plan: Plan, params: Params) -> Verified:
    wrong = []
    with _opened(params["source"]) as source, _opened(params["destination"]) as target:
        for change in plan.changes:
            is_here = _size(source, change.data["name"]) is not None
            if is_here or _size(target, change.data["name"]) != change.data["size"]:
                wrong.append(printable(change.data["name"]))
    result = {"available_bytes": space.of(params["source"]).available_bytes}
    if wrong:
        return Verified(False, f"{len(wrong)} files are not where they should be, {wrong[0]} among them", result)
    return Verified(True, f"{len(plan.changes)} files lie in {params['destination']}, each with its hash", result)


def _size(folder: Folder, name: str) -> int | None:
    with suppress(FileNotFoundError):
        found = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
        return found.st_size if stat.S_ISREG(found.st_mode) else -1
    return None


def _undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    name = change.data["name"]
    try:
        with _opened(kept["destination"]) as target, _opened(kept["source"]) as source:
            digest, _ = move(target, name, source, attributes=Attributes(**kept["attributes"]), tell=tools.tell)
    except OSError as error:
        full = "; make room there first" if error.errno == errno.ENOSPC else ""
        raise ActionError(f"{printable(name)}: {error.strerror or error}{full}") from None
    if digest != kept["sha256"]:
        raise ActionError(f"{printable(name)}: came back, but was changed at {kept['destination']} meanwhile")
    return f"{printable(name)} is back in {kept['source']}"


ACTION = Action(
    ActionSpec(
        "disk.move_backups",
        "Move backups to other storage: copied, compared by hash, and only then removed here",
        Risk.REVERSIBLE,
        parameters=(
            Parameter("source", Kind.PATH, "Folder that holds the backups; folders in it stay.", is_required=True),
            Parameter("destination", Kind.PATH, "Folder on the other storage; it must be there.", is_required=True),
            Parameter(
                "patterns", Kind.TEXTS, "Shell patterns of file names.", ["*.tar.gz", "*.tgz", "*.sql.gz", "*.dump"]
            ),
            Parameter("older_than", Kind.DURATION, "Not written for so long.", 3600),
            Parameter("same_filesystem", Kind.BOOL, "Also where nothing is won by it.", False),
        ),
        results=(
            Result("files", Kind.INT, "Files that are moved."),
            Result("size_bytes", Kind.SIZE, "What they hold."),
            Result("available_bytes", Kind.SIZE, "Space left where they lay, after it."),
        ),
        undo="moves them back, with hash, owner, mode and times",
    ),
    _gather,
    _plan,
    _do,
    _verify,
    _undo,
)
