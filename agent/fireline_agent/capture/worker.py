"""The process that runs a capture's collectors: one forked child each, bound, watched and ended in time.

It holds no gRPC, so forking is safe, and imports each collector once. Standard input is its life-line: `cancel` stops
the work, its end means that the agent is gone. Progress goes to standard output and to the capture's folder as lines
of JSON. A collector may block, die, leave children behind or stay in the kernel for ever: the next one starts anyway.
Leaves to others: sealing (seal), and ending the worker itself (runner).
"""

import fcntl
import gc
import importlib
import json
import os
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from fireline_agent.capture import child
from fireline_agent.capture.order import CollectorOrder, Folder, Order, lines, timestamp
from fireline_agent.capture.sink import clean
from fireline_agent.hands import process
from fireline_agent.hands.cgroup import Group, GroupLimits
from fireline_wire.manifest import MAX_ARTIFACTS

_TERM_GRACE_S: Final = 0.3  # for a collector to close its artifacts after its time is over
_KILL_GRACE_S: Final = 0.7  # for the kernel to end what was killed; what is left then is in uninterruptible sleep
_WATCH_S: Final = 0.02  # between two looks at a group that is being emptied
_MAX_DETAIL: Final = 4000  # characters; the manifest takes 4096
_MAX_FINDINGS: Final = 500  # per collector; the manifest takes 10,000


class _Phase(Enum):
    RUNNING = 0
    ASKED = 1  # told to end by SIGTERM
    KILLED = 2


@dataclass
class _Running:
    index: int
    order: CollectorOrder
    version: str
    pid: int
    bounds: Group | process.Session
    output_bytes: int
    until: float
    started: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.time)
    phase: _Phase = _Phase.RUNNING
    # Why it was stopped: a status of the manifest and a sentence.
    verdict: tuple[str, str] | None = None
    exit_status: int | None = None
    cpu_ms: int = 0
    left_behind: int = 0
    unkillable: list[int] = field(default_factory=list)

    def kill(self) -> None:
        """End it and its children; no waiting."""
        # By its own pid too: it may not have joined its group yet.
        if self.exit_status is None:
            process.kill([self.pid])
        self.bounds.kill(within_s=0)


class Worker:
    """One capture's run. `emit` gets each line of progress."""

    def __init__(self, order: Order, folder: Folder, emit: Callable[[dict[str, Any]], None]) -> None:
        self._order = order
        self._folder = folder
        self._emit = emit
        numbered = list(enumerate(order.collectors))
        # Two rows that don't wait for each other, each in its own order.
        self._rows = (
            deque((i, c) for i, c in numbered if not c.is_beside),
            deque((i, c) for i, c in numbered if c.is_beside),
        )
        self._running: dict[int, _Running] = {}  # by row
        self._modules: dict[str, ModuleType | str] = {}
        self._budget_bytes = order.budget_bytes
        self._unkillable: set[int] = set()
        self._is_stopping = False

    def run(self) -> None:
        """Run every collector to its end, or until standard input says otherwise."""
        gc.disable()
        process.adopt_orphans()
        if lack := process.enter_host_mounts():
            self._emit({"event": "lack", "sentence": lack})
        self._prepare_groups()
        with _wakeups() as wait:
            while self._start_next():
                self._import_ahead()
                self._obey(wait(self._pause()))
                self._reap()
                for row, running in list(self._running.items()):
                    self._watch(row, running)
        # Children of children that hid from their own bounds have become ours.
        process.end_descendants(but=self._unkillable, within_s=_KILL_GRACE_S)

    def _prepare_groups(self) -> None:
        if self._order.hierarchy.kind == "none":
            return
        group = self._order.hierarchy.group(self._order.key)
        # Where it can't be made no collector's group can, which is said for each of them.
        with suppress(OSError):
            group.create()
            group.share()

    def _start_next(self) -> bool:
        """Start what may start; false once nothing runs and nothing is left to start."""
        for row, waiting in enumerate(self._rows):
            while waiting and row not in self._running:
                self._start(row, *waiting.popleft())
        return bool(self._running)

    def _start(self, row: int, index: int, order: CollectorOrder) -> None:
        self._emit({"event": "started", "index": index, "name": order.name, "at": timestamp(time.time())})
        module = self._module(order)
        if order.denial:
            self._emit_unrun(index, "denied", order.denial)
        elif self._is_stopping:
            self._emit_unrun(index, "cancelled", "not started")
        elif isinstance(module, str):
            self._emit_unrun(index, "failed", module)
        else:
            self._running[row] = self._fork(index, order, module, share_bytes=self._share_bytes(row))

    def _share_bytes(self, row: int) -> int:
        """What the next of a row may write: as much is left for each row that has yet to begin one."""
        waiting = sum(bool(w) for r, w in enumerate(self._rows) if r != row and r not in self._running)
        return max(0, self._budget_bytes) // (1 + waiting)

    def _fork(self, index: int, order: CollectorOrder, module: ModuleType, *, share_bytes: int) -> _Running:
        group = self._group(index, order)
        output_bytes = min(order.limits.output_bytes, share_bytes)
        self._budget_bytes -= output_bytes  # what it leaves comes back when it ends
        count = len(self._order.collectors)
        task = child.Task(
            order=self._order,
            folder=self._folder,
            index=index,
            module=module,
            group=group,
            output_bytes=output_bytes,
            max_artifacts=MAX_ARTIFACTS // count,
            max_findings=min(_MAX_FINDINGS, 10_000 // count),
        )
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            child.run(task)
        return _Running(
            index=index,
            order=order,
            version=str(getattr(module, "VERSION", "")),
            pid=pid,
            bounds=group or process.Session(pid),
            output_bytes=output_bytes,
            until=time.monotonic() + order.limits.deadline_s,
        )

    def _group(self, index: int, order: CollectorOrder) -> Group | None:
        if self._order.hierarchy.kind == "none":
            return None
        group = self._order.hierarchy.group(f"{self._order.key}/{index}")
        limits = order.limits
        try:
            group.create(GroupLimits(limits.cpu_percent, limits.memory_bytes, limits.pids, limits.io_weight))
        except OSError as error:
            self._emit({"event": "lack", "sentence": f"cgroup: no group for {order.name} ({error})"})
            return None
        return group

    def _module(self, order: CollectorOrder) -> ModuleType | str:
        """The collector's module, or why there is none."""
        if not order.module:
            return f"this agent ({self._order.agent_version}) has no collector {order.name!r}"
        if order.module not in self._modules:
            try:
                self._modules[order.module] = importlib.import_module(order.module)
            except Exception as error:  # noqa: BLE001 -- one broken collector must not cost the others
                self._modules[order.module] = f"can't be imported: {type(error).__name__}: {error}"
        return self._modules[order.module]

    def _import_ahead(self) -> None:
        """Import what comes next while the present one works, so that the first is not held up by all imports."""
        for waiting in self._rows:
            for _, order in list(waiting)[:1]:
                self._module(order)

    def _pause(self) -> float:
        """How long nothing needs to be looked at."""
        now = time.monotonic()
        times = [_WATCH_S if r.exit_status is not None else r.until - now for r in self._running.values()]
        return max(0.0, min(times, default=0.0))

    def _obey(self, word: str) -> None:
        if not word or self._is_stopping:
            return
        self._is_stopping = True
        for running in self._running.values():
            # One whose time was over before keeps that verdict.
            if running.phase is _Phase.RUNNING:
                self._ask_to_end(running, ("cancelled", word))

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (found := os.wait4(-1, os.WNOHANG))[0]:
                pid, status, usage = found
                for running in self._running.values():
                    if running.pid == pid:
                        running.exit_status = status
                        running.cpu_ms = round((usage.ru_utime + usage.ru_stime) * 1000)

    def _watch(self, row: int, running: _Running) -> None:
        left = running.bounds.pids() if running.exit_status is not None else [running.pid]
        if not left:
            self._end(row, running)
        elif running.exit_status is not None and running.phase is not _Phase.KILLED:
            running.left_behind = len(left)
            self._kill(running)
        elif time.monotonic() >= running.until:
            self._press(row, running, left)

    def _press(self, row: int, running: _Running, left: list[int]) -> None:
        """Its time is over: take the next harder step."""
        if running.phase is _Phase.RUNNING:
            self._ask_to_end(running, ("timed_out", f"stopped after {running.order.limits.deadline_s:g} s"))
        elif running.phase is _Phase.ASKED:
            self._kill(running)
        else:
            running.unkillable = sorted({*left, *running.bounds.pids()})
            self._unkillable.update(running.unkillable)
            self._end(row, running)

    def _ask_to_end(self, running: _Running, verdict: tuple[str, str]) -> None:
        running.verdict, running.phase = verdict, _Phase.ASKED
        running.until = time.monotonic() + _TERM_GRACE_S
        with suppress(ProcessLookupError):
            if running.exit_status is None:
                os.kill(running.pid, signal.SIGTERM)

    def _kill(self, running: _Running) -> None:
        running.phase = _Phase.KILLED
        running.until = time.monotonic() + _KILL_GRACE_S
        running.kill()

    def _end(self, row: int, running: _Running) -> None:
        del self._running[row]
        notes = lines(self._folder.notes(running.index))
        kept = [n for n in notes if n["event"] == "kept"]
        total_bytes = sum(n["size"] for n in kept)
        self._budget_bytes += max(0, running.output_bytes - total_bytes)
        status, detail = _verdict(running, notes)
        cpu_ms = running.bounds.cpu_ms()
        self._emit(
            {
                "event": "ended",
                "index": running.index,
                "status": status,
                "detail": clean(detail, _MAX_DETAIL),
                "version": running.version,
                "started_at": timestamp(running.started_at),
                "at": timestamp(time.time()),
                "wall_ms": round((time.monotonic() - running.started) * 1000),
                "cpu_ms": running.cpu_ms if cpu_ms is None else cpu_ms,
                "artifacts": sum(n["event"] == "opened" for n in notes),
                "total_bytes": total_bytes,
                "unkillable": running.unkillable,
            }
        )
        running.bounds.remove()

    def _emit_unrun(self, index: int, status: str, detail: str) -> None:
        now = timestamp(time.time())
        nothing = {"version": "", "wall_ms": 0, "cpu_ms": 0, "artifacts": 0, "total_bytes": 0, "unkillable": []}
        self._emit(
            {
                "event": "ended",
                "index": index,
                "status": status,
                "detail": clean(detail, _MAX_DETAIL),
                "started_at": now,
                "at": now,
            }
            | nothing
        )


def _verdict(running: _Running, notes: list[dict[str, Any]]) -> tuple[str, str]:
    """How the collector ended: a status of the manifest and what a person should know."""
    status, detail = running.verdict or _own_verdict(running, notes)
    sentences = [detail] if detail else []
    if running.bounds.memory_kills():
        sentences.append(f"memory limit of {running.order.limits.memory_bytes} bytes reached")
    if running.left_behind:
        sentences.append(f"{running.left_behind} processes that it left behind were ended")
    if running.unkillable:
        pids = ", ".join(map(str, running.unkillable))
        sentences.append(f"the kernel does not end {pids} (uninterruptible sleep)")
    return status, "; ".join(sentences)


def _own_verdict(running: _Running, notes: list[dict[str, Any]]) -> tuple[str, str]:
    results = [n for n in notes if n["event"] == "result"]
    if results:
        return results[-1]["status"], results[-1]["detail"]
    code = os.waitstatus_to_exitcode(running.exit_status or 0)
    if code < 0:
        return "failed", f"ended by {signal.Signals(-code).name}"
    return "failed", f"ended with status {code} and no result"


@contextmanager
def _wakeups() -> Iterator[Callable[[float], str]]:
    """A function that waits for a child's end, a word on standard input or the time given, and returns the word."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    # A handler is needed for the signal to wake anything; the pipe does the waking.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    selector = selectors.DefaultSelector()
    selector.register(readable, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)

    def wait(timeout_s: float) -> str:
        word = ""
        for key, _ in selector.select(timeout_s):
            data = os.read(key.fd, 4096)
            if key.fd == 0:
                word = data.decode(errors="replace").strip() or "the agent ended"
                # At its end it would be readable for ever.
                selector.unregister(0)
        return word

    with selector:
        yield wait


def _progress(path: Path) -> Callable[[dict[str, Any]], None]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    # Held until this process ends: a restarted agent waits for it before it seals what is here.
    fcntl.flock(descriptor, fcntl.LOCK_EX)

    def emit(event: dict[str, Any]) -> None:
        line = json.dumps(event).encode() + b"\n"
        os.write(descriptor, line)
        with suppress(BrokenPipeError):  # the agent is gone; standard input says so too
            os.write(1, line)

    return emit


def main() -> None:
    """Run the capture in the folder named by the first argument."""
    folder = Folder(Path(sys.argv[1]))
    order = Order.from_json(folder.order.read_bytes())
    Worker(order, folder, _progress(folder.progress)).run()


if __name__ == "__main__":
    main()
