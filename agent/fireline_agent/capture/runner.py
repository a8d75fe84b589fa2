"""Run captures beside the agent: a worker collects, a sealer signs, and whoever is attached hears of the progress.

A capture belongs to nobody's call: it goes on when its caller is gone, ends by itself, by `cancel` or at its deadline,
and is sealed in every case, after a crash of the agent too. Belongs to one event loop. Leaves to others: request ids
(ledger), what may be collected (server, policy).
"""

import asyncio
import errno
import json
import logging
import signal
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from fireline_agent.capture.order import Folder, Order
from fireline_agent.capture.spool import Sealed, Spool, read_sealed
from fireline_agent.errors import RefusedError
from fireline_agent.hands.process import start_module

log = logging.getLogger(__name__)
T = TypeVar("T")

_STOP_S: Final = 1.7  # a worker that was told to stop and has not by then is killed: cancelling takes 2 s at most
# A collector may work longer than a caller waits in silence.
SIGN_OF_LIFE_S: Final = 10.0
_RESTARTED: Final = "the agent was restarted"


@dataclass(frozen=True)
class CollectorStarted:
    """A collector began; `index` counts from 0."""

    name: str
    index: int
    count: int


@dataclass(frozen=True)
class CollectorEnded:
    """A collector ended. `status` is one of the manifest's."""

    name: str
    status: str
    detail: str
    artifacts: int
    total_bytes: int
    wall_ms: int
    cpu_ms: int


News = CollectorStarted | CollectorEnded | Sealed


class Running:
    """A capture in work. `stopped` is set once nothing of it runs any more, before it is sealed."""

    def __init__(self, order: Order, folder: Folder, *, sign_of_life_s: float = SIGN_OF_LIFE_S) -> None:
        self.order = order
        self.folder = folder
        self.stopped = asyncio.Event()
        self.unkillable_pids: set[int] = set()
        self.partial_reason = ""
        self._news: list[News] = []
        self._sign_of_life_s = sign_of_life_s
        self._at_work: CollectorStarted | None = None
        self.is_over = False
        self._failure: RefusedError | None = None
        # Set at the next change and then replaced by a fresh one.
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()

    async def follow(self) -> AsyncIterator[News]:
        """All news from the first on, as they come; the last one is Sealed.

        While nothing happens for long, the last collector that started is told again as a sign of life.

        Raises:
            RefusedError: the capture could not be sealed.
        """
        told = 0
        while True:
            changed = self._changed
            for news in self._news[told:]:
                told += 1
                yield news
            if told == len(self._news) and self.is_over:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(self._sign_of_life_s):
                    await changed.wait()
            if not changed.is_set() and self._at_work is not None:
                yield self._at_work
        if self._failure is not None:
            raise self._failure

    def stop(self, why: str) -> None:
        """Have it stop at once; the first reason counts."""
        if not self._stop.is_set():
            self.partial_reason = self.partial_reason or why
            self._stop.set()

    async def until_told_to_stop(self) -> None:
        """Wait for `stop`."""
        await self._stop.wait()

    def tell(self, news: News) -> None:
        """Add news."""
        self._news.append(news)
        if isinstance(news, CollectorStarted):
            self._at_work = news
        self._wake()

    def end(self, failure: RefusedError | None) -> None:
        """Nothing more will come."""
        self.is_over, self._failure = True, failure
        self.stopped.set()
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Runner:
    """All captures in work on this host. `on_change` gets a capture when it starts and when it ended."""

    def __init__(
        self,
        spool: Spool,
        *,
        key_path: Path,
        threads: Executor,
        tasks: asyncio.TaskGroup,
        on_change: Callable[[Running], None] = lambda _: None,
    ) -> None:
        self._spool = spool
        self._key_path = key_path
        self._threads = threads
        self._tasks = tasks
        self._on_change = on_change
        self._running: dict[str, Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    def find(self, request_id: str) -> Running | None:
        """The capture in work with this request id."""
        return self._running.get(request_id)

    def start(self, order: Order, folder: Folder, *, deadline_s: float) -> Running:
        """Start a capture whose folder was made; it is sealed as partial when its time is over."""
        running = self._running[order.request_id] = Running(order, folder)
        self._tasks.create_task(self._run(running, deadline_s))
        self._on_change(running)
        return running

    def recover(self, order: Order, folder: Folder) -> Running:
        """Seal what a crash left behind, as partial."""
        running = self._running[order.request_id] = Running(order, folder)
        running.partial_reason = _RESTARTED
        self._tasks.create_task(self._conclude(running, None))
        return running

    async def cancel(self, request_id: str, why: str) -> Running | None:
        """Stop a capture; returns it once nothing of it runs any more, or None if it is not in work."""
        running = self._running.get(request_id)
        if running is None or running.stopped.is_set():
            return None
        running.stop(why)
        await running.stopped.wait()
        return running

    async def drain(self, *, within_s: float) -> None:
        """Let captures end by themselves for so long, then stop the rest; returns once all are sealed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._all_over()
        for running in list(self._running.values()):
            running.stop("the agent was told to stop")
        await self._all_over()

    async def _all_over(self) -> None:
        for running in list(self._running.values()):
            with suppress(RefusedError):
                async for _ in running.follow():
                    pass

    async def _run(self, running: Running, deadline_s: float) -> None:
        sealer: asyncio.subprocess.Process | None = None
        try:
            # Started first: it imports while the collectors work.
            sealer = await self._start("fireline_agent.capture.seal", running, str(self._key_path))
            await self._collect(running, deadline_s)
        except Exception:
            log.exception("capture broke off", extra={"request_id": running.order.request_id})
            running.partial_reason = running.partial_reason or "the agent could not run it; see the agent's log"
        await self._conclude(running, sealer)

    async def _collect(self, running: Running, deadline_s: float) -> None:
        worker = await self._start("fireline_agent.capture.worker", running)
        reading = asyncio.ensure_future(self._read(running, worker))
        stopping = asyncio.ensure_future(running.until_told_to_stop())
        try:
            await asyncio.wait({reading, stopping}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                running.stop(f"its time of {deadline_s:g} s was over")
                await self._stop(running, worker, reading)
            await reading
        finally:
            stopping.cancel()
            status = await _ended(worker)
            await self._call(_end_group, running)
        if status:
            running.partial_reason = running.partial_reason or f"the worker ended {_how(status)}"

    async def _stop(
        self, running: Running, worker: asyncio.subprocess.Process, reading: "asyncio.Future[None]"
    ) -> None:
        if worker.stdin is not None:
            with suppress(OSError):
                worker.stdin.write(f"{running.partial_reason}\n".replace("\n", " ").encode() + b"\n")
        await asyncio.wait({reading}, timeout=_STOP_S)
        if not reading.done():
            log.error("worker did not stop and is killed", extra={"request_id": running.order.request_id})
            worker.kill()

    async def _read(self, running: Running, worker: asyncio.subprocess.Process) -> None:
        """Take the worker's lines until it has ended."""
        if worker.stdout is None:
            raise RuntimeError("the worker has a pipe")
        collectors = running.order.collectors
        async for line in worker.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == "started":
                running.tell(CollectorStarted(event["name"], event["index"], len(collectors)))
            elif event["event"] == "ended":
                running.unkillable_pids.update(event["unkillable"])
                running.tell(_ended_news(event, collectors[event["index"]].name))

    async def _conclude(self, running: Running, sealer: asyncio.subprocess.Process | None) -> None:
        """Seal, tell the outcome, and forget that the capture was in work."""
        running.stopped.set()
        failure: RefusedError | None = None
        try:
            sealer = sealer or await self._start("fireline_agent.capture.seal", running, str(self._key_path))
            running.tell(await self._seal(running, sealer))
        except RefusedError as refused:
            failure = refused
        except Exception:
            log.exception("capture could not be sealed", extra={"request_id": running.order.request_id})
            failure = RefusedError("internal", "the capture could not be sealed; see the agent's log")
        del self._running[running.order.request_id]
        running.end(failure)
        self._on_change(running)

    async def _seal(self, running: Running, sealer: asyncio.subprocess.Process) -> Sealed:
        word = json.dumps({"partial_reason": running.partial_reason[:4000]}).encode() + b"\n"
        await sealer.communicate(word)
        sealed = await self._call(read_sealed, running.folder)
        if sealed is not None:
            return sealed
        complaint = (await self._call(_complaint, running))[-2000:]
        log.error("sealing failed", extra={"request_id": running.order.request_id, "complaint": complaint})
        if sealer.returncode == errno.ENOSPC:
            raise RefusedError("disk_full", f"{running.folder.path}: no space to seal the capture")
        raise RefusedError("internal", "the capture could not be sealed; see the agent's log")

    async def _start(self, module: str, running: Running, *arguments: str) -> asyncio.subprocess.Process:
        with running.folder.complaints.open("ab") as complaints:
            return await start_module(module, str(running.folder.path), *arguments, stderr=complaints)

    async def _call(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _complaint(running: Running) -> str:
    return running.folder.complaints.read_text(errors="replace")


def _end_group(running: Running) -> None:
    """End what a worker that died left behind, and remove its group."""
    order = running.order
    if order.hierarchy.kind == "none":
        return
    group = order.hierarchy.group(order.key)
    running.unkillable_pids.update(group.kill(within_s=0.2))
    group.remove()


async def _ended(worker: asyncio.subprocess.Process) -> int:
    """The worker's exit status, once it ended; it is killed if its pipe closed and it did not."""
    try:
        async with asyncio.timeout(1.0):
            return await worker.wait()
    except TimeoutError:
        worker.kill()
        return await worker.wait()


def _how(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"


def _ended_news(event: dict[str, Any], name: str) -> CollectorEnded:
    return CollectorEnded(
        name=name,
        status=event["status"],
        detail=event["detail"],
        artifacts=event["artifacts"],
        total_bytes=event["total_bytes"],
        wall_ms=event["wall_ms"],
        cpu_ms=event["cpu_ms"],
    )
