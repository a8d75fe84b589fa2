"""The recovery's hands: what they believe of a host's answer, what the settings mean, what the journal remembers."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fireline_controller import config
from fireline_controller.config import Recovery
from fireline_controller.engine import recovery_entries, rules_of
from fireline_controller.engine.recovery_looks import seen
from fireline_controller.model import ConfigError, Entry
from fireline_controller.recovery import Restart, Seen, Tripped

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ROW: dict[str, Any] = {"name": "web", "state": "running", "health": "healthy"}


def test_an_answer_becomes_what_was_seen() -> None:
    """All that a row tells."""
    row = {**ROW, "project": "shop", "service": "web", "needs": ["db"], "restarts": 3, "exit_code": 7}

    assert seen({"containers": [row]}) == (
        Seen("web", "running", "healthy", project="shop", service="web", needs=("db",), restarts=3, exit_code=7),
    )


@pytest.mark.parametrize(
    "row",
    [
        None,
        "web",
        {},
        {**ROW, "name": ""},
        {**ROW, "name": "x" * 300},
        {**ROW, "name": "a\nb"},
        {**ROW, "name": ["web"]},
        {**ROW, "state": "haunted"},
        {**ROW, "health": None},
    ],
)
def test_a_row_of_another_shape_is_none(row: Any) -> None:
    """A hostile host invents no container that can't be named, and no state."""
    assert seen({"containers": [row]}) == ()


@pytest.mark.parametrize(
    ("answer", "count"),
    [({}, 0), ({"containers": "all"}, 0), ({"containers": [{**ROW, "name": f"c{n}"} for n in range(2000)]}, 1000)],
)
def test_a_host_tells_only_so_many(answer: dict[str, Any], count: int) -> None:
    """A flood is cut; nonsense is nothing."""
    assert len(seen(answer)) == count


def test_wrong_numbers_are_bounded() -> None:
    """Numbers that are none, or beyond all measure, do no harm."""
    (found,) = seen({"containers": [{**ROW, "restarts": -5, "exit_code": True, "needs": [1, "db"], "project": 7}]})

    assert (found.restarts, found.exit_code, found.needs, found.project) == (0, 0, ("db",), "")


def test_the_settings_are_the_rules() -> None:
    """Every number of the settings arrives; windows are read."""
    rules = rules_of(Recovery(services=("web",), failures=7, budget=9, windows=("02:00-03:00",)))

    assert (rules.services, rules.failures, rules.budget, rules.windows[0].text) == (("web",), 7, 9, "02:00-03:00")


def test_nothing_named_is_no_blank_cheque() -> None:
    """Enabled without services it does not start (I10)."""
    with pytest.raises(ConfigError, match=r"recovery\.services: name what may be restarted"):
        rules_of(Recovery(enabled=True))


def test_it_is_off_by_default() -> None:
    """Nobody's containers are restarted unasked."""
    assert not config.Settings().recovery.enabled


def lines() -> Iterator[Entry]:
    """A restart and a breaker as they are journaled, among others."""
    yield Entry("incident.note", "tester", NOW, "by the way")
    yield recovery_entries.decided(Restart("h1", "web", "why"), NOW, is_observed=False)
    yield recovery_entries.decided(Restart("h1", "seen", "why"), NOW, is_observed=True)
    yield recovery_entries.decided(Tripped("h1", "db", "why"), NOW + timedelta(seconds=1), is_observed=False)


def test_the_journal_remembers_what_was_done_and_not_what_was_observed() -> None:
    """Restarts and breakers are read back; what would have been done is not."""
    assert list(recovery_entries.earlier(lines())) == [
        ("recovery.restarting", "h1", "web", NOW),
        ("recovery.tripped", "h1", "db", NOW + timedelta(seconds=1)),
    ]
