"""What a bench reports: figures, the ratios that count, and both as a table."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured thing: the median over the repetitions, with the smallest and the largest."""

    name: str
    unit: str
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, name: str, unit: str, values: Sequence[float]) -> "Figure":
        """Take the median."""
        return cls(name, unit, statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Ratio:
    """The product's median over the floor's, and the goal that it is held to, if any."""

    name: str
    value: float
    goal: float | None = None
    at_most: bool = True

    @property
    def is_met(self) -> bool:
        """Whether the goal is reached."""
        if self.goal is None:
            return True
        return self.value <= self.goal if self.at_most else self.value >= self.goal


@dataclass(frozen=True)
class Report:
    """What one bench found."""

    title: str
    figures: tuple[Figure, ...]
    ratios: tuple[Ratio, ...]


def table(report: Report) -> str:
    """A report as text."""
    lines = [report.title]
    lines += [f"  {f.name:<54}{f.median:>10.2f} {f.unit:<5} ({f.low:.2f} to {f.high:.2f})" for f in report.figures]
    for ratio in report.ratios:
        goal = "no goal" if ratio.goal is None else f"goal {'≤' if ratio.at_most else '≥'} {ratio.goal:g}"
        lines.append(f"  {ratio.name:<54}{ratio.value:>10.2f}       {goal}{'' if ratio.is_met else '  MISSED'}")
    return "\n".join(lines)
