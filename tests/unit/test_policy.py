"""Two persons for one command: what the rules say, whose word counts, and what can never be."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireline_controller import policy, targets
from fireline_controller.model import ConfigError, Host
from fireline_controller.policy import Approval, Demand, Proposal, Rule, Vote

CASES = Path(__file__).parents[1] / "cases" / "policy"
ASKED = datetime(2026, 5, 2, 12, 0, tzinfo=UTC)
HALF_AN_HOUR = timedelta(minutes=30)
EVERYBODY = ["alice", "bob", "carol", "dave"]


def cases(file: str) -> list[Any]:
    """The cases of a file, each under its name."""
    found = tomllib.loads((CASES / file).read_text())["cases"]
    return [pytest.param(case, id=case.get("name", case.get("message"))) for case in found]


def host(text: str) -> Host:
    """A host by its name and labels."""
    name, *labels = text.split()
    return Host(name, "198.18.0.1:7700", dict(p.split("=") for p in labels), 1, ASKED, "1", ASKED)


def proposal(hosts: Sequence[Host], action: str = "isolate", **parameters: object) -> Proposal:
    """What alice wants."""
    return Proposal(action, targets.freeze([h.name for h in hosts], spelled=""), parameters, "alice")


def request(wanted: Proposal, votes: Sequence[Vote] = (), ended: str = "") -> Approval:
    """What alice asked at 12:00, for 15 minutes."""
    return Approval(
        id="apr-1",
        digest=wanted.digest,
        action=wanted.action,
        summary="isolate",
        hosts=wanted.target.folded,
        parameters=wanted.parameters,
        requester=wanted.requester,
        reason="drill",
        incident_id="",
        asked_at=ASKED,
        expires_at=ASKED + timedelta(minutes=15),
        demands=(Demand(1),),
        votes=tuple(votes),
        ended=ended,
    )


def vote(text: str) -> Vote:
    """`bob approves`, `bob denies: because`."""
    words, _, reason = text.partition(": ")
    by, word = words.split()
    return Vote(by, ASKED, word == "approves", reason)


def another(wanted: Proposal, what: str) -> Proposal:
    """A command that differs in one thing."""
    other: Mapping[str, Proposal] = {
        "": wanted,
        "action": replace(wanted, action="release"),
        "hosts": replace(wanted, target=targets.freeze(["other"], spelled="")),
        "parameters": replace(wanted, parameters={"scope": "container:web"}),
        "requester": replace(wanted, requester="bob"),
    }
    return other[what]


def around(
    hosts: Sequence[Host],
    operators: Iterable[str] = EVERYBODY,
    moment: datetime = ASKED,
    alone: Mapping[str, datetime] | None = None,
) -> policy.Circumstances:
    """The fleet and its operators at a moment."""
    return policy.Circumstances(moment, hosts, frozenset(operators), alone or {})


def in_words(verdict: policy.Verdict) -> str:
    """A verdict as the cases write it."""
    if isinstance(verdict, policy.Allowed):
        return f"allowed by {', '.join(verdict.by)}" if verdict.by else "allowed"
    if isinstance(verdict, policy.Refused):
        return f"refused: {verdict.why}"
    earlier = f", with {', '.join(verdict.earlier)} of before" if verdict.earlier else ""
    return f"needs {policy.in_words(verdict.demands)}{earlier}"


@pytest.mark.parametrize("case", cases("decide.toml"))
def test_what_the_rules_say(case: dict[str, Any]) -> None:
    """The table in tests/cases/policy/decide.toml."""
    hosts = [host(text) for text in case.get("hosts", ["web1", "web2"])]
    wanted = replace(
        proposal(hosts, case.get("action", "isolate")), parameters=case.get("parameters", {"scope": "host"})
    )
    asked = request(another(wanted, case.get("asked_for", "")), [vote(v) for v in case.get("votes", [])])
    moment = ASKED + timedelta(seconds=case.get("asked_ago", 60))
    earlier = {text: moment - timedelta(seconds=ago) for text, ago in case.get("alone", {}).items()}
    fleet = [*hosts, *(host(text) for text in earlier)]
    verdict = policy.decide(
        policy.parse(case["rules"], file="policy.toml"),
        wanted,
        around(fleet, case.get("operators", EVERYBODY), moment, {host(text).name: at for text, at in earlier.items()}),
        approval=replace(asked, ended=case.get("ended", "")) if "votes" in case else None,
    )

    assert in_words(verdict) == case["verdict"]


@pytest.mark.parametrize("case", cases("refused.toml"))
def test_a_policy_with_a_mistake_is_refused(case: dict[str, Any]) -> None:
    """With the rule, the key and the nearest right one: the table in tests/cases/policy/refused.toml."""
    with pytest.raises(ConfigError) as refused:
        policy.parse(case["rules"], file="policy.toml")

    assert str(refused.value).startswith(case["message"])


def test_what_a_rule_may_leave_out() -> None:
    """All hosts, from the first one on, one approval of anybody else, for 15 minutes, and no glass to break."""
    assert policy.parse("[[rules]]\nactions = ['isolate']", file="policy.toml") == (Rule(("isolate",)),)


def test_every_key_of_a_rule() -> None:
    """What is written is what is read."""
    text = """
    [[rules]]
    actions = ["isolate", "remediate"]
    target = "env=prod"
    above = 5
    within = "30m"
    approvals = 2
    operators = ["carol", "bob"]
    expires = "2h"
    break_glass = true
    risks = ["destructive"]
    named = ["disk.*"]
    """

    assert policy.parse(text, file="policy.toml") == (
        Rule(
            ("isolate", "remediate"),
            "env=prod",
            5,
            HALF_AN_HOUR,
            2,
            ("bob", "carol"),
            timedelta(hours=2),
            True,
            ("destructive",),
            ("disk.*",),
        ),
    )


def test_the_shortest_time_and_the_strictest_glass_hold() -> None:
    """Of several rules that bind, each one's caution counts."""
    rules = (
        Rule(("isolate",), expires=timedelta(minutes=5), break_glass=True),
        Rule(("isolate",), expires=timedelta(hours=1), break_glass=False),
    )
    web1 = [host("web1")]

    needs = policy.decide(rules, proposal(web1), around(web1), approval=None)

    assert needs == policy.Needs((Demand(1),), timedelta(minutes=5), break_glass=False)


def test_the_digest_does_not_depend_on_the_order_of_parameters() -> None:
    """And differs with each of action, hosts and parameters."""
    web1 = [host("web1")]
    first = proposal(web1, lease_s=60, scope="host")

    assert first.digest == proposal(web1, scope="host", lease_s=60).digest
    assert len({another(first, what).digest for what in ("", "action", "hosts", "parameters")}) == 4


@pytest.mark.parametrize(
    ("by", "change", "why"),
    [
        ("bob", {}, ""),
        ("alice", {}, "alice asked for it: somebody else must decide"),
        ("mallory", {}, "mallory has no say in it: it needs 1 approval by any other operator"),
        ("dave", {"demands": (Demand(1, ("bob",)),)}, "dave has no say in it: it needs 1 approval by bob"),
        ("carol", {"votes": (vote("carol approves"),)}, "carol has approved it already"),
        ("bob", {"ended": "spent", "used_by": "op-1"}, "it is spent, by op-1"),
        ("bob", {"ended": "denied", "votes": (vote("carol denies"),)}, "it is denied, by carol"),
        ("bob", {"expires_at": ASKED}, "it is expired since 2026-05-02 12:00:00 UTC"),
    ],
)
def test_whose_word_counts(by: str, change: dict[str, Any], why: str) -> None:
    """And what those are told whose word does not."""
    asked = replace(request(proposal([host("web1")])), **change)

    assert policy.objection(asked, by, operators=EVERYBODY, now=ASKED) == why


names = st.sampled_from([*EVERYBODY, "mallory"])
votes = st.lists(st.builds(Vote, names, st.just(ASKED), st.booleans()), max_size=8)
rules = st.builds(
    Rule,
    actions=st.just(("isolate",)),
    approvals=st.integers(1, 4),
    operators=st.sets(names).map(lambda some: tuple(sorted(some))),
)


@given(st.lists(rules, min_size=1, max_size=3), votes, st.sets(names), st.integers(0, 1800), st.integers(0, 2))
def test_nothing_passes_without_enough_others(
    bound: list[Rule], said: list[Vote], operators: set[str], age_s: int, twist: int
) -> None:
    """Whatever was said: passing means n distinct operators of today, none of them the requester, in time, for this."""
    web1 = [host("web1")]
    wanted = proposal(web1, scope="host")
    asked = request(another(wanted, ("", "parameters", "hosts")[twist]), said)
    moment = ASKED + timedelta(seconds=age_s)
    verdict = policy.decide(bound, wanted, around(web1, operators, moment), approval=asked)

    if isinstance(verdict, policy.Allowed):
        assert age_s < 900
        assert twist == 0
        for rule in bound:
            voices = {v.by for v in said if v.approves} & operators & set(rule.operators or operators) - {"alice"}
            assert len(voices) >= rule.approvals
        assert "alice" not in verdict.by


@given(votes)
def test_a_denial_by_one_who_has_a_say_is_never_outvoted(said: list[Vote]) -> None:
    """However many approve."""
    web1 = [host("web1")]
    asked = request(proposal(web1), [*said, vote("carol denies")])
    verdict = policy.decide([Rule(("isolate",))], proposal(web1), around(web1), approval=asked)

    assert isinstance(verdict, policy.Refused)


@given(st.integers(0, 40), st.integers(0, 40))
def test_a_rule_binds_above_its_number(count: int, above: int) -> None:
    """Not at it."""
    hosts = [host(f"web{n}") for n in range(count)]
    bound = policy.binding([Rule(("isolate",), above=above)], proposal(hosts), around(hosts))

    assert bool(bound) == (count > above or count == 0)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(0, 12))
def test_nobody_gets_around_a_number_by_small_commands(sizes: list[int], above: int) -> None:
    """However they are cut: alone, never more than so many hosts within the time."""
    fleet = [host(f"web{n}") for n in range(50)]
    left, alone = list(fleet), dict[str, datetime]()
    for size in sizes:
        taken, left = left[:size], left[size:]
        if not policy.binding([Rule(("isolate",), above=above)], proposal(taken), around(fleet, alone=alone)):
            alone |= {one.name: ASKED for one in taken}

    assert len(alone) <= above


@pytest.mark.parametrize(
    ("actions", "is_bound"),
    [
        (None, True),
        ({"disk.clean_logs": ["destructive", "disruptive"]}, True),
        ({"disk.clean_logs": ["destructive"]}, False),
        ({"disk.usage": ["read"], "system.reboot": ["disruptive"]}, False),
        ({"disk.usage": ["read"], "disk.clean_temp": ["disruptive"]}, True),
        ({}, False),
    ],
)
def test_a_rule_binds_by_each_action_that_may_be_done(actions: dict[str, list[str]] | None, is_bound: bool) -> None:
    """By name and risk of the same one; a graver risk that a host claims hides no lesser one, and silence nothing."""
    given = {} if actions is None else {"actions": actions}
    wanted = replace(proposal([host("web1")], "remediate"), parameters=given)
    rule = Rule(("remediate",), risks=("disruptive",), named=("disk.*",))

    assert bool(policy.binding([rule], wanted, around([host("web1")]))) == is_bound
