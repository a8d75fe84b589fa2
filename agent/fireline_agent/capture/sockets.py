"""Collects the sockets of every network namespace, with the processes and the container that own them.

Leaves to others: conntrack (flows that are forwarded, not owned), what the owners are (processes).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fireline_agent.capture.collector import Context, Sink, text
from fireline_agent.capture.params import refuse_unknown
from fireline_agent.hands import namespaces, procfs, sock_diag
from fireline_agent.hands.namespaces import NetworkNamespace
from fireline_agent.hands.printable import shown
from fireline_agent.hands.proc_net import SocketEntry

VERSION = "1"

_SOCKET: Final = b"socket:["
# A process that opens thousands of sockets more often than not shares none; a shared one names so many owners.
_MAX_OWNERS: Final = 64
_TOLD: Final = 3  # how many of a kind a finding names


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


@dataclass(frozen=True)
class _Room:
    """One namespace with what is in it. `not_entered` says why it was read from outside, or is empty."""

    namespace: NetworkNamespace
    sockets: sock_diag.Sockets
    containers: list[str]
    is_host: bool
    not_entered: str

    @property
    def is_foreign(self) -> bool:
        """Whether it is neither the host's own nor a container's."""
        return not self.is_host and not self.containers


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
            room = _room(proc, namespace, answer, owners, host)
            index.record(_namespace_record(room))
            for entry in room.sockets.entries:
                out.record(_socket_record(namespace, entry, owners, context.agent_pid))
            for finding in _judge(room, owners, context.agent_pid):
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


def _room(
    proc: Path, namespace: NetworkNamespace, answer: sock_diag.Sockets | OSError, owners: _Owners, host: int | None
) -> _Room:
    return _Room(
        namespace=namespace,
        sockets=_through_a_process(proc, namespace) if isinstance(answer, OSError) else answer,
        containers=sorted({owners.containers.get(pid, "") for pid in namespace.pids} - {""}),
        is_host=namespace.inode == host,
        not_entered=str(answer) if isinstance(answer, OSError) else "",
    )


def _through_a_process(proc: Path, namespace: NetworkNamespace) -> sock_diag.Sockets:
    """A namespace that can't be entered still shows its tables through a process that lives in it."""
    for pid in namespace.pids:
        if (proc / str(pid) / "net/tcp").exists():
            return sock_diag.from_tables(proc / str(pid) / "net")
    return sock_diag.Sockets(methods={"all": "unreadable"})


def _namespace_record(room: _Room) -> dict[str, Any]:
    return {
        "namespace": room.namespace.inode,
        "is_host": room.is_host,
        "path": room.namespace.path,
        "pids": sorted(set(room.namespace.pids)),
        "kept_by": sorted(set(room.namespace.kept_by)),
        "containers": room.containers,
        "sockets": len(room.sockets.entries),
        "methods": room.sockets.methods,
        "changed_while_read": room.sockets.was_interrupted,
        "not_entered": room.not_entered,
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


def _judge(room: _Room, owners: _Owners, agent_pid: int) -> Iterator[tuple[str, str, str, str]]:
    """One finding per owner and kind of trouble: a program may hold thousands of sockets."""
    raw = [entry for entry in room.sockets.entries if entry.kind == "packet"]
    listening = [entry for entry in room.sockets.entries if room.is_foreign and entry.is_listening]
    for by, entries in _by_owner(raw, owners, agent_pid):
        interfaces = sorted({entry.interface for entry in entries})
        where = "every interface" if 0 in interfaces else f"interfaces {interfaces}"
        yield "warning", "packet-socket", f"{by} in netns {room.namespace.inode}", f"reads raw frames from {where}"
    kept = (room.namespace.kept_by or [room.namespace.path])[0]
    for by, entries in _by_owner(listening, owners, agent_pid):
        places = ", ".join(f"{entry.kind} {entry.local}:{entry.local_port}" for entry in entries[:_TOLD])
        more = f" and {len(entries) - _TOLD} more" if len(entries) > _TOLD else ""
        summary = f"listens on {places}{more} in a network namespace that belongs to no container, kept by {kept}"
        yield "warning", "listener-in-foreign-netns", f"{by} in netns {room.namespace.inode}", summary


def _by_owner(entries: list[SocketEntry], owners: _Owners, agent_pid: int) -> Iterator[tuple[str, list[SocketEntry]]]:
    """The entries by who holds them, the agent's own left out."""
    held: dict[str, list[SocketEntry]] = {}
    for entry in entries:
        holders = owners.by_inode.get(entry.inode, [])
        if all(owner.pid != agent_pid for owner in holders):
            by = ", ".join(f"{shown(owner.comm)} (pid {owner.pid})" for owner in holders[:_TOLD])
            held.setdefault(by or "no process that can be seen", []).append(entry)
    yield from held.items()
