"""How long it takes until a daemon that watches its hosts says in the journal that one is lost."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.fleet import Fleet
from tests.lab import LOOPBACK, Host, default_backend, eventually

KEEPALIVE_S, TIMEOUT_S = 2, 1  # shorter than the product's 10 and 5, so that the bench is quick; the sum is the goal
_SETTINGS = f"[fanout]\nkeepalive_s = {KEEPALIVE_S}\nkeepalive_timeout_s = {TIMEOUT_S}\n"
_WITHIN_S = 30.0


@dataclass(frozen=True)
class Fault:
    """What is done to a host, and how it is mended."""

    name: str
    strike: Callable[[Host], object]
    mend: Callable[[Host], object]


def faults() -> tuple[Fault, ...]:
    """Those that hosts of this machine's lab can have."""
    cut = Fault("host cut off (cable pulled)", lambda host: host.link(up=False), lambda host: host.link(up=True))
    return (
        Fault("agent frozen (SIGSTOP)", Host.stop_agent, Host.cont_agent),
        Fault("agent killed (SIGKILL)", Host.kill_agent, Host.start_agent),
        *(() if default_backend() == LOOPBACK else (cut,)),
    )


@contextmanager
def watched_fleet() -> Iterator[Fleet]:
    """A host for each fault, each watched by the daemon."""
    with Fleet(len(faults()), settings=_SETTINGS) as made:
        yield made


def noticed_s(made: Fleet, *, turn: int) -> dict[str, float]:
    """Strike every host at once; seconds from the fault to the journal's line, by the fault's name. Mends them again.

    `turn` counts from 1: so often has each host been watched by then.
    """
    struck = list(zip(faults(), made.lab, strict=True))
    for _, host in struck:
        made.watched(host.name, times=turn, within_s=_WITHIN_S)
    before = {host.name: len(_lost_at(made, host)) for _, host in struck}
    with ThreadPoolExecutor(len(struck)) as pool:
        began = list(pool.map(lambda pair: _strike(*pair), struck))
    try:
        eventually(
            lambda: all(len(_lost_at(made, host)) > before[host.name] for _, host in struck),
            within_s=_WITHIN_S, what="every host to be noticed", every_s=0.5,
        )  # fmt: skip
    finally:
        for fault, host in struck:
            fault.mend(host)
    return {
        fault.name: (_lost_at(made, host)[-1] - at).total_seconds()
        for (fault, host), at in zip(struck, began, strict=True)
    }


def _strike(fault: Fault, host: Host) -> datetime:
    at = datetime.now(UTC)  # before, for the fault may take effect at any moment of the call
    fault.strike(host)
    return at


def _lost_at(made: Fleet, host: Host) -> list[datetime]:
    lines = [json.loads(line) for line in made.fireline("journal", "export").splitlines()]
    return [datetime.fromisoformat(x["at"]) for x in lines if x["kind"] == "host.lost" and x["host"] == host.name]
