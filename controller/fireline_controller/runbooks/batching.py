"""How many hosts of a step are done at a time."""

from collections.abc import Sequence
from fractions import Fraction

from fireline_controller.runbooks.model import Targets


def batches(hosts: Sequence[str], targets: Targets) -> tuple[tuple[str, ...], ...]:
    """The hosts in groups that are done one after the other, the canary first; at least one host in each."""
    canary, rest = tuple(hosts[: targets.canary]), tuple(hosts[targets.canary :])
    size = max(1, count_of(targets.batch, len(hosts))) if targets.batch else max(1, len(rest))
    groups = [rest[at : at + size] for at in range(0, len(rest), size)]
    return tuple(group for group in (canary, *groups) if group)


def count_of(text: str, hosts: int) -> int:
    """So many of these hosts: `5`, or `25%` rounded down.

    Raises:
        ValueError: it is neither.
    """
    if text.endswith("%"):
        return int(hosts * Fraction(text[:-1]) / 100)
    return int(text or 0)
