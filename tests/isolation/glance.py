"""A glance at a host from outside: dark, open, or neither."""

from concurrent.futures import ThreadPoolExecutor

from tests.isolation.passing import V4, V6, Seen, tcp, udp
from tests.lab import Vantage, eventually

_DARK_FOR_S = 0.6
_OPEN_WITHIN_S = 8.0


def is_dark(host: Vantage, outsider: Vantage) -> bool:
    """Whether nothing passes, either way and over both families."""
    return _glance(host, outsider, _DARK_FOR_S) == {Seen.CLOSED}


def is_open(host: Vantage, outsider: Vantage) -> bool:
    """Whether everything passes."""
    return _glance(host, outsider, _OPEN_WITHIN_S) == {Seen.OPEN}


def becomes_open(host: Vantage, outsider: Vantage, *, within_s: float) -> None:
    """Wait until everything passes.

    Raises:
        LabError: it does not within that time.
    """
    eventually(
        lambda: _glance(host, outsider, _DARK_FOR_S) == {Seen.OPEN}, within_s=within_s, what=f"{host.name} to be open"
    )


def stays_dark(host: Vantage, outsider: Vantage, *, for_looks: int = 3) -> bool:
    """Whether one glance after the other finds it dark."""
    return all(is_dark(host, outsider) for _ in range(for_looks))


def becomes_dark(host: Vantage, outsider: Vantage, *, within_s: float) -> None:
    """Wait until nothing passes.

    Raises:
        LabError: something still does after that time.
    """
    eventually(lambda: is_dark(host, outsider), within_s=within_s, what=f"{host.name} to be dark")


def _glance(host: Vantage, outsider: Vantage, patience_s: float) -> set[Seen]:
    ways = [
        (look, one, other, family)
        for look in (tcp, udp)
        for one, other in ((host, outsider), (outsider, host))
        for family in (V4, V6)
    ]
    with ThreadPoolExecutor(len(ways)) as pool:
        return set(pool.map(lambda way: way[0](way[1], way[2], way[3], patience_s), ways))
