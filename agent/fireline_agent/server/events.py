"""What happens on this host, told to everybody who watches it."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from fireline_wire.v1 import host_pb2

_WAITING: Final = 256  # events that a slow watcher may be behind; older ones are dropped


class Events:
    """A stream of events with any number of readers. Belongs to one event loop."""

    def __init__(self) -> None:
        self._readers: set[asyncio.Queue[host_pb2.HostEvent]] = set()
        self._unheard: deque[host_pb2.HostEvent] = deque(maxlen=_WAITING)

    def tell(self, kind: "host_pb2.HostEvent.Kind.ValueType", detail: str = "", *, waits: bool = False) -> None:
        """Give every reader an event; one that `waits` is for the next reader where there is none now."""
        told = event(kind, detail)
        if waits and not self._readers:
            self._unheard.append(told)
        for queue in self._readers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(told)

    @contextmanager
    def heard(self) -> Iterator["asyncio.Queue[host_pb2.HostEvent]"]:
        """A queue that gets every event while the block lasts."""
        queue: asyncio.Queue[host_pb2.HostEvent] = asyncio.Queue(_WAITING)
        self._readers.add(queue)
        while self._unheard:
            queue.put_nowait(self._unheard.popleft())
        try:
            yield queue
        finally:
            self._readers.discard(queue)


def event(kind: "host_pb2.HostEvent.Kind.ValueType", detail: str = "") -> host_pb2.HostEvent:
    """An event of now."""
    return host_pb2.HostEvent(at=now(), kind=kind, detail=detail)


def now() -> Timestamp:
    """The host's clock."""
    moment = Timestamp()
    moment.GetCurrentTime()
    return moment
