"""Short-lived forked children for what may block for ever or end its process: a file system, a C library.

Only for collecting processes, which have one thread: a fork of a process with threads may deadlock. A child that
can't even be killed, since the kernel waits in its name, is left to the kernel; nobody waits for it.

Leaves to others: what runs in them; limits (the collector's control group binds these children too).
"""

import os
import selectors
import signal
import struct
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

T = TypeVar("T")
_FRAME: Final = struct.Struct("=?I")  # whether the work was done, length of what follows
_BLOCK_BYTES: Final = 1 << 16
_REAP_S: Final = 0.5  # a killed child that isn't gone by then hangs inside the kernel


class ChildFailed(Exception):
    """The work raised in its child, or the child died; the message says which."""


class Hung(ChildFailed):
    """The work wasn't done in time. `pid` is its child when not even SIGKILL ended it, else 0."""

    def __init__(self, message: str, *, pid: int = 0) -> None:
        super().__init__(message)
        self.pid = pid


@dataclass
class _Lane(Generic[T]):
    """A child that works through its items one after another; the first one is under way."""

    items: list[T]
    pid: int
    pipe: int
    deadline: float
    received: bytearray = field(default_factory=bytearray)


def output_of(work: Callable[[], bytes], *, timeout_s: float) -> bytes:
    """Run the work in a forked child and return its bytes.

    Raises:
        ChildFailed: it raised, died, or (Hung) wasn't done in time.
    """
    [(_, answer)] = each([None], lambda _: work(), timeout_s=timeout_s)
    if isinstance(answer, ChildFailed):
        raise answer
    return answer


def each(
    items: Sequence[T],
    work: Callable[[T], bytes],
    *,
    timeout_s: float,
    lane_of: Callable[[T], Hashable] = lambda _: None,
) -> Generator[tuple[T, bytes | ChildFailed], None, None]:
    """Do the work for every item in forked children and yield (item, its bytes or why not) as they come.

    Items of one lane share a child, one after another; lanes run at once. An item that hangs costs its lane
    `timeout_s` once; the lane's other items go on in a new child.
    """
    lanes: dict[Hashable, list[T]] = {}
    for item in items:
        lanes.setdefault(lane_of(item), []).append(item)
    with selectors.DefaultSelector() as selector:
        for share in lanes.values():
            _start(selector, share, work, timeout_s)
        try:
            while selector.get_map():
                yield from _step(selector, work, timeout_s)
        finally:
            for key in list(selector.get_map().values()):
                _stop(selector, key.data)


def _running(selector: selectors.BaseSelector) -> list[_Lane[T]]:
    return [key.data for key in list(selector.get_map().values())]


def _step(
    selector: selectors.BaseSelector, work: Callable[[T], bytes], timeout_s: float
) -> Iterator[tuple[T, bytes | ChildFailed]]:
    """Wait for the next news of any lane and yield what became known by it."""
    running: list[_Lane[T]] = _running(selector)
    wait_s = min(lane.deadline for lane in running) - time.monotonic()
    for key, _ in selector.select(max(0.0, wait_s)):
        lane: _Lane[T] = key.data
        block = os.read(lane.pipe, _BLOCK_BYTES)
        lane.received += block
        for answer in _answers(lane):
            lane.deadline = time.monotonic() + timeout_s
            yield lane.items.pop(0), answer
        if not block:
            _stop(selector, lane)
            if lane.items:
                yield lane.items.pop(0), ChildFailed("its process died")
            _start(selector, lane.items, work, timeout_s)
    for lane in _running(selector):
        if lane.deadline <= time.monotonic():
            pid = _stop(selector, lane)
            yield lane.items.pop(0), Hung(f"no answer within {timeout_s} s", pid=pid)
            _start(selector, lane.items, work, timeout_s)


def _answers(lane: _Lane[T]) -> Iterator[bytes | ChildFailed]:
    while len(lane.received) >= _FRAME.size:
        is_done, length = _FRAME.unpack_from(lane.received)
        if len(lane.received) < _FRAME.size + length:
            return
        payload = bytes(lane.received[_FRAME.size : _FRAME.size + length])
        del lane.received[: _FRAME.size + length]
        yield payload if is_done else ChildFailed(payload.decode(errors="backslashreplace"))


def _start(selector: selectors.BaseSelector, items: list[T], work: Callable[[T], bytes], timeout_s: float) -> None:
    if not items:
        return
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _live(items, work, writing)
    os.close(writing)
    lane = _Lane(items, pid, reading, time.monotonic() + timeout_s)
    selector.register(reading, selectors.EVENT_READ, lane)


def _live(items: list[T], work: Callable[[T], bytes], pipe: int) -> None:
    """The child's whole life; never returns, so that nothing of the parent's runs twice."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for item in items:
            try:
                is_done, payload = True, work(item)
            except Exception as error:  # noqa: BLE001  a process edge: the parent judges what came of it
                is_done, payload = False, (str(error) or type(error).__name__).encode(errors="backslashreplace")
            _send(pipe, _FRAME.pack(is_done, len(payload)) + payload)
    finally:
        os._exit(0)


def _send(pipe: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(pipe, view) :]


def _stop(selector: selectors.BaseSelector, lane: _Lane[T]) -> int:
    """End a lane's child; its pid when it can't be ended, else 0."""
    selector.unregister(lane.pipe)
    os.close(lane.pipe)
    os.kill(lane.pid, signal.SIGKILL)  # not reaped yet, so the pid is still its own
    end = time.monotonic() + _REAP_S
    while time.monotonic() < end:
        if os.waitpid(lane.pid, os.WNOHANG)[0]:
            return 0
        time.sleep(0.001)
    return lane.pid
