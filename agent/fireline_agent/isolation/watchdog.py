"""Notice within a second when somebody changes our rules or the network around them.

Driven by what the kernel tells over netlink (nftables, links, addresses), with a slow look beside it for what is not
told. A thread of its own. Leaves to others: what to do about it (upkeep).
"""

import logging
import os
import selectors
import threading
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from fireline_agent.errors import ConfigError, RefusedError
from fireline_agent.hands.netlink import (
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    NFNLGRP_NFTABLES,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_LINK,
    Listener,
)
from fireline_agent.isolation.means import MeansError
from fireline_agent.isolation.upkeep import Upkeep

log = logging.getLogger(__name__)

_POLL_S: Final = 10.0
_SETTLE_S: Final = 0.25  # a reload is many messages, and an isolation's own steps follow each other closely
_RETRY_S: Final = 1.0


class Watchdog:
    """A thread that looks while the block lasts."""

    def __init__(self, upkeep: Upkeep) -> None:
        self._upkeep = upkeep
        self._stopping = threading.Event()
        self._waking = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="isolation watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self.wake()
        self._thread.join()
        for end in self._waking:
            os.close(end)

    def wake(self) -> None:
        """Look now."""
        with suppress(BlockingIOError):  # it is awake already
            os.write(self._waking[1], b"!")

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._waking[0], selectors.EVENT_READ)
            listeners = _listeners()
            for listener in listeners:
                selector.register(listener, selectors.EVENT_READ)
            wait_s = 0.0
            while not self._stopping.is_set():
                if selector.select(wait_s):
                    self._stopping.wait(_SETTLE_S)
                self._drain(listeners)
                wait_s = self._look()
            for listener in listeners:
                listener.close()

    def _look(self) -> float:
        try:
            due_s = self._upkeep.check()
        except (RefusedError, MeansError, ConfigError, OSError) as error:
            log.warning("isolations could not be looked after", extra={"why": str(error)})
            return _RETRY_S
        except Exception:  # the edge of a thread: one that ends here would look no more
            log.exception("a look at the isolations failed")
            return _RETRY_S
        return _POLL_S if due_s is None else min(_POLL_S, due_s)

    def _drain(self, listeners: list[Listener]) -> None:
        with suppress(BlockingIOError):
            while os.read(self._waking[0], 64):
                pass
        for listener in listeners:
            listener.drain()


def _listeners() -> list[Listener]:
    """One for each kind of news; a kernel that does not tell is looked at by the clock."""
    found = []
    for protocol, groups in (
        (NETLINK_ROUTE, (RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR)),
        (NETLINK_NETFILTER, (NFNLGRP_NFTABLES,)),
    ):
        try:
            found.append(Listener(protocol, groups))
        except OSError as error:
            log.warning("the kernel does not tell of changes", extra={"protocol": protocol, "why": str(error)})
    return found
