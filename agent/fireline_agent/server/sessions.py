"""The sessions that callers hold open, so that an agent that stops need not wait for them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fireline_agent.server.edge import Places
from fireline_wire.v1 import host_pb2


class Sessions:
    """Open sessions, each a stream of asks. Belongs to one event loop."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._waiting: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def asks(self, stream: AsyncIterator[host_pb2.Ask]) -> AsyncGenerator[host_pb2.Ask, None]:
        """The asks of one session, until its caller ends it or `close` is called.

        Raises:
            RefusedError: busy.
        """
        with self._places.taken():
            while (ask := await self._next(stream)) is not None:
                yield ask

    def close(self) -> None:
        """End every session; one that is being answered ends after its answer."""
        self._is_closed = True
        for task in self._waiting:
            task.cancel()

    async def _next(self, stream: AsyncIterator[host_pb2.Ask]) -> host_pb2.Ask | None:
        task = asyncio.current_task()
        if task is None or self._is_closed:
            return None
        self._waiting.add(task)
        try:
            return await anext(stream, None)
        except asyncio.CancelledError:
            if not self._is_closed:
                raise  # the caller is gone, or was put on the deny-list
            task.uncancel()
            return None
        finally:
            self._waiting.discard(task)
