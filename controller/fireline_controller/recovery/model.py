"""The values of the recovery: rules, what was seen, what is remembered of it, and what follows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase

from fireline_controller.recovery.windows import Window

Key = tuple[str, str]  # host, container name: an id changes when a container is made anew


@dataclass(frozen=True)
class Rules:
    """When something is restarted unasked.

    Attributes:
        services: shell patterns of service or container names; nothing else is looked at.
        failures: looks in a row at which it failed.
        backoff_s, backoff_most_s: from one restart to the next that is allowed; doubles with each, up to the second.
        jitter: share of the back-off by which it is moved either way, so that not all come at once.
        seed: what the jitter is drawn from.
        budget: restarts of one container in `window_s`; the next one that would be due opens its breaker.
        fleet_budget: restarts of all of them in `window_s`; beyond it nothing is restarted and somebody is told.
        window_s: length of both.
        at_once: restarts under way on one host.
        settled_s: how long it must be well before its past is forgotten.
        cool_s: after so long an open breaker lets one restart through.
        windows: maintenance, in which nothing is restarted.
    """

    services: tuple[str, ...] = ("*",)
    failures: int = 3
    backoff_s: float = 30
    backoff_most_s: float = 900
    jitter: float = 0.2
    seed: str = ""
    budget: int = 3
    fleet_budget: int = 20
    window_s: float = 3600
    at_once: int = 1
    settled_s: float = 120
    cool_s: float = 3600
    windows: tuple[Window, ...] = ()

    def watches(self, seen: "Seen") -> bool:
        """Whether a container is looked at."""
        return any(fnmatchcase(name, p) for p in self.services for name in (seen.name, seen.service) if name)


@dataclass(frozen=True)
class Seen:
    """One container at one look; as the agent's `container.states` tells it.

    Attributes:
        state: `running`, `restarting`, `exited`, ….
        health: `none`, `starting`, `healthy` or `unhealthy`.
        needs: services of its project that it depends on.
        restarts: how often the engine itself started it again.
        exit_code: of its last end.
    """

    name: str
    state: str
    health: str = "none"
    project: str = ""
    service: str = ""
    needs: tuple[str, ...] = ()
    restarts: int = 0
    exit_code: int = 0


@dataclass(frozen=True)
class Look:
    """All containers of a host at a time."""

    host: str
    at: datetime
    containers: tuple[Seen, ...]


@dataclass(frozen=True)
class Track:
    """What is remembered of one container.

    Attributes:
        failures: looks in a row at which it failed.
        restarts: the engine's own count when it was last seen; -1 before.
        tries: when it was restarted by us, within the window.
        attempts: how often since it was well for long enough.
        next_at: not before.
        well_since: since when it is well; None while it is not.
        opened_at: when its breaker opened; None while that is closed.
        is_in_hand: a restart is under way.
        held: why it is not restarted, as was last told.
    """

    failures: int = 0
    restarts: int = -1
    tries: tuple[datetime, ...] = ()
    attempts: int = 0
    next_at: datetime | None = None
    well_since: datetime | None = None
    opened_at: datetime | None = None
    is_in_hand: bool = False
    held: str = ""


@dataclass(frozen=True)
class State:
    """What is remembered of the fleet. `is_capped`: it was told that the fleet's budget is spent."""

    tracks: Mapping[Key, Track] = field(default_factory=dict)
    is_capped: bool = False


@dataclass(frozen=True)
class Restart:
    """Capture the host's containers, then restart this one."""

    host: str
    name: str
    sentence: str


@dataclass(frozen=True)
class Held:
    """It would be due, and is not restarted now; told once for each reason (`why`)."""

    host: str
    name: str
    sentence: str
    why: str


@dataclass(frozen=True)
class Tripped:
    """Its breaker opened: page somebody and open an incident; no further restart."""

    host: str
    name: str
    sentence: str


@dataclass(frozen=True)
class Capped:
    """The fleet's budget is spent: page somebody; restarts are not what helps. Host and name of the one that waits."""

    host: str
    name: str
    sentence: str


@dataclass(frozen=True)
class Recovered:
    """It was restarted or given up, and is well again for long enough; its past is forgotten."""

    host: str
    name: str
    sentence: str


Verdict = Restart | Held | Tripped | Capped | Recovered
