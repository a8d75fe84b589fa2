"""Percentiles of counted values, by nearest rank: the same on one host and over the fleet.

Values may come from a grid whose steps are GRID_STEP apart, so that any number of them fits into a bounded table; every
host has the same grid, so that tables of several hosts add up. A value stands for those within GRID_ERROR_PCT of it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

GRID_STEP: Final = 1.01
GRID_ERROR_PCT: Final = 0.5  # half a step
_LOG_STEP: Final = math.log(GRID_STEP)


def nearest_ranks(counts: Mapping[float, int], percents: Sequence[float]) -> list[float | None]:
    """The smallest value with at least so many percent of all values at or below it; None where there is no value."""
    total = sum(counts.values())
    ordered = sorted(counts)
    found: list[float | None] = []
    for percent in percents:
        rank, passed = max(1, math.ceil(total * percent / 100)), 0
        for value in ordered:
            passed += counts[value]
            if passed >= rank:
                found.append(value)
                break
        else:
            found.append(None)
    return found


def on_grid(value: float) -> float:
    """The value of the grid that stands for this one; 0 stands for itself."""
    if value <= 0:
        return 0.0
    return float(f"{math.exp(round(math.log(value) / _LOG_STEP) * _LOG_STEP):.6g}")
