"""The door to network namespaces: which there are, who keeps them, and a short stay in one of them.

Leaves to others: what is read inside (netlink, nftables, procfs).

Sources: namespaces(7), setns(2), unshare(2), ioctl_ns(2), proc_pid_ns(5), proc_pid_mountinfo(5).
"""

import ctypes
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from fireline_agent.hands import procfs

CLONE_NEWNET: Final = 0x40000000  # linux/sched.h

_NS_GET_NSTYPE: Final = 0xB703  # linux/nsfs.h
_NET_LINK: Final = re.compile(rb"net:\[(\d+)\]\Z")
T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class NetworkNamespace:
    """One network namespace. `path` opens it; `pids` live in it; `kept_by` holds it without living in it."""

    inode: int
    path: str
    pids: list[int] = field(default_factory=list)
    kept_by: list[str] = field(default_factory=list)


def network_namespaces(proc: Path) -> dict[int, NetworkNamespace]:
    """Find every network namespace that a process, a thread, an open file or a mount keeps, by inode.

    Processes that vanish meanwhile or may not be looked at are left out. A namespace kept by nothing but a socket
    inside it can't be found from here.
    """
    found: dict[int, NetworkNamespace] = {}
    mount_namespaces: set[bytes] = set()
    for process in procfs.processes(proc):
        with process:
            _note_process(found, process, proc)
            mount_namespace = process.link("ns/mnt")
            if mount_namespace is not None and mount_namespace not in mount_namespaces:
                mount_namespaces.add(mount_namespace)
                _note_mounts(found, process, proc)
    return found


def in_each(proc: Path, work: Callable[[NetworkNamespace], T]) -> Iterator[tuple[NetworkNamespace, T | OSError]]:
    """Do the same work inside every network namespace, in the order of their inodes.

    Yields the work's result, or the OSError that kept it from being done there: a namespace may vanish meanwhile.
    """
    for _, namespace in sorted(network_namespaces(proc).items()):
        try:
            with entered(namespace.path):
                result: T | OSError = work(namespace)
        except OSError as error:
            result = error
        yield namespace, result


def host_inode(proc: Path) -> int | None:
    """The inode of the host's own network namespace, as far as it can be told.

    It is that of process 1; where that one is closed to us, of process 2 (the kernel's own), else of ourselves.
    """
    for pid in ("1", "2", "self"):
        try:
            if pid == "2" and (proc / "2/comm").read_text() != "kthreadd\n":
                continue
            return _inode(os.fsencode((proc / pid / "ns/net").readlink()))
        except OSError:
            continue
    return None


@contextmanager
def entered(path: str) -> Iterator[None]:
    """Put this thread into the network namespace that `path` opens, until the block ends.

    Sockets made inside stay in that namespace; the way back is opened before the way in, so it can't be lost.

    Raises:
        OSError: the namespace is gone, or this process may not enter it.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            inside = os.fstat(home).st_ino == os.fstat(there).st_ino
            if not inside:  # entering one's own needs a privilege too, which an agent without root lacks
                _setns(there)
            try:
                yield
            finally:
                if not inside:
                    _setns(home)
        finally:
            os.close(there)
    finally:
        os.close(home)


@contextmanager
def throw_away() -> Iterator[None]:
    """Put this thread into a new network namespace with nothing in it but `lo`, which ends with the block.

    Raises:
        OSError: this process may not make one.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"making a network namespace: {os.strerror(number)}")
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns into a network namespace: {os.strerror(number)}")


def _inode(link: bytes | None) -> int | None:
    match = _NET_LINK.match(link) if link is not None else None
    return int(match[1]) if match else None


def _note_process(found: dict[int, NetworkNamespace], process: procfs.Process, proc: Path) -> None:
    inode = _inode(process.link("ns/net"))
    if inode is not None:
        _entry(found, inode, f"{proc}/{process.pid}/ns/net").pids.append(process.pid)
    for thread in process.names("task"):
        # A thread may live elsewhere than its process: setns(2) binds the calling thread only.
        other = _inode(process.link(f"task/{thread}/ns/net")) if thread != str(process.pid) else None
        if other is not None and other != inode:
            _entry(found, other, f"{proc}/{process.pid}/task/{thread}/ns/net").pids.append(process.pid)
    for descriptor, target in process.descriptors():
        if target == b"/" or target.startswith(b"net:["):
            path = f"{proc}/{process.pid}/fd/{descriptor}"
            kept = _inode(target) or _detached(path)
            if kept is not None:
                _entry(found, kept, path).kept_by.append(path)


def _detached(path: str) -> int | None:
    """The namespace behind an open file whose mount is gone: its link shows "/" like that of the root folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        is_network = fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == CLONE_NEWNET
        return os.fstat(descriptor).st_ino if is_network else None
    except OSError:  # anything but a namespace doesn't know the question
        return None
    finally:
        os.close(descriptor)


def _note_mounts(found: dict[int, NetworkNamespace], process: procfs.Process, proc: Path) -> None:
    for mount in procfs.mounts(process.read("mountinfo") or b""):
        inode = _inode(mount.root) if mount.kind == b"nsfs" else None
        if inode is not None:
            point = os.fsdecode(mount.point)
            _entry(found, inode, f"{proc}/{process.pid}/root{point}").kept_by.append(point)


def _entry(found: dict[int, NetworkNamespace], inode: int, path: str) -> NetworkNamespace:
    return found.setdefault(inode, NetworkNamespace(inode, path))
