"""A row of a table of expectations, and how a whole table is tried at once."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.isolation.passing import Seen
from tests.isolation.probes import Look
from tests.isolation.world import World

_OPEN_WITHIN_S, _CLOSED_FOR_S = 8.0, 0.5
_AT_ONCE = 40


@dataclass(frozen=True)
class Row:
    """One probe and what it must find."""

    name: str
    look: Look
    before: Seen
    isolated: Seen
    after: Seen

    def finds(self, world: World, wanted: Seen) -> Seen:
        """Look, patiently for what shall be open and long enough for what shall be closed."""
        return self.look(world, _CLOSED_FOR_S if wanted is Seen.CLOSED else _OPEN_WITHIN_S)


def check(world: World, stage: str, rows: Iterable[Row]) -> None:
    """Try every row at a stage: `before`, `isolated` or `after`.

    Raises:
        AssertionError: something is not as the table says; the message has a line for each.
    """

    def one(row: Row) -> str:
        wanted: Seen = getattr(row, stage)
        try:
            found = row.finds(world, wanted)
        except Exception as error:
            raise RuntimeError(f"{row.name} could not be tried {stage}") from error
        return "" if found is wanted else f"{row.name}: wanted {wanted} {stage}, found {found}"

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        surprises = [sentence for sentence in pool.map(one, rows) if sentence]
    if surprises:
        raise AssertionError("\n".join(surprises))


def dark(name: str, look: Look) -> Row:
    """Works, must not while isolated, works again."""
    return Row(name, look, Seen.OPEN, Seen.CLOSED, Seen.OPEN)


def kept(name: str, look: Look) -> Row:
    """Must work all the time."""
    return Row(name, look, Seen.OPEN, Seen.OPEN, Seen.OPEN)


def ended(name: str, look: Look) -> Row:
    """Works, and never again: what was connected is cut for good."""
    return Row(name, look, Seen.OPEN, Seen.CLOSED, Seen.CLOSED)


def never(name: str, look: Look) -> Row:
    """The kernel or the agent refuses it at any time."""
    return Row(name, look, Seen.CLOSED, Seen.CLOSED, Seen.CLOSED)
