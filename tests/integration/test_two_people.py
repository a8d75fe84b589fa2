"""Two persons on real hosts: nothing is cut before the second one has agreed, and then exactly what was agreed."""

from collections.abc import Iterator

import pytest

from tests.fleet import Fleet

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

RULE = """
[[rules]]
actions = ["isolate"]
target = "role=web"
above = 1
operators = ["bob"]
"""
ISOLATE = ("isolate", "-t", "web[1-2]", "--reason", "drill", "--now")


@pytest.fixture
def two_people(fleet: Fleet) -> Iterator[Fleet]:
    """The fleet with a second operator and a rule, which are gone afterwards, as is every isolation."""
    fleet.fireline("operator", "add", "bob")
    policy = fleet.state / "policy.toml"
    policy.write_text(RULE)
    try:
        yield fleet
    finally:
        policy.unlink()
        fleet.fireline("release", "-t", "web[1-2]", "--reason", "drill is over")
        fleet.fireline("operator", "remove", "bob", "--reason", "drill is over")


def standing(fleet: Fleet) -> dict[str, list[str]]:
    """What each host's kernel says of its isolations."""
    found = fleet.json("isolation", "status", "-t", "web[1-3]")["hosts"]
    return {host["host"]: [one["phase"] for one in host["isolations"]] for host in found}


def test_hosts_are_cut_off_once_a_second_person_agrees(two_people: Fleet) -> None:
    """Refused with exit 4 and untouched; approved; dark; and the approval is used up."""
    refused = two_people.try_fireline(*ISOLATE)
    request = refused.stderr.partition("approval approve ")[2].partition(";")[0]
    assert refused.returncode == 4, refused.stderr
    assert refused.stderr.startswith("fireline: isolate web[1-2] (host): needs 1 approval by bob until "), (
        refused.stderr
    )
    assert standing(two_people) == {"web1": [], "web2": [], "web3": []}

    two_people.fireline("--as", "bob", "approval", "approve", request)
    document = two_people.json(*ISOLATE)

    assert document["counts"] == {"ok": 2}, document
    assert standing(two_people) == {"web1": ["committed"], "web2": ["committed"], "web3": []}
    used = two_people.json("approval", "show", request)
    assert (used["standing"], used["used_by"]) == ("spent", document["operation"])
    two_people.fireline(*ISOLATE, status=4)
    assert two_people.json("journal", "verify")["verified"]


def test_broken_glass_cuts_at_once_and_is_in_the_document(two_people: Fleet) -> None:
    """Where the rule has a glass: the hosts are dark without anybody's approval, and everybody sees that."""
    (two_people.state / "policy.toml").write_text(RULE + "break_glass = true\n")

    document = two_people.json(*ISOLATE, "--break-glass", "bob is on a plane")

    assert document["counts"] == {"ok": 2}, document
    assert document["warning"] == (
        "glass broken by tester: isolate web[1-2] (host), against the policy (1 approval by bob): bob is on a plane"
    )
    timeline = two_people.fireline("journal", "export")
    assert '"kind":"policy.broken_glass"' in timeline.replace('": "', '":"')
