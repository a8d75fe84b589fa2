"""What every store keeps to, whatever database is under it."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from fireline_controller.isolation import IN_FORCE, Isolation, Phase
from fireline_controller.model import (
    Certificate,
    ChunkPlace,
    Entry,
    Evidence,
    Finding,
    Host,
    HostOutcome,
    IsolationTimes,
    Line,
    NotFound,
    Operation,
    Outcome,
    PolicyError,
    Severity,
    StoreError,
    Target,
    Token,
)
from fireline_controller.policy import Approval, Demand, Vote
from fireline_controller.store import Store, StoredChunks, Transaction

NOW = datetime(2026, 5, 1, 12, 30, 15, 250_001, UTC)
HOST = Host(
    name="web-1",
    address="198.18.0.1:7700",
    labels={"role": "web", "env": "prod"},
    generation=1,
    enrolled_at=NOW,
    certificate_serial="0a",
    certificate_not_after=NOW + timedelta(days=7),
)
CERTIFICATE = Certificate(
    serial="0a",
    identity="spiffe://fireline/agent/web-1",
    generation=1,
    key_id="ab" * 32,
    pem="-----BEGIN CERTIFICATE-----\n",
    not_before=NOW,
    not_after=NOW + timedelta(days=7),
)
TOKEN = Token(secret_sha256="cd" * 32, host="web-1", labels={}, created_by="alice", expires_at=NOW + timedelta(hours=1))
OPERATION = Operation(
    id="op-1",
    kind="capture",
    incident_id="INC-20260501-123015",
    operator="alice",
    reason="drill",
    target=Target(hosts=("web-1", "web-2"), sha256="ef" * 32, folded="web-[1-2]", spelled="all"),
    started_at=NOW,
    profile="initial",
    retry_of="op-0",
)
FINDING = Finding("critical", "deleted-executable", "pid 7", "its file is gone", "executables", "web-1")
EVIDENCE = Evidence(
    id="ev-0123456789abcdef",
    host="web-1",
    incident_id="INC-20260501-123015",
    operation_id="op-1",
    profile="initial",
    sealed_at=NOW,
    artifacts=12,
    total_bytes=1 << 40,
    partial=False,
    manifest_sha256="01" * 32,
    manifest_bytes=4096,
    receipt=b"{\x00\xff}",
    host_chain_pem="-----BEGIN CERTIFICATE-----\n",
)
APPROVAL = Approval(
    id="apr-1",
    digest="0d" * 32,
    action="isolate",
    summary="isolate 2 hosts",
    hosts="web-[1-2]",
    parameters={"scope": "host", "lease_s": 60, "allowances": ["198.18.0.9:22/tcp"]},
    requester="alice",
    reason="drill",
    incident_id="INC-20260501-123015",
    asked_at=NOW,
    expires_at=NOW + timedelta(minutes=15),
    demands=(Demand(2, ("bob", "carol")), Demand(1)),
    votes=(Vote("bob", NOW, approves=True), Vote("carol", NOW, approves=False, reason="no")),
)
ISOLATION = Isolation(
    order_id="op-1.web-1",
    host="web-1",
    scope="host",
    phase=Phase.ARMING,
    operation_id="op-1",
    incident_id="INC-20260501-123015",
    operator="alice",
    reason="drill",
    code="AAAA-BBBB-CCCC-DDDD",
    controllers=("198.18.0.254", "2001:2::fe"),
    allowances=("192.0.2.7:22/tcp",),
    lease_s=40,
    fence_token=7,
    force="",
    unproved="",
    without_evidence=True,
    ordered_at=NOW,
    places=(("198.18.0.1", 22), ("2001:2::1", 22)),
    proof="dark to web-2",
    armed_at=NOW,
    not_after=NOW + timedelta(hours=24),
)
# What a terminal, a template or a database could trip over.
ODD_TEXTS = ["", "caf\u00e9 \U0001f525", "a\nb\x1b[31m", "'; DROP TABLE journal; --", "%s %(name)s :name {x}"]


def _entry(summary: str = "noted", incident_id: str = "") -> Entry:
    return Entry(kind="incident.note", actor="alice", at=NOW, summary=summary, incident_id=incident_id)


def _append(tx: Transaction, *, summary: str) -> Line:
    return tx.append(_entry(summary))[0]


def _putting(verb: Callable[[Transaction, Any], None], values: Iterable[Any]) -> Callable[[Transaction], None]:
    def work(tx: Transaction) -> None:
        for value in values:
            verb(tx, value)

    return work


def _outcomes(*hosts: str) -> Sequence[HostOutcome]:
    return [
        HostOutcome(host, Outcome.OK, findings=(FINDING,), evidence_id="ev-1", total_bytes=1 << 40) for host in hosts
    ]


class TestFleet:
    """Hosts, certificates, tokens."""

    def test_a_host_comes_back_as_it_was_put(self, store: Store) -> None:
        """Labels, times to the microsecond, flags."""
        store.run_now(lambda tx: tx.put_host(HOST))

        assert store.run_now(lambda tx: tx.host("web-1")) == HOST

    def test_a_host_that_is_put_again_takes_the_place_of_the_first(self, store: Store) -> None:
        """One host a name."""
        renewed = replace(HOST, generation=2, labels={})
        store.run_now(lambda tx: tx.put_host(HOST))
        store.run_now(lambda tx: tx.put_host(renewed))

        assert store.run_now(lambda tx: tx.hosts()) == (renewed,)

    def test_removed_hosts_are_listed_only_when_asked_for(self, store: Store) -> None:
        """And all are in the order of their names, by code point on every database."""
        removed = replace(HOST, name="Web-2", removed=True)
        last = replace(HOST, name="web-10")
        store.run_now(_putting(Transaction.put_host, (last, HOST, removed)))

        assert store.run_now(lambda tx: tx.hosts()) == (HOST, last)
        assert store.run_now(lambda tx: tx.hosts(include_removed=True)) == (removed, HOST, last)
        assert store.run_now(lambda tx: tx.host("Web-2")).removed

    def test_a_host_that_is_not_known_is_named(self, store: Store) -> None:
        """With the command that shows the known ones."""
        with pytest.raises(NotFound, match="host 'db-1' is not known; `fireline host list` shows the hosts that are"):
            store.run_now(lambda tx: tx.host("db-1"))

    def test_certificates_are_found_by_serial_key_and_identity(self, store: Store) -> None:
        """Of one key's certificates the one that holds longest is given."""
        renewed = replace(CERTIFICATE, serial="0b", not_after=NOW + timedelta(days=9))
        other = replace(CERTIFICATE, serial="0c", identity="spiffe://fireline/agent/web-2", key_id="ff" * 32)
        store.run_now(_putting(Transaction.put_certificate, (CERTIFICATE, renewed, other)))

        assert store.run_now(lambda tx: tx.certificate("0a")) == CERTIFICATE
        assert store.run_now(lambda tx: tx.certificate_by_key("ab" * 32)) == renewed
        assert store.run_now(lambda tx: tx.certificates(CERTIFICATE.identity)) == (CERTIFICATE, renewed)
        assert len(store.run_now(lambda tx: tx.certificates())) == 3

    def test_certificates_that_were_never_issued_are_named(self, store: Store) -> None:
        """By serial number and by key."""
        with pytest.raises(NotFound, match="certificate '0f' is not known: this authority did not issue it"):
            store.run_now(lambda tx: tx.certificate("0f"))
        with pytest.raises(NotFound, match="key 'abab' is not known: this authority certified no such key"):
            store.run_now(lambda tx: tx.certificate_by_key("abab"))

    def test_the_deny_list_grows_its_version_with_each_serial_on_it(self, store: Store) -> None:
        """Revoking again changes neither the version nor the time."""
        store.run_now(lambda tx: tx.put_certificate(CERTIFICATE))
        assert store.run_now(lambda tx: tx.denied()) == (0, frozenset())

        store.run_now(lambda tx: tx.revoke("0a", NOW))
        again = store.run_now(lambda tx: tx.revoke("0a", NOW + timedelta(days=1)))

        assert again.revoked_at == NOW
        assert store.run_now(lambda tx: tx.denied()) == (1, frozenset({"0a"}))

    def test_a_serial_that_was_never_issued_is_not_denied(self, store: Store) -> None:
        """A typing error must not look like a revocation."""
        with pytest.raises(NotFound, match="certificate '0f' is not known"):
            store.run_now(lambda tx: tx.revoke("0f", NOW))

        assert store.run_now(lambda tx: tx.denied()) == (0, frozenset())

    def test_a_token_is_spent_once(self, store: Store) -> None:
        """The second time says when the first was, and what to do."""
        store.run_now(lambda tx: tx.put_token(TOKEN))

        assert store.run_now(lambda tx: tx.spend_token(TOKEN.secret_sha256, NOW)) == replace(TOKEN, spent_at=NOW)
        with pytest.raises(
            PolicyError,
            match="enrolment token for web-1 was used at 2026-05-01 12:30:15 UTC; make a new one with"
            " `fireline enroll token --host web-1`",
        ) as used:
            store.run_now(lambda tx: tx.spend_token(TOKEN.secret_sha256, NOW))
        assert used.value.reason == "token_used"

    def test_a_token_whose_time_is_over_is_not_spent(self, store: Store) -> None:
        """At its last moment it is over."""
        store.run_now(lambda tx: tx.put_token(TOKEN))

        with pytest.raises(
            PolicyError, match=r"expired at 2026-05-01 13:30:15 UTC \(now 2026-05-01 13:30:15\)"
        ) as over:
            store.run_now(lambda tx: tx.spend_token(TOKEN.secret_sha256, TOKEN.expires_at))
        assert over.value.reason == "token_expired"

    def test_a_token_that_was_not_made_here_is_forged(self, store: Store) -> None:
        """Nothing about other tokens is told."""
        with pytest.raises(PolicyError, match="was not made by this controller, or was altered") as forged:
            store.run_now(lambda tx: tx.spend_token("00" * 32, NOW))
        assert forged.value.reason == "token_forged"

    def test_a_token_that_was_spent_in_work_that_failed_is_not_spent(self, store: Store) -> None:
        """The transaction is one."""
        store.run_now(lambda tx: tx.put_token(TOKEN))

        def fails(tx: Transaction) -> None:
            tx.spend_token(TOKEN.secret_sha256, NOW)
            raise PolicyError("the CSR is bad", reason="invalid_request")

        with pytest.raises(PolicyError, match="the CSR is bad"):
            store.run_now(fails)
        assert store.run_now(lambda tx: tx.spend_token(TOKEN.secret_sha256, NOW)).spent_at == NOW

    def test_fence_tokens_only_grow(self, store: Store) -> None:
        """Within a transaction and over several."""
        first = store.run_now(lambda tx: (tx.next_fence_token(), tx.next_fence_token()))

        assert first == (1, 2)
        assert store.run_now(lambda tx: tx.next_fence_token()) == 3


class TestWork:
    """Operations and incidents."""

    async def test_the_fleet_is_read_anew_once_a_host_changed(self, store: Store) -> None:
        """The kept list never outlives a change, nor a transaction that was undone."""
        store.run_now(lambda tx: tx.put_host(HOST))
        assert await store.hosts() == (HOST,)
        moved = replace(HOST, address="198.51.100.9:7700")

        def undone(tx: Transaction) -> None:
            tx.put_host(moved)
            raise NotFound("undo this")

        with pytest.raises(NotFound):
            store.run_now(undone)
        assert await store.hosts() == (HOST,)
        store.run_now(lambda tx: tx.put_host(moved))
        assert await store.hosts() == (moved,)

    def test_an_operation_comes_back_with_its_target(self, store: Store) -> None:
        """As it was put, without outcomes while it runs."""
        store.run_now(lambda tx: tx.put_operation(OPERATION))

        assert store.run_now(lambda tx: tx.operation("op-1")) == OPERATION
        assert store.run_now(lambda tx: tx.operations(unfinished=True)) == (OPERATION,)

    def test_an_operation_ends_with_one_outcome_a_host(self, store: Store) -> None:
        """Sorted by host, findings included; it is no longer unfinished."""
        outcomes = _outcomes("web-2", "web-1")
        store.run_now(lambda tx: tx.put_operation(OPERATION))

        store.run_now(lambda tx: tx.finish_operation("op-1", outcomes, NOW + timedelta(seconds=2)))

        ended = replace(OPERATION, finished_at=NOW + timedelta(seconds=2), outcomes=(outcomes[1], outcomes[0]))
        assert store.run_now(lambda tx: tx.operation("op-1")) == ended
        assert store.run_now(lambda tx: tx.operations(unfinished=True)) == ()

    @pytest.mark.parametrize(
        ("hosts", "message"),
        [
            (["web-1"], "1 outcomes for 2 hosts, wanted one each; without: web-2; not of the target: none"),
            (["web-1", "db-1"], "2 outcomes for 2 hosts, wanted one each; without: web-2; not of the target: db-1"),
            (["web-1", "web-2", "web-2"], "3 outcomes for 2 hosts, wanted one each; without: none"),
        ],
    )
    def test_i1_outcomes_that_are_not_one_each_are_refused(self, store: Store, hosts: list[str], message: str) -> None:
        """I1: counts add up in what is kept, too."""
        store.run_now(lambda tx: tx.put_operation(OPERATION))

        with pytest.raises(ValueError, match=f"operation op-1: {message}"):
            store.run_now(lambda tx: tx.finish_operation("op-1", _outcomes(*hosts), NOW))
        assert store.run_now(lambda tx: tx.operation("op-1")).finished_at is None

    def test_i1_an_operation_ends_once(self, store: Store) -> None:
        """I1: a second set of outcomes is refused."""
        store.run_now(lambda tx: tx.put_operation(OPERATION))
        store.run_now(lambda tx: tx.finish_operation("op-1", _outcomes("web-1", "web-2"), NOW))

        with pytest.raises(StoreError, match=r"operation op-1 was finished at 2026-05-01 .*: it ends once"):
            store.run_now(lambda tx: tx.finish_operation("op-1", _outcomes("web-1", "web-2"), NOW))

    def test_operations_are_listed_by_incident_in_the_order_of_their_start(self, store: Store) -> None:
        """Only the incident's own."""
        second = replace(OPERATION, id="op-0", started_at=NOW + timedelta(seconds=1))
        strange = replace(OPERATION, id="op-3", incident_id="")
        store.run_now(_putting(Transaction.put_operation, (second, OPERATION, strange)))

        assert store.run_now(lambda tx: tx.operations(OPERATION.incident_id)) == (OPERATION, second)

    def test_the_times_of_an_isolation_come_back_with_its_outcome(self, store: Store) -> None:
        """Milliseconds of each phase, and the witnesses."""
        times = IsolationTimes(armed_ms=20, proved_ms=900, witnesses=("web-2",))
        outcomes = [HostOutcome("web-1", Outcome.OK, isolation=times), HostOutcome("web-2", Outcome.FAILED)]
        store.run_now(lambda tx: tx.put_operation(OPERATION))
        store.run_now(lambda tx: tx.finish_operation("op-1", outcomes, NOW))

        assert store.read_now(lambda tx: tx.operation("op-1")).outcomes == tuple(outcomes)

    def test_an_operation_that_is_not_known_is_named(self, store: Store) -> None:
        """By its id."""
        with pytest.raises(NotFound, match="operation 'op-9' is not known"):
            store.run_now(lambda tx: tx.operation("op-9"))

    def test_an_incident_has_the_second_of_its_opening_as_its_id(self, store: Store) -> None:
        """In UTC; when the second is taken, the next free one."""

        def opened() -> str:
            return store.run_now(lambda tx: tx.new_incident(Severity.P1, "checkout down", "alice", "all", NOW)).id

        assert [opened() for _ in range(3)] == ["INC-20260501-123015", "INC-20260501-123016", "INC-20260501-123017"]

    def test_an_incident_comes_back_as_it_was_opened(self, store: Store) -> None:
        """And the newest is listed first, at most as many as asked for."""
        first = store.run_now(lambda tx: tx.new_incident(Severity.P3, "slow", "alice", "env=prod", NOW))
        second = store.run_now(lambda tx: tx.new_incident(Severity.P1, "down", "bob", "all", NOW))

        assert store.run_now(lambda tx: tx.incident(first.id)) == first
        assert (first.severity, first.title, first.opened_by, first.opened_at) == (Severity.P3, "slow", "alice", NOW)
        assert store.run_now(lambda tx: tx.incidents()) == (second, first)
        assert store.run_now(lambda tx: tx.incidents(1)) == (second,)

    def test_an_incident_that_is_not_known_is_named(self, store: Store) -> None:
        """With the command that shows the known ones."""
        with pytest.raises(NotFound, match="incident 'INC-1' is not known; `fireline incident list` shows"):
            store.run_now(lambda tx: tx.incident("INC-1"))


class TestKeeping:
    """Evidence and chunks."""

    def test_evidence_comes_back_as_it_was_put(self, store: Store) -> None:
        """Receipt bytes too; listed by incident and host in the order of sealing."""
        later = replace(EVIDENCE, id="ev-00", host="web-2", sealed_at=NOW + timedelta(seconds=1))
        store.run_now(_putting(Transaction.put_evidence, (later, EVIDENCE)))

        assert store.run_now(lambda tx: tx.evidence(EVIDENCE.id)) == EVIDENCE
        assert store.run_now(lambda tx: tx.evidence_list()) == (EVIDENCE, later)
        assert store.run_now(lambda tx: tx.evidence_list(EVIDENCE.incident_id, "web-2")) == (later,)
        assert store.run_now(lambda tx: tx.evidence_list("INC-2")) == ()

    def test_evidence_that_is_not_known_is_named(self, store: Store) -> None:
        """With the command that shows what is kept."""
        with pytest.raises(NotFound, match="evidence 'ev-9' is not known; `fireline evidence list` shows what is kept"):
            store.run_now(lambda tx: tx.evidence("ev-9"))

    async def test_a_chunk_has_the_place_that_it_was_last_given(self, store: Store) -> None:
        """Within one call and over several; what is not kept is left out; a pack stays known without its chunks."""
        first = [ChunkPlace(f"{i:064x}", "pack-1", i * 10, 7, 10) for i in range(1200)]
        lone = ChunkPlace("f" * 64, "pack-3", 0, 1, 1)
        moved = replace(first[0], pack="pack-2")
        await StoredChunks(store).add([*first, lone, replace(first[5], offset=99)])
        await StoredChunks(store).add([moved, replace(lone, pack="pack-2")])

        found = await StoredChunks(store).places([*(p.sha256 for p in first), "f" * 64, "e" * 64])

        assert found == {
            **{p.sha256: p for p in first},
            first[0].sha256: moved,
            first[5].sha256: replace(first[5], offset=99),
            lone.sha256: replace(lone, pack="pack-2"),
        }
        assert await StoredChunks(store).packs() == {"pack-1", "pack-2", "pack-3"}

    async def test_no_chunks_are_no_work(self, store: Store) -> None:
        """An empty question has an empty answer."""
        await StoredChunks(store).add([])

        assert await StoredChunks(store).places([]) == {}


class TestJournal:
    """The journal's verbs."""

    def test_lines_are_numbered_and_chained(self, store: Store) -> None:
        """Over transactions and within one; the head is the last."""
        assert store.run_now(lambda tx: tx.head()) == (0, "0" * 64)
        first = store.run_now(lambda tx: tx.append(_entry("a"), _entry("b")))
        second = store.run_now(lambda tx: (*tx.append(_entry("c")), *tx.append(_entry("d"))))

        lines = (*first, *second)
        assert [line.seq for line in lines] == [1, 2, 3, 4]
        assert store.run_now(lambda tx: tx.lines()) == lines
        assert store.run_now(lambda tx: tx.head()) == (4, second[-1].hash)
        assert store.verify_now().problems == ()

    def test_lines_are_read_by_number_incident_and_count(self, store: Store) -> None:
        """In order."""
        store.run_now(lambda tx: tx.append(*(_entry(f"{i}", "INC-1" if i % 2 else "INC-2") for i in range(1, 7))))

        assert [x.seq for x in store.run_now(lambda tx: tx.lines(3))] == [3, 4, 5, 6]
        assert [x.seq for x in store.run_now(lambda tx: tx.lines(2, "INC-1"))] == [3, 5]
        assert [x.seq for x in store.run_now(lambda tx: tx.lines(2, limit=2))] == [2, 3]

    def test_work_that_fails_leaves_no_line(self, store: Store) -> None:
        """The next line has the number that the lost one would have had."""

        def fails(tx: Transaction) -> None:
            tx.append(_entry("lost"))
            raise PolicyError("no", reason="invalid_request")

        with pytest.raises(PolicyError, match="no"):
            store.run_now(fails)

        assert store.run_now(lambda tx: tx.append(_entry("kept")))[0].seq == 1

    def test_an_entry_that_is_no_line_is_refused_and_nothing_is_kept(self, store: Store) -> None:
        """The lines before it in the same call are not kept either."""
        with pytest.raises(ValueError, match=r"data\.load is nan"):
            store.run_now(lambda tx: tx.append(_entry(), replace(_entry(), data={"load": float("nan")})))

        assert store.run_now(lambda tx: tx.head()) == (0, "0" * 64)

    def test_a_checkpoint_is_signed_every_64_lines_and_when_asked_for(self, store: Store) -> None:
        """At the commit, over the last line of the transaction; asked twice for the same line, once."""
        store.run_now(lambda tx: tx.append(*[_entry()] * 63))
        assert store.run_now(lambda tx: tx.checkpoints()) == ()

        store.run_now(lambda tx: tx.append(_entry(), _entry()))
        store.run_now(lambda tx: tx.append(_entry()))
        store.run_now(lambda tx: tx.checkpoint())
        store.run_now(lambda tx: tx.checkpoint())

        assert [c.seq for c in store.run_now(lambda tx: tx.checkpoints())] == [65, 66]
        report = store.verify_now()
        assert (report.problems, report.lines, report.checkpoints) == ((), 66, 2)

    def test_nothing_is_signed_before_the_first_line(self, store: Store) -> None:
        """A checkpoint of nothing is none."""
        store.run_now(lambda tx: tx.checkpoint())

        assert store.run_now(lambda tx: tx.checkpoints()) == ()

    async def test_a_reader_sees_a_snapshot_and_holds_up_nobody(self, store: Store) -> None:
        """A long look at the journal does not make a writer wait, and sees no line that came after it began."""

        def look(tx: Transaction) -> list[int]:
            before = tx.head()[0]
            store.run_now(lambda writing: writing.append(_entry()))
            return [before, tx.head()[0]]

        assert await store.read(look) == [0, 0]
        assert await store.read(lambda tx: tx.head()[0]) == 1

    async def test_a_reader_can_not_write(self, store: Store) -> None:
        """Reading work that writes by mistake is refused by the database itself."""
        with pytest.raises(StoreError, match=r"read-?only"):
            await store.read(lambda tx: tx.put_host(HOST))

        assert await store.read(lambda tx: tx.hosts()) == ()
        await store.run(lambda tx: tx.put_host(HOST))


@pytest.mark.parametrize("text", [*ODD_TEXTS, "nul\0", "\udc80 no UTF-8"])
def test_untrusted_text_is_kept_whatever_is_in_it(store: Store, text: str) -> None:
    """Names, reasons and titles come from people and hosts; what a database can't hold becomes its escape."""
    shown = text.replace("\0", "\\x00").replace("\udc80", "\\udc80")

    incident = store.run_now(lambda tx: tx.new_incident(Severity.P1, text, text, text, NOW))
    operation = replace(OPERATION, reason=text, operator=text)
    store.run_now(lambda tx: tx.put_operation(operation))
    store.run_now(lambda tx: tx.put_host(replace(HOST, labels={"note": text})))
    store.run_now(lambda tx: tx.append(replace(_entry(text, incident_id=text), actor=text, data={"said": [text]})))

    assert store.run_now(lambda tx: tx.incident(incident.id)) == incident
    assert incident.title == shown
    assert store.run_now(lambda tx: tx.operation("op-1")).reason == shown
    assert store.run_now(lambda tx: tx.host("web-1")).labels == {"note": text}
    assert store.verify_now().problems == ()


async def test_work_is_done_in_the_order_in_which_it_is_handed_in(store: Store) -> None:
    """And without blocking the event loop."""
    lines = await asyncio.gather(*(store.run(partial(_append, summary=f"{i}")) for i in range(20)))

    assert [(line.seq, line.entry.summary) for line in lines] == [(i + 1, f"{i}") for i in range(20)]
    assert (await store.verify()).problems == ()


async def test_works_that_share_a_commit_fail_each_for_itself(store: Store) -> None:
    """What one of them journaled and then raised is undone alone; the others are kept without a gap."""

    def fails(tx: Transaction) -> Line:
        _append(tx, summary="lost")
        raise PolicyError("no", reason="invalid_request")

    def is_refused_by_the_database(tx: Transaction) -> Line:
        _append(tx, summary="lost")
        tx._connection.exec_driver_sql("SELECT nothing FROM nowhere")
        raise AssertionError

    works = [partial(_append, summary=f"{i}") for i in range(4)]
    ended = await asyncio.gather(*(store.run(w) for w in (works[0], works[1], fails, works[2])), return_exceptions=True)
    broken = await asyncio.gather(
        *(store.run(w) for w in (fails, is_refused_by_the_database, works[3])), return_exceptions=True
    )

    assert [str(e) for e in (*ended, *broken) if isinstance(e, PolicyError)] == ["no", "no"]
    assert isinstance(broken[1], StoreError)
    kept = store.run_now(lambda tx: tx.lines())
    assert [(line.seq, line.entry.summary) for line in kept] == [(i + 1, f"{i}") for i in range(4)]
    assert [*ended[:2], ended[3], broken[2]] == list(kept)
    assert store.verify_now().problems == ()


async def test_work_that_was_handed_in_is_done_though_its_caller_is_gone(store: Store) -> None:
    """A record is not lost because an operator pressed Ctrl-C."""
    callers = [asyncio.ensure_future(store.run(partial(_append, summary=f"{i}"))) for i in range(5)]
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)

    assert (await store.run(lambda tx: tx.append(_entry("last"))))[0].seq == 6


class TestAgreement:
    """Requests for approval, and who is an operator."""

    def test_a_request_comes_back_as_it_was_put(self, store: Store) -> None:
        """Demands, votes with their times, parameters."""
        store.run_now(lambda tx: tx.put_approval(APPROVAL))

        assert store.run_now(lambda tx: tx.approval("apr-1")) == APPROVAL
        with pytest.raises(NotFound, match="request 'apr-2' is not known; `fireline approval list` shows those that"):
            store.run_now(lambda tx: tx.approval("apr-2"))

    def test_the_newest_request_for_the_same_is_found(self, store: Store) -> None:
        """By what it is for and who asked; another's, and another thing's, are not it."""
        newer = replace(APPROVAL, id="apr-2", asked_at=NOW + timedelta(hours=1))
        others = (replace(newer, id="apr-3", requester="bob"), replace(newer, id="apr-4", digest="0e" * 32))
        store.run_now(_putting(Transaction.put_approval, (newer, APPROVAL, *others)))

        assert store.run_now(lambda tx: tx.newest_approval(APPROVAL.digest, "alice")) == newer
        assert store.run_now(lambda tx: tx.newest_approval(APPROVAL.digest, "dave")) is None
        assert [a.id for a in store.run_now(lambda tx: tx.approvals())] == ["apr-4", "apr-3", "apr-2", "apr-1"]

    def test_a_request_is_spent_once(self, store: Store) -> None:
        """And not at all once its time is over, or it was denied."""
        late, denied = replace(APPROVAL, id="apr-2"), replace(APPROVAL, id="apr-3", ended="denied")
        store.run_now(_putting(Transaction.put_approval, (APPROVAL, late, denied)))

        spent = store.run_now(lambda tx: tx.spend_approval("apr-1", "op-1", NOW))
        again = store.run_now(lambda tx: tx.spend_approval("apr-1", "op-2", NOW))

        assert spent == replace(APPROVAL, ended="spent", used_by="op-1")
        assert (again, store.run_now(lambda tx: tx.approval("apr-1"))) == (None, spent)
        assert store.run_now(lambda tx: tx.spend_approval("apr-2", "op-3", APPROVAL.expires_at)) is None
        assert store.run_now(lambda tx: tx.spend_approval("apr-3", "op-4", NOW)) is None

    async def test_of_many_commands_at_once_one_spends_it(self, open_store: Callable[[], Store]) -> None:
        """Also when they are of several programs."""
        stores = [open_store() for _ in range(3)]
        stores[0].run_now(lambda tx: tx.put_approval(APPROVAL))

        spent = await asyncio.gather(
            *(s.run(partial(Transaction.spend_approval, approval_id="apr-1", used_by=f"op-{n}", now=NOW))
              for n, s in enumerate(stores * 4))
        )  # fmt: skip

        assert len([one for one in spent if one is not None]) == 1

    def test_what_an_operator_did_alone(self, store: Store) -> None:
        """The hosts of operations of a kind since a time, without those that others approved."""
        later = NOW + timedelta(minutes=1)
        alone = replace(OPERATION, kind="isolate", target=Target(("web-1",), "", "", ""), started_at=later)
        approved = replace(alone, id="op-2", target=Target(("web-2",), "", "", ""))
        others = (replace(approved, id="op-3", operator="bob"), replace(approved, id="op-4", kind="release"))
        old = replace(approved, id="op-5", started_at=NOW)
        store.run_now(_putting(Transaction.put_operation, (alone, approved, *others, old)))
        store.run_now(lambda tx: tx.put_approval(replace(APPROVAL, used_by="op-2")))

        assert store.run_now(lambda tx: tx.addressed_alone("isolate", "alice", NOW)) == {"web-1": later}

    def test_operators_are_found_by_their_certificates(self, store: Store) -> None:
        """Not hosts, not the revoked."""
        operator = replace(CERTIFICATE, serial="0b", identity="spiffe://fireline/operator/bob")
        removed = replace(CERTIFICATE, serial="0c", identity="spiffe://fireline/operator/carol")
        store.run_now(_putting(Transaction.put_certificate, (CERTIFICATE, operator, removed)))
        store.run_now(lambda tx: tx.revoke("0c", NOW))

        assert store.run_now(lambda tx: tx.operator_certificates()) == (operator,)


class TestIsolations:
    """What was ordered for which host."""

    def test_an_isolation_comes_back_as_it_was_put(self, store: Store) -> None:
        """Addresses, places and times too."""
        store.run_now(lambda tx: tx.put_isolation(ISOLATION))

        assert store.read_now(lambda tx: tx.isolation("op-1.web-1")) == ISOLATION

    def test_an_isolation_that_is_put_again_has_moved_on(self, store: Store) -> None:
        """One row for each order."""
        done = replace(ISOLATION, phase=Phase.COMMITTED, committed_at=NOW)
        store.run_now(lambda tx: tx.put_isolation(ISOLATION))
        store.run_now(lambda tx: tx.put_isolation(done))

        assert store.read_now(lambda tx: tx.isolations(set(Phase))) == (done,)

    def test_isolations_are_found_by_phase_and_host_in_their_order(self, store: Store) -> None:
        """Those that may be in force, of all or of one."""
        later = replace(ISOLATION, order_id="op-0.web-2", host="web-2", ordered_at=NOW + timedelta(seconds=1))
        ended = replace(ISOLATION, order_id="op-2.web-1", phase=Phase.RELEASED)
        for one in (later, ended, ISOLATION):
            store.run_now(lambda tx, one=one: tx.put_isolation(one))  # type: ignore[misc]  # a default

        assert store.read_now(lambda tx: tx.isolations(IN_FORCE)) == (ISOLATION, later)
        assert store.read_now(lambda tx: tx.isolations(IN_FORCE, "web-2")) == (later,)
        assert store.read_now(lambda tx: tx.isolations({Phase.PENDING})) == ()

    def test_an_isolation_that_is_not_known_is_named(self, store: Store) -> None:
        """With where to look."""
        with pytest.raises(NotFound, match="isolation 'op-9' is not known; `fireline isolation status` shows"):
            store.read_now(lambda tx: tx.isolation("op-9"))
