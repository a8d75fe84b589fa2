"""Isolate processes by the kernel's freezer: they stand still, keep all they have, and go on later. Blocking.

What they hold open stays open, and nothing of it answers. Those that come later are found by looking every second.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Final

from fireline_agent.hands import freezer, procfs
from fireline_agent.isolation import holds
from fireline_agent.isolation.holds import Hold, Member
from fireline_agent.isolation.means import Force, Harvest, MeansError
from fireline_agent.isolation.model import Plan, table_name
from fireline_agent.isolation.stopping import forget_replaced, lift, make_permanent, taken_over
from fireline_wire.isolation import IsolationOrder, Scope

_PROC: Final = Path("/proc")
_ROUNDS: Final = 20  # a fork bomb loses: what is in the group has no more children
_ENDED: Final = ("Z", "X")  # a parent that stands still never fetches them
_NO_FREEZER: Final = "no freezer: neither cgroup v2 nor v1's freezer is mounted and writable"


class Frozen:
    """`user:` and `process:`."""

    look_every_s = 1.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _freezer(self) -> freezer.Freezer | None:
        return freezer.find()

    def plan(self, order: IsolationOrder, *, left_ms: int | None, replaced: tuple[str, ...] = ()) -> Plan:
        """Who would stand still now."""
        found = self._targets(order)
        refusal = _refusal(order.scope, found) if self._freezer else _NO_FREEZER
        if not refusal and not found and order.scope.kind == "process" and left_ms is not None:
            refusal = f"there is no process {order.scope.value}"
        named = ", ".join(f"{pid} ({_name(pid)})" for pid in sorted(found)[:20])
        return Plan(
            order,
            left_ms=left_ms,
            replaced=replaced,
            effects=(f"{len(found)} processes stand still and keep all they have: {named}",) if found else (),
            refusal=refusal,
        )

    def put(self, plan: Plan) -> None:
        """Move them into a group and freeze it, again and again until no new one is found."""
        name, order = table_name(plan.order.order_id), plan.order
        group = self._group(name)
        former = taken_over(self._folder, name, plan.replaced)
        hold = Hold(holds.boot_id(), holds.until(plan.left_ms), root=_root(order.scope, former))
        if former is not None and former.is_of_this_boot:
            hold = replace(hold, members=former.members)
        try:
            group.create()
            for _ in range(_ROUNDS):
                fresh = self._targets(order) - group.pids()
                known = {member.pid for member in hold.members}
                hold = replace(hold, members=(*hold.members, *self._members(fresh - known)))
                holds.save(self._folder, name, hold)
                moved = [group.add(pid) for pid in fresh]
                group.freeze()
                if not any(moved):
                    break
        except OSError as error:
            raise MeansError(str(error)) from None
        forget_replaced(self._folder, plan.replaced)
        if plan.left_ms is not None:
            holds.guard(self._folder, name)

    def look(self, order: IsolationOrder) -> Force:
        """Whether everybody stands still."""
        name = table_name(order.order_id)
        hold = holds.load(self._folder, name)
        if hold is None or self._freezer is None:
            return Force()
        group = self._group(name)
        targets = self._targets(order)
        is_stopped = not targets or (hold.is_of_this_boot and targets <= group.pids() and group.is_frozen())
        return Force(is_there=is_stopped or hold.left_ms == 0, lease_left_ms=hold.left_ms, written=name)

    def inspect(self, order: IsolationOrder) -> Force:
        """The same: there are no packets to count."""
        return self.look(order)

    def is_as_planned(self, plan: Plan, force: Force) -> bool:
        """Who stands still, does."""
        return force.is_there

    def make_permanent(self, order: IsolationOrder) -> None:
        """End the lease."""
        make_permanent(self._folder, order)

    def lift(self, order: IsolationOrder) -> None:
        """Let them go on, where they were."""
        lift(self._folder, order)

    def cut(self, order: IsolationOrder) -> Harvest:
        """Nothing: a connection is a part of what is kept."""
        return Harvest()

    def _group(self, name: str) -> freezer.FrozenGroup:
        if self._freezer is None:
            raise MeansError(_NO_FREEZER)
        return self._freezer.group(name)

    def _members(self, pids: set[int]) -> Iterator[Member]:
        for pid in pids:
            if self._freezer is not None and (started := _start_ticks(pid)):
                yield Member(pid, started, self._freezer.origin(pid))

    def _targets(self, order: IsolationOrder) -> set[int]:
        """Who the scope names now. A pid that has gone to another process since is nobody's."""
        if order.scope.kind == "user":
            uid = _uid(order.scope.value)
            return _of_user(uid) if uid is not None else set()
        pid = int(order.scope.value)
        hold = holds.load(self._folder, table_name(order.order_id))
        if hold is None or hold.root is None:
            return freezer.tree([pid])
        is_same = hold.is_of_this_boot and _start_ticks(pid) == hold.root.start_ticks
        return freezer.tree([pid]) if is_same else set()


def _root(scope: Scope, former: Hold | None) -> Member | None:
    """The process that the order named, as it was when it was first stopped."""
    if former is not None and former.root is not None:
        return former.root
    if scope.kind != "process":
        return None
    return Member(int(scope.value), _start_ticks(int(scope.value)), "")


def _refusal(scope: Scope, found: set[int]) -> str:
    if scope.kind == "user":
        uid = _uid(scope.value)
        if uid is None:
            return f"this host has no user {scope.value}"
        if uid == os.geteuid():
            return f"user {scope.value} is the agent's own: it would stop the agent and the host; isolate the host"
    ours = {os.getpid(), *_ancestors(os.getpid())} & found
    if ours:
        return f"{scope} holds process {min(ours)} ({_name(min(ours))}), which the agent depends on"
    kernels = [pid for pid in found if _is_kernel_thread(pid)]
    return f"process {kernels[0]} is a thread of the kernel" if kernels else ""


def _uid(user: str) -> int | None:
    """From the host's own file: a directory service may not answer on an isolated host."""
    if user.isdecimal():
        return int(user)
    with suppress(OSError, ValueError):
        for line in Path("/etc/passwd").read_text(errors="replace").splitlines():
            fields = line.split(":")
            if len(fields) > 2 and fields[0] == user:
                return int(fields[2])
    return None


def _of_user(uid: int) -> set[int]:
    found = set()
    for process in procfs.processes(_PROC):
        with process:
            status = procfs.parse_status(process.read("status") or b"")
            if str(uid) in status.get("Uid", "").split() and not status.get("State", "").startswith(_ENDED):
                found.add(process.pid)
    return found


def _ancestors(pid: int) -> Iterator[int]:
    while (process := procfs.opened(_PROC, pid)) is not None:
        with process:
            stat = process.stat()
        if stat is None or stat.ppid == 0:
            return
        pid = stat.ppid
        yield pid


def _is_kernel_thread(pid: int) -> bool:
    process = procfs.opened(_PROC, pid)
    if process is None:
        return False
    with process:
        stat = process.stat()
    return stat is not None and bool(stat.flags & procfs.PF_KTHREAD)


def _start_ticks(pid: int) -> int:
    process = procfs.opened(_PROC, pid)
    if process is None:
        return 0
    with process:
        stat = process.stat()
    return stat.start_ticks if stat is not None else 0


def _name(pid: int) -> str:
    return procfs.words(_PROC / str(pid) / "comm") or "?"
