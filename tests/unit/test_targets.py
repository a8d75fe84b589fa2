"""Targets: what each way of writing them means, what is refused and with which words."""

import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireline_controller import targets
from fireline_controller.model import EmptyTarget, Host, NotFound, Target, TargetError

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
GROUPS = {"db": "db-[1-3]", "core": "@db,web01", "typo": "@dbb", "a": "@b", "b": "@a", "planned": "web01,web99"}


def host(name: str, *, removed: bool = False, **labels: str) -> Host:
    """A host as the store gives it."""
    return Host(name, f"{name}:7700", labels, 1, WHEN, "1", WHEN, removed)


HOSTS = [
    *(host(f"web{n:02}", role="web", env="prod" if n < 10 else "dev") for n in range(1, 21)),
    host("db-1", role="db", env="prod", gpu="yes"),
    host("db-2", role="db", env="dev"),
    host("db-3", role="db"),
    host("gone", removed=True, role="db"),
]


def resolved(*terms: str, except_: tuple[str, ...] = ()) -> str:
    """The folded target that the terms mean among HOSTS."""
    return targets.resolve(terms, except_, hosts=HOSTS, groups=GROUPS).folded


@pytest.mark.parametrize(
    ("terms", "folded"),
    [
        (["web01"], "web01"),
        (["web[01-03],db-1"], "db-1,web[01-03]"),
        (["web[01-05/2]"], "web[01,03,05]"),
        (["@db"], "db-[1-3]"),
        (["@core"], "db-[1-3],web01"),
        (["web*"], "web[01-20]"),
        (["@db!db-2"], "db-[1,3]"),
        (["all"], "db-[1-3],web[01-20]"),
        (["role=db"], "db-[1-3]"),
        (["role==db"], "db-[1-3]"),
        (["role=db,env=prod"], "db-1"),
        (["role=db,env!=dev"], "db-[1,3]"),
        (["role=db,env in (prod, dev)"], "db-[1-2]"),
        (["env notin (prod,dev)"], "db-3"),
        (["!env"], "db-3"),
        (["gpu"], "db-1"),
        (["role=db,!gpu"], "db-[2-3]"),
        (["db-1", "role=web,env=dev"], "db-1,web[10-20]"),
    ],
)
def test_a_term_means_these_hosts(terms: list[str], folded: str) -> None:
    """Names, ranges, groups, wildcards and selectors; several terms add up."""
    assert resolved(*terms) == folded


def test_the_exception_wins() -> None:
    """What is excepted is not in the target, however it was named."""
    assert resolved("all", except_=("role=web", "db-1")) == "db-[2-3]"


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("@a", "group @a contains itself: @a > @b > @a"),
        ("web[01-", "target 'web[01-' does not parse: missing bracket"),
        ("web[1-999999]", "the range 1-999999 is longer than 100000 names"),
        ("web[1-9999]x[1-9999]", "means 99980001 names: at most 100000"),
        ("role=db,web01", "'web01' is a host's name; give names and selectors as targets of their own"),
        ("role=", None),
        ("role=db,", "'' is no requirement; wanted KEY=VALUE"),
        ("role>db=1", "'role>db=1' is no requirement"),
        ("env in (a b)", "'a b' is no label value"),
        ("  ", "a target term is empty"),
    ],
)
def test_a_term_that_is_wrong_says_what_is_right(term: str, message: str | None) -> None:
    """Each refusal names the term, and the nearest right one where there is one."""
    if message is None:
        with pytest.raises(EmptyTarget):
            resolved(term)
        return
    with pytest.raises(TargetError) as caught:
        resolved(term)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("web[01-20]x", "names web[01-20]x: no such host"),
        ("wbe01", "target names wbe01: no such host is enrolled (nearest: web01); see `fireline host list`"),
        ("gone", "target names gone: no such host is enrolled"),
        ("@dbs", "no group is named @dbs (nearest: @db); groups are set in [groups] of fireline.toml"),
        ("@typo", "no group is named @dbb (in group @typo) (nearest: @db)"),
    ],
)
def test_a_name_that_nobody_has_says_the_nearest_that_somebody_has(term: str, message: str) -> None:
    """What is spelled well and not there is not found, as everywhere: no mistake in the spelling."""
    with pytest.raises(NotFound) as caught:
        resolved(term)

    assert message in str(caught.value)


def test_no_target_at_all_says_what_to_say() -> None:
    """Nothing asked for is a mistake of the command line, and no target that matches nothing."""
    wanted = "no target: say --target: names, ranges, @groups, label selectors or all"
    with pytest.raises(TargetError, match=wanted):
        resolved()
    with pytest.raises(TargetError, match=wanted):
        resolved(except_=("web01",))


def test_a_slip_in_an_exception_is_an_error() -> None:
    """An exception that spares nobody would hit the host that was to be spared."""
    with pytest.raises(NotFound, match="exception names db-11: no such host is enrolled \\(nearest: db-1\\)"):
        resolved("all", except_=("db-11",))


def test_an_unenrolled_member_of_a_group_can_be_excepted() -> None:
    """A group may name a planned host: that is said, and excepting it by name is the way on."""
    with pytest.raises(NotFound, match="target names web99: no such host is enrolled"):
        resolved("@planned")

    assert resolved("@planned", except_=("web99",)) == "web01"


@pytest.mark.parametrize(
    ("terms", "except_", "message"),
    [
        (
            ("role=cache",),
            (),
            "target role=cache does not match any of the 23 hosts; labels in use: env, gpu, role",
        ),
        (("web01",), ("web*",), "target web01 except web*: every host that it names is excepted: web01"),
    ],
)
def test_an_empty_target_is_an_error(terms: tuple[str, ...], except_: tuple[str, ...], message: str) -> None:
    """I10: nothing matched is never taken for everything, nor for success."""
    with pytest.raises(EmptyTarget) as caught:
        resolved(*terms, except_=except_)

    assert message in str(caught.value)


def test_an_empty_fleet_says_how_to_enrol() -> None:
    """`all` of nothing is an empty target too."""
    with pytest.raises(EmptyTarget, match="no host is enrolled: make a token"):
        targets.resolve(["all"], [], hosts=[], groups={})


def test_a_hosts_name_wins_over_a_label() -> None:
    """A bare word that is both means the host."""
    hosts = [host("gpu"), host("other", gpu="yes")]

    assert targets.resolve(["gpu"], [], hosts=hosts, groups={}).hosts == ("gpu",)


def test_a_frozen_target_is_sorted_hashed_and_spelled() -> None:
    """The hash is over the sorted names, one a line, so that anybody can compute it."""
    target = targets.resolve(["db-2", "db-1"], ["db-3"], hosts=HOSTS, groups=GROUPS)

    assert target == Target(
        hosts=("db-1", "db-2"),
        sha256=hashlib.sha256(b"db-1\ndb-2\n").hexdigest(),
        folded="db-[1-2]",
        spelled="db-2 and db-1 except db-3",
    )
    spelled = targets.resolve(["role=db,!gpu", " web01\n"], ["db-1", "db-2"], hosts=HOSTS, groups=GROUPS).spelled
    assert spelled == "role=db,!gpu and web01 except db-1 and db-2"


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(st.lists(LABEL, min_size=1, max_size=3).map(".".join), min_size=1, max_size=20, unique=True)


@given(NAMES)
def test_folding_loses_no_name(names: list[str]) -> None:
    """The folded form resolves to exactly the hosts that it was folded from."""
    hosts = [host(name) for name in names if name != "all"] or [host("x")]
    target = targets.freeze((h.name for h in hosts), spelled="")

    assert targets.resolve([target.folded], [], hosts=hosts, groups={}) == targets.freeze(
        target.hosts, spelled=target.folded
    )


@given(st.text(max_size=30))
def test_any_text_is_a_target_or_a_clear_refusal(text: str) -> None:
    """No input makes anything but a target of known hosts, a TargetError, a NotFound or an EmptyTarget."""
    try:
        target = targets.resolve([text], [], hosts=HOSTS, groups=GROUPS)
    except (TargetError, NotFound, EmptyTarget) as error:
        assert str(error)
    else:
        assert set(target.hosts) <= {h.name for h in HOSTS}
