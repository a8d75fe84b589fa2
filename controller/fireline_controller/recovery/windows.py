"""Maintenance windows, in which nothing is restarted unasked. Times are UTC.

Two spellings: `2026-12-01T02:00Z/2026-12-01T04:00Z`, once; `Sat,Sun 22:00-04:00`, every week on these days (of the
beginning), or without days every day.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final

from fireline_controller.model import ConfigError

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_WEEKLY: Final = re.compile(r"(?:([A-Z][a-z]{2}(?:,[A-Z][a-z]{2})*) )?(\d\d:\d\d)-(\d\d:\d\d)\Z")
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class Window:
    """A time in which somebody works on the hosts.

    Attributes:
        text: as the operator wrote it.
        once: from when (inclusive) to when, or None where it comes again.
        days: weekdays on which it begins, Monday is 0.
        begins, ends: times of day; it goes over midnight where it ends before it begins.
    """

    text: str
    once: tuple[datetime, datetime] | None = None
    days: frozenset[int] = frozenset(range(7))
    begins: time = time()
    ends: time = time()

    def is_open(self, now: datetime) -> bool:
        """Whether it is so at a time."""
        if self.once is not None:
            return self.once[0] <= now < self.once[1]
        today = now.astimezone(UTC)
        return any(self._begun(today - back) <= today < self._ended(today - back) for back in self._starts(today))

    def _starts(self, today: datetime) -> list[timedelta]:
        """Today's beginning and yesterday's, where the window has one then."""
        return [back for back in (timedelta(0), _DAY) if (today - back).weekday() in self.days]

    def _begun(self, day: datetime) -> datetime:
        return datetime.combine(day.date(), self.begins, UTC)

    def _ended(self, day: datetime) -> datetime:
        end = datetime.combine(day.date(), self.ends, UTC)
        return end if self.ends > self.begins else end + _DAY


def parse_window(text: str) -> Window:
    """A window as it is written in the settings.

    Raises:
        ConfigError: it is none; says what was wanted.
    """
    try:
        return _once(text) if "/" in text else _weekly(text)
    except ValueError:
        wanted = "2026-12-01T02:00Z/2026-12-01T04:00Z or 'Sat,Sun 22:00-04:00' (UTC)"
        raise ConfigError(f"recovery.windows: wanted {wanted}, found {text!r}") from None


def _once(text: str) -> Window:
    begins, ends = (datetime.fromisoformat(part.strip()) for part in text.split("/"))
    if begins.tzinfo is None or ends.tzinfo is None or begins >= ends:
        raise ValueError(text)
    return Window(text, once=(begins, ends))


def _weekly(text: str) -> Window:
    found = _WEEKLY.match(text)
    if found is None:
        raise ValueError(text)
    days = frozenset(_DAYS.index(day) for day in found[1].split(",")) if found[1] else frozenset(range(7))
    return Window(text, days=days, begins=time.fromisoformat(found[2]), ends=time.fromisoformat(found[3]))
