"""The recovery's decisions over time: what is restarted unasked, what waits and why, and when somebody is called."""

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fireline_controller.model import ConfigError
from fireline_controller.recovery import (
    Capped,
    Look,
    Recovered,
    Restart,
    Rules,
    Seen,
    State,
    Tripped,
    Verdict,
    decide,
    ended,
    parse_window,
)
from fireline_controller.recovery.deciding import backoff

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
RULES = Rules(failures=2, backoff_s=60, jitter=0, budget=2, settled_s=100)


def sick(name: str = "web", *needs: str, project: str = "shop") -> Seen:
    """A container that fails its check."""
    return Seen(name, "running", "unhealthy", project=project, service=name, needs=needs)


def well(name: str = "web", *needs: str) -> Seen:
    """One that is healthy."""
    return Seen(name, "running", "healthy", project="shop", service=name, needs=needs)


class Story:
    """Looks at one fleet, ten seconds apart; restarts end at once, and help where the story says so."""

    def __init__(self, rules: Rules = RULES, *, is_helpful: bool = False) -> None:
        self.rules = rules
        self.state = State()
        self.now = START
        self._is_helpful = is_helpful

    def look(self, *seen: Seen, times: int = 1, host: str = "h1", after_s: float = 10) -> list[Verdict]:
        """So many looks with the same result; all verdicts."""
        found: list[Verdict] = []
        for _ in range(times):
            self.now += timedelta(seconds=after_s)
            self.state, verdicts = decide(self.rules, self.state, Look(host, self.now, seen), self.now)
            found += verdicts
            for verdict in verdicts:
                if isinstance(verdict, Restart):
                    self.end(verdict)
        return found

    def end(self, verdict: Restart) -> None:
        """The restart is over."""
        key = verdict.host, verdict.name
        self.state = ended(self.rules, self.state, key, is_well=self._is_helpful)


def kinds(verdicts: Iterable[Verdict]) -> list[str]:
    """Kind and name of each."""
    return [f"{type(verdict).__name__} {verdict.name}" for verdict in verdicts]


def test_one_failure_is_none() -> None:
    """It takes so many looks in a row; a look at which it is well begins anew."""
    story = Story()

    assert story.look(sick()) == []
    assert story.look(well()) == []
    assert story.look(sick()) == []
    [restart] = story.look(sick())
    assert restart == Restart("h1", "web", "web fails its health check, 2 failures in a row; restart 1 of 2")


@pytest.mark.parametrize(
    ("seen", "is_failing"),
    [
        (Seen("web", "running"), False),
        (Seen("web", "running", "healthy"), False),
        (Seen("web", "running", "starting"), False),
        (Seen("web", "running", "unhealthy"), True),
        (Seen("web", "restarting"), True),
        (Seen("web", "dead"), True),
        (Seen("web", "exited", exit_code=1), True),
        (Seen("web", "exited", exit_code=0), False),
        (Seen("web", "paused"), False),
        (Seen("web", "paused", "unhealthy"), False),
        (Seen("web", "created"), False),
    ],
)
def test_states_are_told_apart(seen: Seen, is_failing: bool) -> None:
    """Without a check, starting, paused and stopped on purpose are no failures: the storm of restarts is not ours."""
    assert kinds(Story().look(seen, times=5)) == (["Restart web", "Held web"] if is_failing else [])


def test_the_engine_s_own_restarts_count() -> None:
    """A container that runs at each look, with a higher count each time, crashes in between."""
    story = Story()
    story.look(Seen("web", "running", restarts=5))

    assert kinds(story.look(Seen("web", "running", restarts=7))) == ["Restart web"]


def test_the_next_restart_waits_for_its_time() -> None:
    """The back-off doubles, is told once, and ends; then the budget is spent and the breaker opens, once."""
    story = Story(Rules(failures=1, backoff_s=60, jitter=0, budget=2))

    assert kinds(story.look(sick())) == ["Restart web"]
    assert kinds(story.look(sick(), times=5)) == ["Held web"]
    assert kinds(story.look(sick())) == ["Restart web"]
    assert kinds(story.look(sick(), times=11)) == ["Held web"]
    [tripped] = story.look(sick(), times=30)
    assert tripped == Tripped(
        "h1",
        "web",
        "web fails its health check, 13 failures in a row; 2 restarts in 3600 s did not help: "
        "no more, somebody must look",
    )


def test_a_breaker_lets_one_through_when_it_has_cooled() -> None:
    """One more try; where that fails too somebody is called again."""
    story = Story(Rules(failures=1, backoff_s=1, jitter=0, budget=1, cool_s=600, window_s=3600))
    first = story.look(sick(), times=2)
    quiet = story.look(sick(), times=59)
    again = story.look(sick(), times=2)

    assert kinds(first) == ["Restart web", "Tripped web"]
    assert quiet == []
    assert kinds(again) == ["Restart web", "Tripped web"]


def test_well_for_long_enough_closes_the_breaker() -> None:
    """Told once; the past is forgotten but for the budget of the window."""
    story = Story(Rules(failures=1, backoff_s=1, jitter=0, budget=1, settled_s=50))
    story.look(sick(), times=2)
    found = story.look(well(), times=10)

    assert found == [Recovered("h1", "web", "web on h1 is well for 50 s")]
    assert story.state.tracks["h1", "web"].opened_at is None
    assert kinds(story.look(sick())) == ["Tripped web"]


def test_a_dependency_comes_first_and_alone() -> None:
    """The database is restarted; what needs it waits for it, and gets well by it."""
    story = Story(is_helpful=True)
    found = story.look(sick("web", "db"), sick("db"), times=2)

    assert kinds(found) == ["Restart db", "Held web"]
    assert "it needs db, which is not well either" in found[1].sentence
    assert story.look(well("web", "db"), well("db"), times=5) == []


def test_a_dependency_of_another_project_or_host_is_none() -> None:
    """The same name elsewhere holds nobody."""
    story = Story(Rules(failures=1, at_once=2))

    assert kinds(story.look(sick("web", "db"), sick("db", project="blog"))) == ["Restart db", "Restart web"]
    assert kinds(story.look(sick("api"), host="h2")) == ["Restart api"]


def test_two_that_need_each_other_are_not_stuck() -> None:
    """A circle is cut by name."""
    assert kinds(Story(Rules(failures=1)).look(sick("a", "b"), sick("b", "a"))) == ["Restart a", "Held b"]


def test_one_at_a_time_on_a_host() -> None:
    """While one restart is under way the next on that host waits; another host's does not."""
    rules = Rules(failures=1)
    state, first = decide(rules, State(), Look("h1", START, (sick("a"), sick("b"))), START)
    state, other = decide(rules, state, Look("h2", START, (sick("a"),)), START)

    assert kinds((*first, *other)) == ["Restart a", "Held b", "Restart a"]
    state = ended(rules, state, ("h1", "a"), is_well=True)
    _, then = decide(rules, state, Look("h1", START, (well("a"), sick("b"))), START)
    assert kinds(then) == ["Restart b"]


def test_nothing_is_restarted_in_maintenance() -> None:
    """Held with the window's own words, and restarted once it is over."""
    story = Story(Rules(failures=1, windows=(parse_window("12:00-12:01"),)))
    held = story.look(sick(), times=3)
    after = story.look(sick(), times=3)

    assert kinds(held) == ["Held web"]
    assert held[0].sentence == (
        "web fails its health check, 1 failures in a row; not restarted: maintenance window 12:00-12:01"
    )
    assert kinds(after)[0] == "Restart web"


def test_the_fleet_s_budget_calls_somebody_once() -> None:
    """Many hosts at once have a common cause: restarts stop, and one call says so."""
    rules = Rules(failures=1, fleet_budget=2)
    state, found = State(), list[Verdict]()
    for number in range(5):
        state, verdicts = decide(rules, state, Look(f"h{number}", START, (sick(),)), START)
        found += verdicts

    assert kinds(found) == ["Restart web", "Restart web", "Capped web"]
    assert isinstance(found[2], Capped)
    assert "2 restarts in 3600 s over the fleet: a common cause is likely" in found[2].sentence


def test_only_what_is_named_is_looked_at() -> None:
    """By service or by container name."""
    story = Story(Rules(failures=1, at_once=9, services=("shop-*", "db")))
    found = story.look(Seen("shop-web-1", "dead"), Seen("x", "dead", service="db"), Seen("other", "dead"))

    assert kinds(found) == ["Restart shop-web-1", "Restart x"]


def test_one_that_is_gone_is_forgotten_but_for_its_budget() -> None:
    """Made anew under its name it has the tries that it had; never restarted, nothing is kept."""
    story = Story()
    story.look(sick("a"), times=2)
    story.look(sick("b"))
    story.look(well("c"))

    assert set(story.state.tracks) == {("h1", "a"), ("h1", "c")}


@pytest.mark.parametrize(
    ("text", "open_at", "closed_at"),
    [
        ("2026-12-01T02:00Z/2026-12-01T04:00Z", "2026-12-01T02:00Z", "2026-12-01T04:00Z"),
        ("2026-12-01T02:00+02:00/2026-12-01T04:00+02:00", "2026-12-01T01:59Z", "2026-12-01T02:00Z"),
        ("02:00-04:00", "2026-05-05T03:59Z", "2026-05-05T04:00Z"),
        ("Sat 22:00-04:00", "2026-05-03T03:59Z", "2026-05-02T03:59Z"),  # the second is a Saturday
        ("Mon,Sat 22:00-04:00", "2026-05-04T22:00Z", "2026-05-05T22:00Z"),
        ("00:00-00:00", "2026-05-05T23:59Z", None),
    ],
)
def test_windows_open_and_close(text: str, open_at: str, closed_at: str | None) -> None:
    """From the first minute to before the last; over midnight a window belongs to the day on which it begins."""
    window = parse_window(text)

    assert window.is_open(datetime.fromisoformat(open_at))
    assert closed_at is None or not window.is_open(datetime.fromisoformat(closed_at))


@pytest.mark.parametrize(
    "text", ["", "always", "Xxx 02:00-04:00", "25:00-26:00", "2026-12-01T02:00/2026-12-01T04:00", "2026-12-01T02:00Z/x"]
)
def test_what_is_no_window_is_refused(text: str) -> None:
    """With both spellings in the message; a time without a zone is none."""
    with pytest.raises(ConfigError, match=r"recovery\.windows: wanted 2026-12-01T02:00Z/2026-12-01T04:00Z or"):
        parse_window(text)


def test_the_back_off_doubles_up_to_its_most_and_is_moved() -> None:
    """Without jitter exactly; with it within its share, the same for the same seed, another for another host."""
    plain = Rules(backoff_s=30, backoff_most_s=100, jitter=0)
    moved = Rules(backoff_s=30, jitter=0.2, seed="s")

    assert [backoff(plain, ("h", "c"), n).total_seconds() for n in (1, 2, 3, 999)] == [30, 60, 100, 100]
    one, other = (backoff(moved, (host, "c"), 1).total_seconds() for host in ("h1", "h2"))
    assert one != other
    assert 24 <= one <= 36
    assert backoff(moved, ("h1", "c"), 1).total_seconds() == one


SEENS = st.builds(
    Seen,
    name=st.sampled_from(("a", "b", "c")),
    state=st.sampled_from(("running", "restarting", "exited", "paused", "dead")),
    health=st.sampled_from(("none", "starting", "healthy", "unhealthy")),
    project=st.just("p"),
    service=st.sampled_from(("a", "b", "c")),
    needs=st.lists(st.sampled_from(("a", "b", "c")), max_size=2).map(tuple),
    restarts=st.integers(0, 5),
    exit_code=st.integers(0, 1),
)
LOOKS = st.lists(
    st.tuples(st.sampled_from(("h1", "h2")), st.lists(SEENS, max_size=4, unique_by=lambda s: s.name), st.booleans()),
    max_size=40,
)


@settings(max_examples=80, deadline=None)
@given(LOOKS, st.integers(1, 3), st.integers(1, 3), st.integers(2, 6))
def test_whatever_is_seen_the_bounds_hold(
    looks: Sequence[tuple[str, list[Seen], bool]], failures: int, budget: int, fleet_budget: int
) -> None:
    """Budgets, one at a time on a host, never in maintenance, back-off kept; the same looks give the same verdicts."""
    window = parse_window("12:03-12:04")
    rules = Rules(
        failures=failures, budget=budget, fleet_budget=fleet_budget, backoff_s=20, window_s=200, cool_s=100,
        settled_s=30, windows=(window,),
    )  # fmt: skip
    state, under_way = State(), dict[str, str]()
    done: dict[tuple[str, str], list[datetime]] = {}
    for number, (host, containers, is_over) in enumerate(looks):
        now = START + timedelta(seconds=10 * (number + 1))
        look = Look(host, now, tuple(containers))
        before, (state, verdicts) = state, decide(rules, state, look, now)
        assert decide(rules, before, look, now) == (state, verdicts)
        for restart in [verdict for verdict in verdicts if isinstance(verdict, Restart)]:
            assert host not in under_way
            assert not window.is_open(now)
            under_way[host] = restart.name
            done.setdefault((host, restart.name), []).append(now)
        if is_over and host in under_way:
            state = ended(rules, state, (host, under_way.pop(host)), is_well=False)
        since = now - timedelta(seconds=rules.window_s)
        recent = {key: [at for at in times if at > since] for key, times in done.items()}
        assert sum(map(len, recent.values())) <= fleet_budget
        assert all(len(times) <= budget + rules.window_s / rules.cool_s for times in recent.values())
    gaps = [(b - a).total_seconds() for times in done.values() for a, b in itertools.pairwise(times)]
    assert all(gap >= 20 * (1 - rules.jitter) for gap in gaps)
