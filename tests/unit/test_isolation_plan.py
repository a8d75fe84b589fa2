"""Facts in, a transaction or a refusal out: tests/cases/isolation."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from fireline_agent.hands import namespaces, nft
from fireline_agent.isolation.model import Capability, Identity, Link, Network, Plan
from fireline_agent.isolation.plan import in_container, plan
from fireline_wire.isolation import IsolationOrder, Opening, Scope
from tests.lab import NETNS, default_backend

CASES = Path(__file__).parents[1] / "cases/isolation"
PARTS = tomllib.loads((CASES / "parts.toml").read_text())["case"]


def order(case: dict[str, Any]) -> IsolationOrder:
    """The order of a case."""
    return IsolationOrder(
        order_id="iso-1",
        host="web-1",
        scope=Scope.parse(case.get("scope", "host")),
        controllers=tuple(case.get("controllers", ["198.18.0.254"])),
        lease_s=30,
        fence_token=1,
        issued_at="2026-01-01T00:00:00Z",
        code_sha256="0" * 64,
        allowances=tuple(map(Opening.parse, case.get("allowances", []))),
    )


def network(case: dict[str, Any]) -> Network:
    """The network of a case; `lo` is always there."""
    words = [link.split(" ") for link in case.get("links", ["eth0"])]
    links = [Link(*link) for link in words]
    return Network((Link("lo", is_loopback=True), *links), prefixes6=tuple(case.get("prefixes6", [])))


def planned(case: dict[str, Any]) -> Plan:
    """The plan of a case."""
    has = dict.fromkeys(case.get("lacking", []), False)
    missing = case.get("refusal", "") if "scope" not in case else ""
    group = case.get("cgroup", "")
    return plan(
        order(case),
        network=network(case),
        identity=Identity(0, 7700, (group.count("/") + 1, group) if group else None),
        capability=Capability(refusal=missing, **has),
        left_ms=case.get("left_ms", 30_000) or None,
        replaced=case.get("replaced", []),
    )


@pytest.mark.parametrize("case", PARTS, ids=lambda case: str(case["name"]))
def test_a_plan_follows_from_its_facts(case: dict[str, Any]) -> None:
    """Lines that must be there, lines that must not, interfaces, and what is said to be lacking."""
    found = planned(case)
    lines = found.transaction.splitlines()

    assert found.refusal == case.get("refusal", "")
    assert [line for line in case.get("has", []) if line not in lines] == []
    assert [part for part in case.get("hasnt", []) if any(line.startswith(part) for line in lines)] == []
    assert list(found.interfaces) == case.get("interfaces", list(found.interfaces))
    assert [lack for lack in case.get("lacks", []) if lack not in found.lacks] == []
    assert not found.refusal or found.transaction == ""


@pytest.mark.parametrize("name", ["host", "peer", "container"])
def test_a_whole_transaction(name: str) -> None:
    """Every line of it, as a person reads it in `isolate --plan`."""
    assert whole(name) == (CASES / f"{name}.nft").read_text()


@pytest.mark.netns
@pytest.mark.skipif(default_backend() != NETNS, reason="needs root for network namespaces")
@pytest.mark.parametrize("case", [c for c in PARTS if "refusal" not in c], ids=lambda case: str(case["name"]))
def test_the_kernel_takes_every_plan(case: dict[str, Any]) -> None:
    """nft checks it against this kernel, in a namespace that is thrown away."""
    program = nft.find()
    assert program is not None
    found = planned({**case, "cgroup": ""})
    text = found.transaction
    for device in found.interfaces:
        text = text.replace(f'"{device}"', '"lo"')
    with namespaces.throw_away():
        program.apply(text.replace('"lo", "lo"', '"lo"').replace(', "lo"', ""))
        tables = program.tables()

    assert {family for family, _ in tables} == set(found.tables)


def whole(name: str) -> str:
    """The transaction of a case of its own file."""
    facts: dict[str, Any] = {
        "links": ["eth0", "docker0 bridge", "veth1 veth bridge"],
        "controllers": ["198.18.0.254", "2001:2::fe"],
        "allowances": ["198.18.0.9:22/tcp"],
        "prefixes6": ["2001:2::5/64"],
    }
    if name == "container":
        return in_container(order(facts), network=network(facts), capability=Capability(), left_ms=30_000)
    return planned({**facts, "scope": "host" if name == "host" else "peer:203.0.113.7,443/tcp"}).transaction
