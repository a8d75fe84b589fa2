"""Collects the sockets of every network namespace, with the processes and the container that own them.

Leaves to others: conntrack (flows that are forwarded, not owned), what the owners are (processes).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fireline_agent.capture.collector import Context, Sink, text
from fireline_agent.capture.params import refuse_unknown
from fireline_agent.capture.wording import shown
from fireline_agent.hands import namespaces, procfs, sock_diag
from fireline_agent.hands.namespaces import NetworkNamespace
from fireline_agent.hands.proc_net import SocketEntry

VERSION = "1"

_SOCKET: Final = b"socket:["
# A process that opens thousands of sockets more often than not shares none; a shared one names so many owners.
_MAX_OWNERS: Final = 64


@dataclass
class _Owner:
    """A process that holds sockets."""

    pid: int
    comm: bytes
    container: str


@dataclass
class _Owners:
    """Who holds which socket, by the socket's inode; and which container each process is in."""

    by_inode: dict[int, list[_Owner]] = field(default_factory=dict)
    containers: dict[int, str] = field(default_factory=dict)
    denied: int = 0


def collect(context: Context, sink: Sink) -> None:
    """Write `network/sockets.jsonl` and `network/namespaces.jsonl`; see the module.

    Raises:
        ValueError: a parameter is unknown.
    """
    refuse_unknown(context.params)
    proc = context.roots.proc
    read = list(namespaces.in_each(proc, lambda _: sock_diag.sockets()))
    owners = _owners(proc)
    host = namespaces.host_inode(proc)
    with (
        sink.artifact("network/sockets.jsonl", source="every network namespace", method="sock_diag") as out,
        sink.artifact("network/namespaces.jsonl", source=f"{proc}/*/ns/net", method="procfs") as index,
    ):
        out.facts["unreadable_processes"] = owners.denied
        for namespace, answer in read:
            found = _fallback(proc, namespace) if isinstance(answer, OSError) else answer
            index.record(_namespace_record(namespace, found, owners, host, answer))
            for entry in found.entries:
                out.record(_socket_record(namespace, entry, owners, context.agent_pid))
                for finding in _judge(namespace, entry, owners, host, context.agent_pid):
                    sink.finding(*finding)


def _owners(proc: Path) -> _Owners:
    owners = _Owners()
    for process in procfs.processes(proc):
        with process:
            inodes = {int(link[8:-1]) for _, link in process.descriptors() if link.startswith(_SOCKET)}
            container = procfs.container_id(process.read("cgroup") or b"")
            owners.containers[process.pid] = container
            owners.denied += "fd" in process.denied
            if inodes:
                owner = _Owner(process.pid, (process.read("comm") or b"").removesuffix(b"\n"), container)
                for inode in inodes:
                    owners.by_inode.setdefault(inode, []).append(owner)
    return owners


def _fallback(proc: Path, namespace: NetworkNamespace) -> sock_diag.Sockets:
    """A namespace that can't be entered still shows its tables through a process that lives in it."""
    for pid in namespace.pids:
        if (proc / str(pid) / "net/tcp").exists():
            return sock_diag.from_tables(proc / str(pid) / "net")
    return sock_diag.Sockets(methods={"all": "unreadable"})


def _containers(namespace: NetworkNamespace, owners: _Owners) -> list[str]:
    return sorted({owners.containers.get(pid, "") for pid in namespace.pids} - {""})


def _namespace_record(
    namespace: NetworkNamespace,
    found: sock_diag.Sockets,
    owners: _Owners,
    host: int | None,
    answer: sock_diag.Sockets | OSError,
) -> dict[str, Any]:
    return {
        "namespace": namespace.inode,
        "is_host": namespace.inode == host,
        "path": namespace.path,
        "pids": sorted(set(namespace.pids)),
        "kept_by": sorted(set(namespace.kept_by)),
        "containers": _containers(namespace, owners),
        "sockets": len(found.entries),
        "methods": found.methods,
        "changed_while_read": found.was_interrupted,
        "not_entered": str(answer) if isinstance(answer, OSError) else "",
    }


def _socket_record(namespace: NetworkNamespace, entry: SocketEntry, owners: _Owners, agent_pid: int) -> dict[str, Any]:
    holders = owners.by_inode.get(entry.inode, [])
    record: dict[str, Any] = {
        "namespace": namespace.inode,
        "kind": entry.kind,
        "state": entry.state,
        "inode": entry.inode,
        "uid": entry.uid,
        "owners": [{"pid": owner.pid, **text("comm", owner.comm)} for owner in holders[:_MAX_OWNERS]],
        **entry.more,
    }
    if entry.local:
        record |= {"local": entry.local, "local_port": entry.local_port}
        record |= {"remote": entry.remote, "remote_port": entry.remote_port}
    if entry.interface:
        record["interface"] = entry.interface
    if entry.name:
        record |= text("name", entry.name)
    container = next((owner.container for owner in holders if owner.container), "")
    if container:
        record["container"] = container
    if any(owner.pid == agent_pid for owner in holders):
        record["is_agent"] = True
    return record


def _judge(
    namespace: NetworkNamespace, entry: SocketEntry, owners: _Owners, host: int | None, agent_pid: int
) -> Iterator[tuple[str, str, str, str]]:
    holders = owners.by_inode.get(entry.inode, [])
    if any(owner.pid == agent_pid for owner in holders):
        return
    by = ", ".join(f"{shown(owner.comm)} (pid {owner.pid})" for owner in holders[:3]) or "no process seen"
    if entry.kind == "packet":
        where = f"interface {entry.interface}" if entry.interface else "every interface"
        subject = f"netns {namespace.inode} packet socket {entry.inode}"
        yield "warning", "packet-socket", subject, f"{by} reads raw frames from {where}"
    is_foreign = host is not None and namespace.inode != host and not _containers(namespace, owners)
    if is_foreign and entry.is_listening:
        subject = f"{entry.kind} {entry.local}:{entry.local_port} in netns {namespace.inode}"
        kept = namespace.kept_by[0] if namespace.kept_by else namespace.path
        summary = f"{by} listens in a network namespace that belongs to no container, kept by {kept}"
        yield "warning", "listener-in-foreign-netns", subject, summary
