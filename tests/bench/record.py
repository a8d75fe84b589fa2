"""What the record costs: lines appended to the journal one by one and many at once, and all of them verified."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from fireline_controller import state
from fireline_controller.model import Entry
from tests.bench.grounds import Grounds

MANY = 1000
VERIFIED = 5200
_ONES = 100
_ENTRY = Entry("evidence.sealed", "alice", datetime(2026, 5, 1, tzinfo=UTC), "ev-3f1c0a9be2d47a60 sealed", host="web1")


@dataclass(frozen=True)
class Recorded:
    """Seconds: the median of single lines in the journal and in a plain file, many at once, and the proof of all."""

    one_s: float
    plain_s: float
    many_s: float
    verify_s: float


def measured(grounds: Grounds) -> Recorded:
    """Measure the store of these grounds, which has no line yet; plain lines and the journal's take turns."""
    store = state.open_state(grounds.folder / "state").open_store()
    ones, plains = [], []
    try:
        with (grounds.folder / "plain").open("ab", buffering=0) as file:

            def plain() -> None:
                file.write(b"x" * 500)
                os.fsync(file.fileno())

            for _ in range(_ONES):
                ones.append(_timed(lambda: store.run_now(lambda tx: tx.append(_ENTRY))))
                plains.append(_timed(plain))
        many_s = _timed(lambda: store.run_now(lambda tx: tx.append(*[_ENTRY] * MANY)))
        store.run_now(lambda tx: tx.append(*[_ENTRY] * (VERIFIED - MANY - _ONES)))
        return Recorded(statistics.median(ones), statistics.median(plains), many_s, _timed(store.verify_now))
    finally:
        store.close()


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
