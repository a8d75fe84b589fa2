"""security.quarantine_file: put a file where nothing can run or read it, its hash known, and back again.

The file is moved into the agent's own folder, which only root can enter. Where that is another file system it is
copied, the copy's hash compared, and only then removed. Owner, mode, times and extended attributes are kept with it.
Sources: xattr(7), rename(2), link(2).
"""

import base64
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands import places, procfs
from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import Action, ActionError, Change, Facts, Params, Plan, Tools, Verified
from fireline_wire import durable
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

_CONTENT: Final = "content"
_META: Final = "meta.json"
_MAX_USERS: Final = 20  # processes that are named in a warning


def gather(tools: Tools, params: Params) -> Facts:
    """What stands at the path, with its hash and who runs it."""
    path = params["path"]
    try:
        with places.folder_of(path) as (folder, name):
            found = os.lstat(name, dir_fd=folder)
            is_regular = stat.S_ISREG(found.st_mode)
            sha256 = places.sha256_of(folder, name, wanted=found) if is_regular else ""
    except FileNotFoundError:
        return {"kind": "absent"}
    except places.Trapped as error:
        return {"kind": "trap", "why": str(error)}
    except OSError as error:
        raise ActionError(f"{printable(path)}: {error.strerror or error}") from None
    return {
        "kind": "file" if is_regular else _kind(found.st_mode),
        "is_allowed": tools.allows_path(path),
        "dev": found.st_dev,
        "ino": found.st_ino,
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "links": found.st_nlink,
        "sha256": sha256,
        "runs": _running(tools.roots.proc, found) if is_regular else [],
    }


def plan(facts: Facts, params: Params) -> Plan:
    """Move it, or refuse."""
    path = printable(params["path"], limit=1000)
    if facts["kind"] != "file":
        raise _not_a_file(facts, path)
    if not facts["is_allowed"]:
        raise ActionError(f"{path}: this host's policy does not let actions change it (`writable`)", reason="denied")
    if params["sha256"] and params["sha256"].lower() != facts["sha256"]:
        wanted = params["sha256"].lower()
        raise ActionError(f"{path}: wanted SHA-256 {wanted}, found {facts['sha256']}: another file", reason="refused")
    identity = ("dev", "ino", "size", "mtime_ns", "sha256")
    change = Change(
        "file",
        f"{path} (SHA-256 {facts['sha256']})",
        f"move {path} into the agent's quarantine",
        {"path": params["path"], **{name: facts[name] for name in identity}},
        facts["size"],
    )
    result = {"sha256": facts["sha256"], "size": facts["size"]}
    return Plan(f"quarantine {path}, {facts['size']} bytes", (change,), tuple(_warnings(facts)), result)


def do(tools: Tools, change: Change, _params: Params) -> Mapping[str, Any]:
    """Move the very file that was planned."""
    data = change.data
    place = _place(tools, data["path"])
    with _folder(data["path"]) as (folder, name):
        found = _require_same(folder, name, data)
        kept = _kept(folder, name, found, data)
        _prepare(place, kept)
        with _opened(place) as into:
            kept = {**kept, "was_copied": _move(folder, name, into, found, data["sha256"])}
    return {**kept, "place": str(place)}


def verify(tools: Tools, plan_: Plan, _params: Params) -> Verified:
    """It is gone from its path, and the same bytes lie in the quarantine."""
    (change,) = plan_.changes
    path, place = change.data["path"], _place(tools, change.data["path"])
    there = places.look(path)
    if there is not None and there.st_ino == change.data["ino"]:
        return Verified(False, f"{printable(path)} is still there")
    with _opened(place) as folder:
        sha256 = places.sha256_of(folder, _CONTENT)
    if sha256 != change.data["sha256"]:
        return Verified(False, f"what lies in {place} has SHA-256 {sha256}: it was written to meanwhile")
    again = "; another file has taken its place" if there is not None else ""
    return Verified(True, f"{printable(path)} is gone and lies in {place} with its hash{again}", {"place": str(place)})


def undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """Put it back where it was, as it was; never over what stands there now."""
    path, place = change.data["path"], Path(kept["place"])
    with _folder(path) as (folder, name), _opened(place) as inside:
        sha256 = places.sha256_of(inside, _CONTENT)
        if sha256 != kept["sha256"]:
            raise ActionError(f"{place}: wanted SHA-256 {kept['sha256']}, found {sha256}: not put back")
        try:
            _put_back(inside, folder, name, kept)
        except FileExistsError:
            raise ActionError(f"{printable(path)}: something stands there now; move it away first") from None
        except OSError as error:
            raise ActionError(f"{printable(path)}: can't be put back: {error.strerror or error}") from None
        os.fsync(inside)
    for name in (_CONTENT, _META):
        (place / name).unlink(missing_ok=True)
    with suppress(OSError):
        place.rmdir()
    return f"{printable(path)} is back with its owner, mode, times and attributes"


def _not_a_file(facts: Facts, path: str) -> ActionError:
    if facts["kind"] == "absent":
        return ActionError(f"{path}: there is no such file", reason="not_found")
    if facts["kind"] == "trap":
        return ActionError(printable(facts["why"], limit=1000), reason="refused")
    return ActionError(f"{path}: wanted a regular file, found a {facts['kind']}", reason="refused")


def _warnings(facts: Facts) -> Iterator[str]:
    if facts["links"] > 1:
        yield f"it has {facts['links'] - 1} other names on its file system: under those it stays"
    if facts["runs"]:
        yield f"it is being run and goes on running: {', '.join(facts['runs'])}"


def _kind(mode: int) -> str:
    kinds = {stat.S_IFLNK: "symbolic link", stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def _running(proc: Path, found: os.stat_result) -> list[str]:
    """Processes whose program it is."""
    users = []
    for process in procfs.processes(proc):
        with process, suppress(OSError):
            exe = os.stat("exe", dir_fd=process.directory)
            if (exe.st_dev, exe.st_ino) == (found.st_dev, found.st_ino):
                users.append(f"process {process.pid}")
    return users[:_MAX_USERS]


def _place(tools: Tools, path: str) -> Path:
    """A folder for each file of each application, so that it can be found again by both."""
    words = f"{tools.request_id}\0{path}".encode(errors="surrogateescape")
    return tools.roots.state / "quarantine" / hashlib.sha256(words).hexdigest()[:32]


@contextmanager
def _folder(path: str) -> Iterator[tuple[int, str]]:
    """As `folder_of`, where what goes wrong is told as an action's error."""
    try:
        with places.folder_of(path) as found:
            yield found
    except OSError as error:
        raise ActionError(f"{printable(path)}: {error.strerror or error}") from None


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ActionError(f"{folder}: {error.strerror}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _require_same(folder: int, name: str, data: Mapping[str, Any]) -> os.stat_result:
    found = os.lstat(name, dir_fd=folder)
    now = {"dev": found.st_dev, "ino": found.st_ino, "size": found.st_size, "mtime_ns": found.st_mtime_ns}
    if not stat.S_ISREG(found.st_mode) or any(data[key] != value for key, value in now.items()):
        raise ActionError(f"{printable(name)} is not the file that was planned any more: plan again")
    return found


def _kept(folder: int, name: str, found: os.stat_result, data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "path": data["path"],
        "sha256": data["sha256"],
        "mode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "atime_ns": found.st_atime_ns,
        "mtime_ns": found.st_mtime_ns,
        "xattrs": _xattrs(folder, name),
    }


def _xattrs(folder: int, name: str) -> dict[str, str]:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    found = {}
    try:
        for key in os.listxattr(descriptor):
            found[key] = base64.b64encode(os.getxattr(descriptor, key)).decode()
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
    finally:
        os.close(descriptor)
    return found


def _prepare(place: Path, kept: Mapping[str, Any]) -> None:
    """The folder with a note of what it holds, before anything is moved: a crash in between leaves that."""
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.parent.chmod(0o700)
        durable.replace(place / _META, json.dumps(kept).encode())
        durable.sync_folder(place.parent)
    except OSError as error:
        raise ActionError(f"{place}: {error.strerror}: nothing was moved") from None


def _move(folder: int, name: str, into: int, found: os.stat_result, sha256: str) -> bool:
    """Into the quarantine; whether by a copy."""
    try:
        os.rename(name, _CONTENT, src_dir_fd=folder, dst_dir_fd=into)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise ActionError(_why_not(name, error)) from None
    else:
        moved = os.lstat(_CONTENT, dir_fd=into)
        if (moved.st_dev, moved.st_ino) != (found.st_dev, found.st_ino):
            os.rename(_CONTENT, name, src_dir_fd=into, dst_dir_fd=folder)
            raise ActionError(f"{printable(name)} was swapped for another file; that was put back")
        _sync(folder, into)
        return False
    try:
        copied = places.copy_into(folder, name, into, _CONTENT)
    except OSError as error:
        raise ActionError(_why_not(name, error)) from None
    if copied != sha256:
        os.unlink(_CONTENT, dir_fd=into)
        raise ActionError(f"{printable(name)} is being written to: its copy has SHA-256 {copied}; nothing was moved")
    os.fsync(into)
    os.unlink(name, dir_fd=folder)
    _sync(folder, into)
    return True


def _put_back(inside: int, folder: int, name: str, kept: Mapping[str, Any]) -> None:
    """By a link, which never replaces anything; a copy first where it was copied."""
    if not kept["was_copied"]:
        os.link(_CONTENT, name, src_dir_fd=inside, dst_dir_fd=folder, follow_symlinks=False)
        _sync(folder, inside)
        return
    fresh = f".fireline-{kept['sha256'][:16]}"
    places.copy_into(inside, _CONTENT, folder, fresh)
    try:
        _restore(folder, fresh, kept)
        os.link(fresh, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    finally:
        os.unlink(fresh, dir_fd=folder)
    _sync(folder, inside)


def _restore(folder: int, name: str, kept: Mapping[str, Any]) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fchown(descriptor, kept["uid"], kept["gid"])
        os.fchmod(descriptor, kept["mode"])
        for key, value in kept["xattrs"].items():
            os.setxattr(descriptor, key, base64.b64decode(value))
        os.utime(descriptor, ns=(kept["atime_ns"], kept["mtime_ns"]))
    finally:
        os.close(descriptor)


def _sync(*folders: int) -> None:
    for folder in folders:
        os.fsync(folder)


def _why_not(name: str, error: OSError) -> str:
    hint = " (immutable? see lsattr)" if error.errno == errno.EPERM else ""
    return f"{printable(name)} can't be moved: {error.strerror or error}{hint}"


ACTION: Final = Action(
    ActionSpec(
        "security.quarantine_file",
        "Move a file into quarantine: hashed, out of everybody's reach, restorable",
        Risk.REVERSIBLE,
        (
            Parameter("path", Kind.PATH, "the file", is_required=True),
            Parameter("sha256", Kind.TEXT, "what the file must hash to, so that no other one is taken"),
        ),
        (
            Result("sha256", Kind.TEXT, "the file's hash"),
            Result("size", Kind.SIZE, "its size"),
            Result("place", Kind.PATH, "where it lies now"),
        ),
        undo="put back where it was, with owner, mode, times and extended attributes",
    ),
    gather,
    plan,
    do,
    verify,
    undo,
)
