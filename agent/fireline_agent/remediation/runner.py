"""Run action processes beside the agent, each bound and ended in time; whoever is attached hears of the progress.

An application belongs to nobody's call: it goes on when its caller is gone, and ends by itself, by `cancel` or at its
deadline. How it ended is on record in every case. Belongs to one event loop. Leaves to others: request ids (ledger),
what is allowed (policy, server).
"""

import asyncio
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from fireline_agent.errors import RefusedError
from fireline_agent.hands.cgroup import Group, GroupLimits
from fireline_agent.hands.process import start_module
from fireline_agent.remediation.order import Means, Order
from fireline_agent.remediation.records import Records, closed

log = logging.getLogger(__name__)
T = TypeVar("T")

_STOP_S: Final = 1.7  # one that was told to stop and has not by then is killed: cancelling takes 2 s at most
_SIGN_OF_LIFE_S: Final = 10.0
_MAX_LINE: Final = 8 << 20  # the largest plan: 1 MiB of result, 200 changes, 100 warnings, with every letter escaped
_MAX_OUTPUT: Final = 64 << 20  # of one process: progress of days
_MAX_COMPLAINT: Final = 4000  # bytes for the log
_IO_WEIGHT: Final = 100  # the normal one
_MODULE: Final = "fireline_agent.remediation.child"


@dataclass(frozen=True)
class Progress:
    """How far an application is."""

    done: int = 0
    count: int = 0
    doing: str = "starting"


@dataclass(frozen=True)
class _Exit:
    """How a process ended. `cut` is `cancelled` or `timed_out` where it did not by itself."""

    cut: str
    status: int


class Running:
    """An application or an undo in work."""

    def __init__(self, order: Order, folder: Path) -> None:
        self.order = order
        self.folder = folder
        self.ending: Mapping[str, Any] | None = None
        self.why = ""
        self.stop = asyncio.Event()
        self._progress = Progress()
        # Set at the next news and then replaced by a fresh one.
        self._changed = asyncio.Event()

    async def follow(self) -> AsyncIterator[Progress]:
        """What it does, as it changes and as a sign of life; over once `ending` is there. News in between are lost."""
        while self.ending is None:
            changed = self._changed
            yield self._progress
            with suppress(TimeoutError):
                async with asyncio.timeout(_SIGN_OF_LIFE_S):
                    await changed.wait()

    async def ended(self) -> Mapping[str, Any]:
        """How it ended, once it has."""
        async for _ in self.follow():
            pass
        if self.ending is None:
            raise RuntimeError("it was followed to its end")
        return self.ending

    def cancel(self, why: str) -> None:
        """Have it stop between two changes; the first reason counts."""
        if not self.stop.is_set():
            self.why = why
            self.stop.set()

    def tell(self, progress: Progress) -> None:
        """It came further."""
        self._progress = progress
        self._wake()

    def end(self, ending: Mapping[str, Any]) -> None:
        """Nothing more will come."""
        self.ending = ending
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Runner:
    """All action processes of this host."""

    def __init__(self, means: Means, records: Records, *, threads: Executor, tasks: asyncio.TaskGroup) -> None:
        self._means = means
        self._records = records
        self._threads = threads
        self._tasks = tasks
        self._running: dict[str, Running] = {}

    def find(self, request_id: str) -> Running | None:
        """The application or undo in work with this request id."""
        return self._running.get(request_id)

    def is_undoing(self, applied: str) -> bool:
        """Whether the application with this request id is being taken back."""
        return any(running.order.applied == applied for running in self._running.values())

    async def plan(self, order: Order, *, deadline_s: float) -> Mapping[str, Any]:
        """What the action would do now; see `child` for the fields. Ended when the caller is cancelled.

        Raises:
            RefusedError: the action can't be planned here, or its process failed.
        """
        last: dict[str, Any] = {}
        end = await self._process(order, deadline_s, asyncio.Event(), lambda: "", last.update)
        if last.get("event") == "refused":
            raise RefusedError(last["reason"], last["message"])
        if last.get("event") != "planned":
            late = f"no plan of {order.action} within {deadline_s:g} s" if end.cut else f"planning {order.action}"
            raise RefusedError("internal", f"{late} {_how(end)}; see the agent's log")
        return last

    async def start(self, order: Order, *, deadline_s: float) -> Running:
        """Start an application or an undo whose request id is remembered.

        Raises:
            OSError: its record can't be made; nothing was done.
        """
        folder = await self._call(self._records.create, order)
        running = self._running[order.request_id] = Running(order, folder)
        self._tasks.create_task(self._run(running, deadline_s))
        return running

    async def cancel(self, request_id: str, why: str) -> bool:
        """Stop one; false where it is not in work. Returns once nothing of it runs any more."""
        running = self._running.get(request_id)
        if running is None:
            return False
        running.cancel(why)
        await running.ended()
        return True

    async def drain(self, *, within_s: float) -> None:
        """Let what runs end by itself for so long, then stop the rest; returns once all ends are on record."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._all_over()
        for running in list(self._running.values()):
            running.cancel("the agent was told to stop")
        await self._all_over()

    async def _all_over(self) -> None:
        for running in list(self._running.values()):
            await running.ended()

    async def _run(self, running: Running, deadline_s: float) -> None:
        last: dict[str, Any] = {}

        def hear(event: Mapping[str, Any]) -> None:
            if event["event"] == "progress":
                running.tell(Progress(event["done"], event["count"], event["doing"]))
            else:
                last.update(event)

        try:
            end = await self._process(running.order, deadline_s, running.stop, lambda: running.why, hear)
            ending = await self._ending(running, end, last, deadline_s)
        except Exception:
            log.exception("action broke off", extra={"request_id": running.order.request_id})
            ending = await self._closed(running, "failed", "the agent could not run it; see the agent's log")
        del self._running[running.order.request_id]
        running.end(ending)

    async def _ending(
        self, running: Running, end: _Exit, last: Mapping[str, Any], deadline_s: float
    ) -> Mapping[str, Any]:
        if last.get("event") == "ended":
            return {name: value for name, value in last.items() if name != "event"}
        if last.get("event") == "refused":
            return await self._closed(running, "failed", last["message"], last["reason"])
        if end.cut == "timed_out":
            return await self._closed(running, "timed_out", f"its time of {deadline_s:g} s was over")
        if end.cut:
            return await self._closed(running, "cancelled", f"{running.why}: ended in the middle of a change")
        return await self._closed(running, "failed", f"its process {_how(end)}; see the agent's log")

    async def _closed(self, running: Running, status: str, detail: str, refusal: str = "") -> Mapping[str, Any]:
        return await self._call(closed, running.folder, status, detail, refusal)

    async def _process(
        self,
        order: Order,
        deadline_s: float,
        stop: asyncio.Event,
        why: Callable[[], str],
        hear: Callable[[Mapping[str, Any]], None],
    ) -> _Exit:
        """One action process from its start to its end; nothing of it is left behind."""
        group = self._group(order)
        with os.fdopen(os.memfd_create("complaints", os.MFD_CLOEXEC), "w+b") as complaints:
            child = await start_module(_MODULE, stderr=complaints, line_bytes=_MAX_LINE)
            reading = asyncio.ensure_future(_read(child, hear))
            stopping = asyncio.ensure_future(stop.wait())
            cut = ""
            try:
                _say(child, order.to_json() + b"\n" + self._means.to_json() + b"\n")
                done, _ = await asyncio.wait({reading, stopping}, timeout=deadline_s, return_when="FIRST_COMPLETED")
                if not reading.done():
                    cut = "cancelled" if done else "timed_out"
                    word = why() if done else f"its time of {deadline_s:g} s was over"
                    _say(child, json.dumps({"status": cut, "why": word}).encode() + b"\n")
                    await asyncio.wait({reading}, timeout=_STOP_S)
                if reading.done():
                    await reading
            finally:
                reading.cancel()
                stopping.cancel()
                status = await _ended(child)
                await asyncio.shield(self._call(_end_group, group))
            _log_complaints(order, complaints)
        return _Exit(cut, status)

    def _group(self, order: Order) -> Group | None:
        means = self._means
        if means.hierarchy.kind == "none":
            return None
        group = means.hierarchy.group(order.group)
        group.create(GroupLimits(means.cpu_percent, means.memory_bytes, means.pids, _IO_WEIGHT))
        return group

    async def _call(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


async def _read(child: asyncio.subprocess.Process, hear: Callable[[Mapping[str, Any]], None]) -> None:
    """Take the process's lines until it has ended.

    Raises:
        ValueError: a line is too long or no JSON, or there are too many.
    """
    if child.stdout is None:
        raise RuntimeError("the process has a pipe")
    left = _MAX_OUTPUT
    async for line in child.stdout:
        left -= len(line)
        if left < 0:
            raise ValueError(f"more than {_MAX_OUTPUT} bytes of output")
        hear(json.loads(line))


def _say(child: asyncio.subprocess.Process, words: bytes) -> None:
    if child.stdin is not None:
        with suppress(OSError):
            child.stdin.write(words)


async def _ended(child: asyncio.subprocess.Process) -> int:
    """The exit status; it is killed unless it ends by itself right now."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1 if child.returncode is None else 0):
            return await child.wait()
    with suppress(ProcessLookupError):
        child.kill()
    return await child.wait()


def _end_group(group: Group | None) -> None:
    """End what the action left behind, and remove its group."""
    if group is not None:
        group.kill(within_s=0.5)
        group.remove()


def _log_complaints(order: Order, complaints: IO[bytes]) -> None:
    complaints.seek(0, os.SEEK_END)
    complaints.seek(max(0, complaints.tell() - _MAX_COMPLAINT))
    said = complaints.read().decode(errors="backslashreplace").strip()
    if said:
        log.warning("an action complained", extra={"action": order.action, "complaint": said})


def _how(end: _Exit) -> str:
    if end.status < 0:
        return f"was ended by {signal.Signals(-end.status).name}"
    return f"ended with status {end.status} and no result"
