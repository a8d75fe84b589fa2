"""Believe an order by its signature: a controller of this host's authority signed it, for this host.

What that takes is opened in a child process: the library for certificates costs 11 MB that an agent seldom needs, and a
quarter of a second to load, so that the child stays for a while: a plan is followed by its Arm. Blocking.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fireline_agent.errors import ConfigError, RefusedError
from fireline_agent.hands.companion import Companion
from fireline_wire.isolation import MAX_ORDER_BYTES, IsolationOrder, OrderError

_CHILD: Final = "fireline_agent.isolation.order_child"
_CHILD_S: Final = 20.0  # it takes a quarter of a second; a host in trouble may take longer
_IDLE_S: Final = 60.0  # longer than the evidence between a plan and its Arm takes
_MAX_ENVELOPE: Final = 2 * MAX_ORDER_BYTES
_MAX_CHAIN: Final = 64 << 10
_REMEMBERED: Final = 64


@dataclass(frozen=True)
class Signed:
    """An order as it came, believed by nobody yet: a DSSE envelope, and the signer's chain in PEM."""

    envelope: bytes
    chain_pem: bytes

    @property
    def digest(self) -> bytes:
        """What tells it from every other."""
        parts = (hashlib.sha256(part).digest() for part in (self.envelope, self.chain_pem))
        return b"".join(parts)


class Orders:
    """Opens orders with the authority in the key folder. Safe from any thread.

    What was opened once is not opened again.
    """

    def __init__(self, keys: Path) -> None:
        self._child = Companion(_CHILD, str(keys), idle_s=_IDLE_S)
        self._lock = threading.Lock()
        # With whether the signer held at the time: what was judged as kept is not believed as new.
        self._opened: OrderedDict[bytes, tuple[IsolationOrder, bool]] = OrderedDict()

    def opened(self, signed: Signed, *, is_kept: bool = False) -> IsolationOrder:
        """The order inside.

        Args:
            signed: as it came, or as it was kept.
            is_kept: it was believed before and lies on this host's disk: the signer's certificate may have run out
                since, so it is judged as of the order's own time.

        Raises:
            RefusedError: invalid_request or tampered.
        """
        with self._lock:
            known = self._opened.get(signed.digest)
        if known is not None and (is_kept or known[1]):
            return known[0]
        order = self._ask(signed, is_kept=is_kept)
        with self._lock:
            self._opened[signed.digest] = (order, not is_kept)
            while len(self._opened) > _REMEMBERED:
                self._opened.popitem(last=False)
        return order

    def _ask(self, signed: Signed, *, is_kept: bool) -> IsolationOrder:
        if len(signed.envelope) > _MAX_ENVELOPE or len(signed.chain_pem) > _MAX_CHAIN:
            raise RefusedError("invalid_request", f"order: wanted at most {_MAX_ENVELOPE} bytes")
        given = {
            "envelope": signed.envelope.decode(errors="replace"),
            "chain_pem": signed.chain_pem.decode(errors="replace"),
            "is_kept": is_kept,
        }
        answer = json.loads(self._child.ask(json.dumps(given).encode(), timeout_s=_CHILD_S))
        if "error" in answer:
            raise ConfigError(answer["error"])
        if "refused" in answer:
            raise RefusedError(*answer["refused"])
        try:
            return IsolationOrder.parse(answer["payload"].encode())
        except OrderError as error:
            raise RefusedError("invalid_request", f"order: {error}") from None
