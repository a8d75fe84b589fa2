"""Who looks on, whether a host is dark, and whom an isolation would hurt: decided without a host."""

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireline_controller.isolation import How, Sight, candidates, groups_hurt, judge, own_host, restored
from fireline_controller.model import Host

A, B = "198.18.0.1", "2001:2::1"
NOW = datetime(2026, 5, 1, tzinfo=UTC)
HOWS = {"c": How.CONNECTED, "r": How.REFUSED, "s": How.SILENT, "u": How.UNREACHABLE}


def host(name: str, address: str = "192.0.2.1:7700", **labels: str) -> Host:
    """A host of the fleet."""
    return Host(name, address, labels, 1, NOW, "1", NOW)


def view(**places: str) -> tuple[Sight, ...]:
    """Sights by address (a or b) and port, each spelled by a letter: `a22="c"`."""
    return tuple(Sight({"a": A, "b": B}[place[0]], int(place[1:]), HOWS[how]) for place, how in places.items())


@pytest.mark.parametrize(
    ("before", "after", "is_proved", "sentence"),
    [
        ({"w": view(a22="c")}, {"w": view(a22="s")}, True, "dark to w: 1 port that answered before is silent"),
        (
            {"w": view(a22="c", a80="r", b22="c"), "v": view(a22="c")},
            {"w": view(a22="s", a80="s", b22="s"), "v": view(a22="s", a80="s", b22="s")},
            True,
            "dark to v, w: 3 ports at 2 addresses that answered before are silent",
        ),
        ({"w": view(a22="c")}, {"w": view(a22="c")}, False, "it still answers: 198.18.0.1:22 (connected to w)"),
        ({"w": view(a22="c")}, {"w": view(a22="r")}, False, "it still answers: 198.18.0.1:22 (refused to w)"),
        ({"w": view(b22="c")}, {"w": view(b22="c")}, False, "it still answers: [2001:2::1]:22 (connected to w)"),
        (
            {"w": view(a22="c"), "v": view(a22="s")},
            {"w": view(a22="s"), "v": view(a22="c")},
            False,
            "it still answers: 198.18.0.1:22 (connected to v)",
        ),
        ({"w": view(a22="s")}, {"w": view()}, False, "nothing answered w before, so silence proves nothing"),
        ({}, {}, False, "nothing answered anybody before, so silence proves nothing"),
        (
            {"w": view(a22="c")},
            {},
            False,
            "nobody who saw 198.18.0.1 before could see it silent: w could not look again",
        ),
        (
            {"w": view(a22="c")},
            {"w": view(a22="u")},
            False,
            "nobody who saw 198.18.0.1 before could see it silent: they found no way there",
        ),
        (
            {"w": view(a22="c", b22="c"), "v": view(a22="c")},
            {"v": view(a22="s", b22="s")},
            False,
            "nobody who saw 2001:2::1 before could see it silent: w could not look again",
        ),
        (
            {"w": view(a22="c"), "v": view(a22="c")},
            {"v": view(a22="s")},
            True,
            "dark to v: 1 port that answered before is silent",
        ),
    ],
)
def test_a_host_is_dark_where_it_answered_and_is_silent(
    before: dict[str, tuple[Sight, ...]], after: dict[str, tuple[Sight, ...]], is_proved: bool, sentence: str
) -> None:
    """I4: an answer of any kind to anybody disproves; silence counts only from who saw an answer there before."""
    verdict = judge(before, after)

    assert (verdict.is_proved, verdict.sentence) == (is_proved, sentence)


_SIGHTS = st.lists(
    st.builds(Sight, st.sampled_from([A, B]), st.sampled_from([22, 80]), st.sampled_from(How)),
    unique_by=lambda sight: sight.place,
).map(tuple)
_VIEWS = st.dictionaries(st.sampled_from("vw"), _SIGHTS)


@given(before=_VIEWS, after=_VIEWS)
def test_nothing_that_answers_is_ever_called_dark(
    before: dict[str, tuple[Sight, ...]], after: dict[str, tuple[Sight, ...]]
) -> None:
    """I4: whatever witnesses say; and each address that answered was seen silent by one who had seen it."""
    if not judge(before, after).is_proved:
        return
    assert not [s for sights in after.values() for s in sights if s.how.is_answer]
    for address in {s.address for sights in before.values() for s in sights if s.how.is_answer}:
        assert [
            name
            for name, sights in before.items()
            for s in sights
            if s.address == address and s.how.is_answer and Sight(*s.place, How.SILENT) in after.get(name, ())
        ]


@pytest.mark.parametrize(
    ("after", "is_proved", "sentence"),
    [
        ({"w": view(a22="c", a80="r")}, True, "2 ports that answered before are seen again by w"),
        ({"w": view(a22="c"), "v": view(a80="c")}, True, "2 ports that answered before are seen again by v, w"),
        ({"w": view(a22="c", a80="s")}, False, "does not answer w as before: 198.18.0.1:80"),
        ({}, False, "nobody could look whether its ports answer again"),
    ],
)
def test_a_release_is_proved_by_what_answers_again(
    after: dict[str, tuple[Sight, ...]], is_proved: bool, sentence: str
) -> None:
    """Each place that answered before answers somebody."""
    verdict = restored([(A, 22), (A, 80)], after)

    assert (verdict.is_proved, verdict.sentence) == (is_proved, sentence)


def test_witnesses_are_spread_and_the_same_each_time() -> None:
    """Many isolations at once lean on many witnesses; who is cut off, removed or let in is none."""
    fleet = [host(f"web{n}") for n in range(20)]

    first = Counter(candidates(f"db{n}", fleet, spared=(), open_addresses=())[0].name for n in range(200))

    assert max(first.values()) < 40
    assert candidates("db1", fleet, spared=(), open_addresses=()) == candidates(
        "db1", fleet[::-1], spared=(), open_addresses=()
    )


def test_nobody_is_a_witness_who_is_cut_off_too_or_whom_the_rules_let_in() -> None:
    """Either would see something else than the world does."""
    fleet = [
        host("itself"), host("cut"), host("jump", "198.18.0.7:7700"), host("six", "[2001:2::7]:7700"), host("able"),
    ]  # fmt: skip

    found = candidates("itself", fleet, spared={"cut"}, open_addresses={"198.18.0.7", "2001:2::7"})

    assert [h.name for h in found] == ["able"]


def test_a_group_is_hurt_when_nobody_healthy_is_left() -> None:
    """One that is isolated already can't be lost again, and stands in for nobody."""
    fleet = [host("db1", service="db"), host("db2", service="db"), host("db3", service="db"), host("web1"),
             host("old1", service="old")]  # fmt: skip

    (db,) = groups_hurt(fleet, targeted={"db1", "web1"}, isolated={"db3"}, label="service")

    assert (db.cut, db.others) == (("db1",), ("db2",))
    assert db.hurt({"db2"}) == ""
    assert db.hurt(()) == ("service=db would lose its last healthy member db1: none of the others (db2) can be reached")
    assert groups_hurt(fleet, targeted={"db3"}, isolated={"db3"}, label="service") == ()
    (old,) = groups_hurt(fleet, targeted={"old1"}, isolated=(), label="service")
    assert old.hurt({"db1"}) == "service=old would lose its last healthy member old1: it has no other"


@pytest.mark.parametrize(
    ("machine_id", "addresses", "sentence"),
    [
        ("m1", [], "it says that its machine id is m1, which is this controller's own"),
        ("m2", [A, B], "it says that its address is 2001:2::1, which is this controller's own"),
        ("", [A], ""),
        ("m2", [A], ""),
    ],
)
def test_a_host_that_says_it_is_the_controllers_own(machine_id: str, addresses: list[str], sentence: str) -> None:
    """By machine id, where it has one, or by address."""
    said = own_host(machine_id=machine_id, addresses=addresses, own_machine_id="m1", own_addresses={B, "::1"})

    assert said == sentence
    assert own_host(machine_id="", addresses=[], own_machine_id="", own_addresses=()) == ""
