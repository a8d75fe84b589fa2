"""The engine with its real store, vault, keys and wire, against agents that lie.

I8: a lie fails that host's capture, with a reason and words that name it. The other hosts of the operation are ok, and
journal and vault verify afterwards.
"""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fireline_controller import profiles
from fireline_controller.engine import TargetSpec, Wish
from fireline_controller.model import Outcome
from fireline_wire.v1 import capture_pb2
from tests.fakes.captures import artifact, noise
from tests.fakes.capturing import CapturingAgent, Statement
from tests.fakes.desk import Desk, desk
from tests.fakes.fleet_keys import certified_agent

MIB = 1 << 20
SETTINGS = """
[fanout]
idle_s = 1.0
[evidence]
host_bytes = 8388608
"""


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Desk]:
    """A controller with the hosts db1, web1 and web2; web1 is the one that lies."""
    async with desk(tmp_path / "state", SETTINGS) as made:
        for name in ("db1", "web1", "web2"):
            agent = await made.enrol(name)
            agent.contents = {"clocks/state": name.encode(), "shared/file": noise(2 * MIB)}
        yield made


def liar(made: Desk) -> CapturingAgent:
    """The host that lies."""
    agent = made.agents["web1"]
    assert isinstance(agent, CapturingAgent)
    return agent


def says(**fields: Any) -> Callable[[CapturingAgent], None]:
    """Fields of the manifest that are not as they should be, signed with the host's own key."""

    def turn(agent: CapturingAgent) -> None:
        agent.lie = lambda statement: statement["predicate"].update(fields)

    return turn


def knobs(**values: Any) -> Callable[[CapturingAgent], None]:
    """Knobs of the fake agent."""

    def turn(agent: CapturingAgent) -> None:
        for name, value in values.items():
            assert hasattr(agent, name)
            setattr(agent, name, value)

    return turn


def renamed(name: str) -> Callable[[Statement], None]:
    """An artifact under another name."""

    def lie(statement: Statement) -> None:
        statement["predicate"]["artifacts"][0]["name"] = name
        statement["subject"][0]["name"] = name

    return lie


def too_many(statement: Statement) -> None:
    """More artifacts than any capture may have."""
    one = statement["predicate"]["artifacts"][0]
    statement["predicate"]["artifacts"] = [{**one, "name": f"a{n}"} for n in range(20_001)]


def too_large(statement: Statement) -> None:
    """Honest hashes of more bytes than the controller takes from one host."""
    whole = artifact("large", b"\0" * 9 * MIB)
    statement["predicate"]["artifacts"] = [json.loads(json.dumps(vars(whole)))]
    statement["subject"] = [{"name": whole.name, "digest": {"sha256": whole.sha256}}]


def endless_size(statement: Statement) -> None:
    """A size that no disk has."""
    statement["predicate"]["artifacts"][0]["size"] = 1 << 62


def announcing(**fields: Any) -> Callable[[CapturingAgent], None]:
    """A last event that does not fit the manifest."""

    def announce(sealed: capture_pb2.CaptureSealed) -> None:
        for name, value in fields.items():
            setattr(sealed, name, value)

    return knobs(announce=announce)


@dataclass(frozen=True)
class Lie:
    """What an agent does, and what comes of it."""

    turn: Callable[[CapturingAgent], None]
    reason: str
    words: str
    outcome: Outcome = Outcome.FAILED


LIES = {
    "wrong hash of the manifest": Lie(announcing(manifest_sha256=b"\1" * 32), "tampered", "announced 0101010101010101"),
    "a hash that is none": Lie(announcing(manifest_sha256=b"\1"), "bad_data", "SHA-256 has 1 bytes, wanted 32"),
    "a shorter manifest announced": Lie(announcing(manifest_bytes=10), "tampered", "more manifest than the 10 bytes"),
    "an endless manifest announced": Lie(announcing(manifest_bytes=1 << 60), "tampered", f"manifest of {1 << 60} by"),
    "another host": Lie(says(host="db1"), "tampered", "the manifest is of ('db1',"),
    "another request": Lie(says(request_id="op-1"), "tampered", "the manifest is of ('web1', 'op-1'"),
    "another incident": Lie(says(incident_id="INC-20200101-000000"), "tampered", "'INC-20200101-000000'"),
    "another profile": Lie(says(profile="volatile"), "tampered", "'volatile'), asked for"),
    "another operation": Lie(says(operation_id="op-7"), "tampered", "the manifest is of operation 'op-7', asked for"),
    "a clock beyond all clocks": Lie(says(clock_offset_ns=(1 << 63) - 1), "tampered", "clock offset of 922337203685"),
    "a path upwards": Lie(knobs(lie=renamed("../../etc/passwd")), "tampered", "'../../etc/passwd' is not allowed"),
    "an absolute path": Lie(knobs(lie=renamed("/etc/passwd")), "tampered", "'/etc/passwd' is not allowed"),
    "a name with a NUL": Lie(knobs(lie=renamed("a\0b")), "tampered", "'a\\x00b' is not allowed"),
    "too many artifacts": Lie(knobs(lie=too_many), "tampered", "20001 entries, at most 20000 are allowed"),
    "an impossible size": Lie(knobs(lie=endless_size), "tampered", "size 4611686018427387904 is out of range"),
    "too many bytes": Lie(knobs(lie=too_large), "disk_full", "9437184 bytes of evidence: at most 8388608 are allowed"),
    "an unknown field of a mebibyte": Lie(says(**{"x" * MIB: 1}), "tampered", "bad manifest: manifest.predicate: unk"),
    "no number": Lie(says(clock_offset_ns="soon"), "tampered", "clock_offset_ns: wanted int, found str"),
    "wrong bytes in a chunk": Lie(knobs(spoil=lambda c: b"!" + c[1:]), "tampered", "do not match the manifest's SHA"),
    "a shorter chunk": Lie(knobs(spoil=lambda c: c[:-1]), "tampered", "wanted 4 bytes, found 3"),
    "an empty chunk": Lie(knobs(spoil=lambda c: b""), "bad_data", "sent a chunk of 0 bytes"),
    "a chunk too long": Lie(knobs(spoil=lambda c: c + b"x" * MIB), "bad_data", "wanted 1 to 1048576"),
    "a chunk too few": Lie(
        knobs(chunks_missing=1, contents={"one/chunk": b"web1"}), "bad_data", "it sent 0 of the 1 chunks asked for"
    ),
    "chunks without end": Lie(knobs(chunks_without_end=True), "bad_data", "it sends more than the"),
    "events without end": Lie(knobs(events_without_end=True), "bad_data", "its capture sends events without end"),
    "no seal": Lie(knobs(without_seal=True), "bad_data", "its capture ended without a seal"),
    "silence": Lie(knobs(delay_s=0, pause_s=30), "slow", "sent nothing for 1 s", Outcome.TIMED_OUT),
    "another name": Lie(knobs(name="db1"), "bad_data", "it says that its name is 'db1'"),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_lie_fails_that_host_only(three: Desk, name: str) -> None:
    """I8, I1: the liar's capture fails and says why; the others are sealed; journal and vault verify."""
    lie = LIES[name]
    lie.turn(liar(three))

    found = await three.capture()

    assert (found["web1"].outcome, found["web1"].reason) == (lie.outcome, lie.reason), found["web1"].detail
    assert lie.words in found["web1"].detail
    assert found["web1"].detail.startswith("web1: ")
    assert len(found["web1"].detail) < 1500
    assert [found[n].outcome for n in ("db1", "web2")] == [Outcome.OK, Outcome.OK]
    assert await three.problems() == []
    assert [e.host for e in await three.engine.records.list(incident_id="", host="")] in (
        ["db1", "web2"],
        ["web2", "db1"],
    )


@pytest.mark.parametrize("signer", ["another host", "a former generation", "nobody known"])
async def test_a_manifest_counts_only_under_the_hosts_present_key(three: Desk, signer: str) -> None:
    """I8: a signature by any other key, however well certified, is refused and the signer is named."""
    if signer == "a former generation":
        made, former = certified_agent(three.authority, "web1", generation=1)
        await three.store.run(lambda tx: tx.put_certificate(former))
        agent = await three.enrol("web1", generation=2)
        words = (
            "signed by spiffe://fireline/agent/web1 (generation 1), wanted spiffe://fireline/agent/web1 (generation 2)"
        )
    else:
        agent, made = liar(three), three.agents["db1"].credentials
        words = "signed by spiffe://fireline/agent/db1 (generation 1), wanted"
    if signer == "nobody known":
        made, _ = certified_agent(three.authority, "web1")
        words = "not signed by a key that this controller certified"
    agent.signer = private_key(made.key_pem)

    found = await three.capture()

    assert (found["web1"].outcome, found["web1"].reason) == (Outcome.FAILED, "tampered")
    assert words in found["web1"].detail
    assert {found[n].outcome for n in ("db1", "web2")} == {Outcome.OK}
    assert await three.problems() == []


def private_key(pem: bytes) -> Any:
    """A key from its PEM."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return load_pem_private_key(pem, None)


async def test_texts_that_no_store_takes_are_made_harmless(three: Desk) -> None:
    """I8: lone surrogates, NULs and line breaks in a host's own words reach neither store nor terminal."""
    wild = "\ud800 \0 \x1b[31m\n end"
    finding = {"severity": "critical", "code": "c", "subject": wild, "summary": wild, "collector": wild}
    says(partial=True, partial_reason=wild, findings=[finding], lacks=[wild], boot_id=wild)(liar(three))

    found = await three.capture()

    outcomes = {"db1": Outcome.OK, "web1": Outcome.FAILED, "web2": Outcome.OK}
    assert {name: o.outcome for name, o in found.items()} == outcomes
    assert found["web1"].detail.isprintable()
    assert found["web1"].detail.startswith("sealed as partial: ")
    assert found["web1"].findings[0].subject.isprintable()
    (operation,) = await three.operations()
    assert {o.host: o.outcome for o in operation.outcomes} == outcomes
    assert await three.problems() == []


def ended(name: str, status: str) -> dict[str, Any]:
    """How a collector ended, as a manifest has it."""
    times = {"started_at": "2026-05-02T12:00:00Z", "ended_at": "2026-05-02T12:00:01Z"}
    return {
        "name": name, "version": "1", "status": status, "detail": "", "wall_ms": 1, "cpu_ms": 1, "total_bytes": 0
    } | times  # fmt: skip


@dataclass(frozen=True)
class Gap:
    """What a manifest says that is missing, and the words for it."""

    fields: dict[str, Any]
    words: str


GAPS = {
    "cut short": Gap(
        {"partial": True, "partial_reason": "the agent was restarted"}, "sealed as partial: the agent was restarted"
    ),
    "a collector timed out": Gap(
        {"collectors": [ended("clocks", "ok"), ended("docker_containers", "timed_out")]},
        "sealed without docker_containers (timed out)",
    ),
    "two ended badly": Gap(
        {"collectors": [ended("bpf", "denied"), ended("sockets", "failed"), ended("docker_engine", "absent")]},
        "sealed without bpf (denied), sockets (failed)",
    ),
}


@pytest.mark.parametrize("name", GAPS)
async def test_a_capture_that_lacks_something_is_kept_and_not_ok(three: Desk, name: str) -> None:
    """I1: what came is sealed evidence and verifies; the host is failed, and what is missing is named everywhere."""
    gap = GAPS[name]
    says(**gap.fields)(liar(three))

    found = (await three.capture())["web1"]

    assert (found.outcome, found.reason, found.detail) == (Outcome.FAILED, "incomplete", gap.words)
    assert found.evidence_id and found.artifacts == 2 and found.sealed_ms and found.partial
    (evidence,) = await three.engine.records.list(incident_id="", host="web1")
    assert (evidence.id, evidence.partial) == (found.evidence_id, True)
    entries = [line.entry for line in await three.store.read(lambda tx: tx.lines()) if line.entry.host == "web1"]
    sealed, outcome = entries[-2:]
    assert (sealed.kind, sealed.data["missing"]) == ("evidence.sealed", gap.words)
    assert sealed.summary.endswith(f"; {gap.words}")
    assert (outcome.kind, outcome.summary) == ("capture.outcome", f"failed: {gap.words}")
    assert (outcome.data["reason"], outcome.data["evidence"]) == ("incomplete", found.evidence_id)
    assert await three.problems() == []


async def test_a_collector_that_finds_nothing_of_its_kind_is_no_gap(three: Desk) -> None:
    """A host without a Docker Engine is ok: `absent` is an answer."""
    says(collectors=[ended("docker_engine", "absent"), ended("clocks", "ok")])(liar(three))

    found = (await three.capture())["web1"]

    assert (found.outcome, found.detail, found.partial) == (Outcome.OK, "", False)


async def test_an_incomplete_capture_is_asked_anew(three: Desk) -> None:
    """A retry goes to that host alone with a new request: the one that it holds would be incomplete again."""
    says(collectors=[ended("docker_containers", "timed_out")])(liar(three))
    await three.capture()
    (operation,) = await three.operations()
    liar(three).lie = lambda statement: None

    again = await three.capture(retry_of=operation.id)

    assert {name: o.outcome for name, o in again.items()} == {"web1": Outcome.OK}
    assert list(liar(three).captured.values()) == [1, 1]
    assert len(await three.engine.records.list(incident_id="", host="web1")) == 2


async def test_thousands_of_findings_are_told_in_part(three: Desk) -> None:
    """I8: a host that reports thousands is sealed; the gravest are told, and how many there are."""
    one = {"severity": "notice", "subject": "s" * 500, "summary": "m" * 1000, "collector": "c"}
    findings = [{**one, "code": f"{n:0100}"} for n in range(9_999)]
    grave = {**one, "severity": "critical", "code": "grave"}
    says(findings=[*findings, grave])(liar(three))

    found = await three.capture()

    assert found["web1"].outcome is Outcome.OK
    assert found["web1"].detail == "10000 findings, of which 200 are told here"
    assert [f.code for f in found["web1"].findings][:2] == ["grave", f"{0:0100}"]
    lines = await three.store.read(lambda tx: tx.lines())
    assert max(len(line.canonical) for line in lines) < 20_000


async def test_what_a_profile_holds_is_on_record(three: Desk) -> None:
    """I6: `mask_secrets: false` in a profile of one's own stands in the line of the order, with the whole's hash."""
    (three.opened.folder / "profiles" / "bare.yaml").write_text(
        "name: bare\ncollectors: [{name: clocks}, {name: processes, params: {mask_secrets: false}}]\n"
    )
    wish = Wish("alice", TargetSpec(("web2",)))
    _ = [news async for news in three.engine.capture(wish, "bare")]

    lines = await three.store.read(lambda tx: tx.lines())
    (ordered,) = [line.entry.data for line in lines if line.entry.kind == "capture.ordered"]

    assert ordered["profile"] == "bare"
    assert ordered["params"] == {"processes": {"mask_secrets": False}}
    assert ordered["profile_sha256"] == profiles.load("bare", folders=[three.opened.folder / "profiles"]).sha256
    assert await three.problems() == []


async def test_one_capture_a_request_across_retries(three: Desk) -> None:
    """I2: a host that broke off is asked for the same capture again and again, also when a retry left it out."""
    liar(three).pause_s = 30
    first = await three.capture("web1")
    assert first["web1"].outcome is Outcome.TIMED_OUT
    (operation,) = await three.operations()
    liar(three).pause_s = 0

    again = await three.capture(retry_of=operation.id)

    assert again["web1"].outcome is Outcome.OK, again["web1"].detail
    assert liar(three).captured == {operation.id: 1}
