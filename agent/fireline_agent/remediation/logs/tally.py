"""Counts numbers as they stand in logs: each value exactly while there are few, on a grid once there are many. Pure.

Memory is bounded however many lines there are.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from fireline_wire.percentiles import GRID_ERROR_PCT, nearest_ranks, on_grid

MAX_EXACT: Final = 200_000  # different values: about 40 MB
MAX_TOLD: Final = 5000  # rows of an answer: about 200 kB
_PERCENTS: Final = (50, 95, 99)
_NUMBER: Final = re.compile(rb"(\d{1,18}(?:\.\d{1,18})?(?:[eE][+-]?\d{1,2})?)(us|ms|s|)\Z")
_MILLISECONDS: Final = {b"us": 0.001, b"ms": 1.0, b"s": 1000.0, b"": 1.0}


class Tally:
    """How often each number was seen. One with a unit counts in milliseconds, one without as it stands."""

    def __init__(self) -> None:
        self.not_numeric = 0
        self.is_exact = True
        self._words: Counter[bytes] = Counter()
        self._values: dict[float, int] = {}

    def add(self, words: Iterable[bytes]) -> None:
        """Count words as they stand in a log."""
        self._words.update(words)
        if len(self._words) > MAX_EXACT:
            self._settle()

    def facts(self) -> dict[str, Any]:
        """Everything that can be said of them, as JSON values; None where there was no number at all."""
        self._settle()
        values = self._values
        count = sum(values.values())
        p50, p95, p99 = nearest_ranks(values, _PERCENTS)
        told = values if len(values) <= MAX_TOLD else _rounded(values)
        is_told_exactly = self.is_exact and len(values) <= MAX_TOLD
        return {
            "count": count,
            "not_numeric": self.not_numeric,
            "average": sum(v * n for v, n in values.items()) / count if count else None,
            "p50": p50,
            "p95": p95,
            "p99": p99,
            "least": min(values, default=None),
            "most": max(values, default=None),
            "error_pct": 0.0 if self.is_exact else GRID_ERROR_PCT,
            "histogram": [{"value": value, "count": told[value]} for value in sorted(told)],
            "histogram_error_pct": 0.0 if is_told_exactly else GRID_ERROR_PCT,
        }

    def _settle(self) -> None:
        """Make numbers of the words."""
        for word, count in self._words.items():
            found = _NUMBER.match(word)
            if found is None:
                self.not_numeric += count
                continue
            value = float(found[1]) * _MILLISECONDS[found[2]]
            value = value if self.is_exact else on_grid(value)
            self._values[value] = self._values.get(value, 0) + count
        self._words.clear()
        if self.is_exact and len(self._values) > MAX_EXACT:
            self.is_exact = False
            self._values = _rounded(self._values)


def _rounded(values: dict[float, int]) -> dict[float, int]:
    rounded: dict[float, int] = {}
    for value, count in values.items():
        on = on_grid(value)
        rounded[on] = rounded.get(on, 0) + count
    return rounded
