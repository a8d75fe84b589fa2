"""Two persons for one command, through a whole controller: asked, approved, spent, denied, expired, broken."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from fireline_controller import pki
from fireline_controller.engine import Engine, IsolationWish, News, Started, TargetSpec, Wish
from fireline_controller.model import ConfigError, Entry, Outcome, PolicyError
from fireline_controller.store import Transaction
from fireline_wire import chain
from fireline_wire.isolation import Opening, Scope
from tests.fakes.desk import Desk, desk, now, outcomes

BOTH = Wish("alice", TargetSpec(("db1", "web1")), reason="drill")
SETTINGS = """
[isolation]
controllers = ["198.18.0.254"]
lease_s = 5
look_s = 0.05
"""
ONE_MORE = '[[rules]]\nactions = ["isolate", "operator"]\nabove = 1\n'
GLASS = ONE_MORE + "break_glass = true\n"


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Desk]:
    """A controller with two hosts and a witness; alice, bob and carol are operators. Both hosts need two persons."""
    async with desk(tmp_path / "state", SETTINGS) as made:
        for name in ("db1", "web1", "web2"):
            await made.enrol(name)
        for name in ("bob", "carol"):
            await added(made.engine, name)
        policy(made, ONE_MORE)
        yield made


def policy(made: Desk, text: str) -> None:
    """Put this policy in force."""
    (made.opened.folder / "policy.toml").write_text(text)


async def added(engine: Engine, name: str) -> None:
    """A further operator."""
    _, signing_request = pki.new_request()
    await engine.operators.add(name, signing_request, Wish("alice", TargetSpec()))


async def isolated(made: Desk, wish: Wish = BOTH, *, scope: str = "host", allow: str = "") -> Sequence[News]:
    """Isolate the hosts; what was told."""
    how = IsolationWish(
        scope=Scope.parse(scope), allowances=(Opening.parse(allow),) if allow else (), now=True, hold_s=0
    )
    return [news async for news in made.engine.isolations.isolate(wish, how)]


async def asked(made: Desk, wish: Wish = BOTH, **parameters: str) -> str:
    """The id of the request that the command makes, or waits for."""
    with pytest.raises(PolicyError) as refused:
        await isolated(made, wish, **parameters)
    assert refused.value.reason == "approval_required", refused.value
    return str(refused.value).partition("fireline approval approve ")[2].partition(";")[0]


async def journaled(made: Desk, *kinds: str) -> list[Entry]:
    """The journal's entries of these kinds."""
    lines = await made.store.read(lambda tx: tx.lines())
    return [line.entry for line in lines if line.entry.kind in kinds]


async def decided(made: Desk, request: str, by: str, *, approves: bool = True, reason: str = "") -> None:
    """An operator's word."""
    await made.engine.approvals.decide(request, operator=by, approves=approves, reason=reason)


async def expired(made: Desk, request: str) -> None:
    """Wait until its time is over."""
    async with asyncio.timeout(10):
        while True:
            if made.engine.approvals.standing(await made.engine.approvals.show(request)) == "expired":
                return
            await asyncio.sleep(0.05)


async def test_a_command_that_needs_approval_says_all_that_is_to_be_done_next(two: Desk) -> None:
    """The request, how many approvals by whom, until when, and the command; nothing is on record as an operation."""
    with pytest.raises(PolicyError) as refused:
        await isolated(two)

    (request,) = await two.engine.approvals.newest(10)
    assert str(refused.value) == (
        "isolate db1,web1 (host): needs 1 approval by any other operator until"
        f" {request.expires_at:%Y-%m-%d %H:%M:%S} UTC: fireline approval approve {request.id};"
        " then repeat the same command"
    )
    assert await two.operations() == ()


async def test_an_approved_command_passes_once(two: Desk) -> None:
    """The same command spends the approval, in the transaction of its intent; the next one asks anew."""
    request = await asked(two)
    await decided(two, request, "bob")

    told = await isolated(two)

    assert {host: o.outcome for host, o in outcomes(told).items()} == {"db1": Outcome.OK, "web1": Outcome.OK}
    (operation,) = await two.operations()
    spent = await two.engine.approvals.show(request)
    assert isinstance(told[0], Started)
    assert (spent.ended, spent.used_by) == ("spent", operation.id)
    lines = [line.entry for line in await two.store.read(lambda tx: tx.lines())]
    kinds = [entry.kind for entry in lines]
    intent = kinds.index("isolate.ordered")
    assert kinds[intent - 2 : intent + 2] == [
        "approval.asked",
        "approval.approved",
        "isolate.ordered",
        "approval.spent",
    ]
    assert lines[intent + 1].operation_id == operation.id
    assert await asked(two) != request
    assert await two.problems() == []


@pytest.mark.parametrize(
    ("wish", "parameters"),
    [
        (replace(BOTH, operator="carol"), {}),
        (BOTH, {"scope": "container:web"}),
        (BOTH, {"allow": "198.18.0.9:22/tcp"}),
    ],
)
async def test_an_approval_is_for_one_command_of_one_operator(
    two: Desk, wish: Wish, parameters: dict[str, str]
) -> None:
    """Another requester, another scope or one more allowance needs a request of its own."""
    request = await asked(two)
    await decided(two, request, "bob")

    assert await asked(two, wish, **parameters) != request


async def test_an_approval_is_for_these_hosts(two: Desk) -> None:
    """One host that has joined since makes it another command."""
    wish = replace(BOTH, target=TargetSpec(("db1", "web*")))
    request = await asked(two, wish)
    await decided(two, request, "bob")
    await two.enrol("web3")

    assert await asked(two, wish) != request


async def test_asking_twice_makes_one_request(two: Desk) -> None:
    """Who waits and repeats the command finds the request that is there."""
    assert await asked(two) == await asked(two)
    assert len(await journaled(two, "approval.asked")) == 1


async def test_an_operator_can_not_approve_the_own_request(two: Desk) -> None:
    """Nor can anybody who is none, nor twice."""
    request = await asked(two)

    with pytest.raises(PolicyError, match=f"{request}: alice asked for it: somebody else must decide"):
        await decided(two, request, "alice")
    with pytest.raises(PolicyError, match="mallory has no say in it: it needs 1 approval by any other operator"):
        await decided(two, request, "mallory")
    await decided(two, request, "bob")
    with pytest.raises(PolicyError, match="bob has approved it already"):
        await decided(two, request, "bob")


async def test_two_must_be_two(two: Desk) -> None:
    """With one of two approvals it is said whose is there."""
    policy(two, '[[rules]]\nactions = ["isolate"]\napprovals = 2\n')
    request = await asked(two)
    await decided(two, request, "bob")

    with pytest.raises(PolicyError, match=r"needs 2 approvals by any other operator \(so far: bob\) until"):
        await isolated(two)
    await decided(two, request, "carol")
    assert isinstance((await isolated(two))[0], Started)


async def test_a_removed_operators_approval_does_not_count(two: Desk) -> None:
    """What was approved and not used before the removal is as if it had not been said."""
    request = await asked(two)
    await decided(two, request, "bob")
    policy(two, '[[rules]]\nactions = ["isolate"]\n')
    await two.engine.operators.remove("bob", Wish("alice", TargetSpec(), reason="left"))

    assert await asked(two) == request


async def test_a_denial_ends_it(two: Desk) -> None:
    """The requester hears by whom and why, and can't ask again at once."""
    request = await asked(two)
    await decided(two, request, "bob", approves=False, reason="the database restores")

    with pytest.raises(PolicyError, match=rf"bob denied it \({request}\): the database restores; it can't be") as no:
        await isolated(two)

    assert no.value.reason == "policy_denied"
    assert [e.data["reason"] for e in await journaled(two, "approval.denied")] == ["the database restores"]


async def test_a_request_that_expired_unused_is_on_record_once(two: Desk) -> None:
    """By whoever finds it; the command asks anew."""
    policy(two, '[[rules]]\nactions = ["isolate"]\nexpires = "1s"\n')
    request = await asked(two)
    await expired(two, request)

    with pytest.raises(PolicyError, match="it is expired since"):
        await decided(two, request, "carol")
    assert await asked(two) != request
    assert [e.data["approval"] for e in await journaled(two, "approval.expired")] == [request]


async def test_of_two_commands_at_once_one_spends_the_approval(two: Desk) -> None:
    """One approval never serves two operations."""
    await decided(two, await asked(two), "bob")

    ends = await asyncio.gather(isolated(two), isolated(two), return_exceptions=True)

    assert len([end for end in ends if isinstance(end, PolicyError)]) == 1
    assert len(await two.operations()) == 1


async def test_a_plan_says_which_approval_it_would_need(two: Desk) -> None:
    """And asks nobody."""
    spec, how = BOTH.target, IsolationWish(now=True)

    plan = await two.engine.isolations.plan(spec, how, operator="alice")
    one = await two.engine.isolations.plan(TargetSpec(("db1",)), how, operator="alice")

    assert (plan.approval, one.approval) == ("needs 1 approval by any other operator", "")
    assert await two.engine.approvals.newest(1) == ()
    await decided(two, await asked(two), "bob")
    assert (await two.engine.isolations.plan(spec, how, operator="alice")).approval == ""


async def test_small_commands_add_up(two: Desk) -> None:
    """One host alone, and then one more: together they are more than the rule lets one operator do."""
    await isolated(two, replace(BOTH, target=TargetSpec(("db1",))))

    with pytest.raises(PolicyError, match=r"isolate web1 \(host\) \(with what you did alone before: db1\): needs 1"):
        await isolated(two, replace(BOTH, target=TargetSpec(("web1",))))
    (request,) = await two.engine.approvals.newest(1)
    await decided(two, request.id, "bob")
    await isolated(two, replace(BOTH, target=TargetSpec(("web1",))))
    bobs = await isolated(two, replace(BOTH, operator="bob", target=TargetSpec(("web2",))))

    assert isinstance(bobs[0], Started)


async def test_small_commands_at_once_add_up_too(two: Desk) -> None:
    """Each is below the rule's number when it asks; only one gets on record."""
    each = [replace(BOTH, target=TargetSpec((name,))) for name in ("db1", "web1", "web2")]

    ends = await asyncio.gather(*(isolated(two, wish) for wish in each), return_exceptions=True)

    assert [e.reason for e in ends if isinstance(e, PolicyError)] == ["approval_required"] * 2
    assert len(await two.operations()) == 1


async def test_a_rule_that_was_tightened_asks_anew(two: Desk) -> None:
    """Who must agree now decides, not who had to when it was asked."""
    request = await asked(two)
    policy(two, '[[rules]]\nactions = ["isolate"]\noperators = ["carol"]\n')

    tightened = await asked(two)

    assert tightened != request
    await decided(two, tightened, "carol")
    assert isinstance((await isolated(two))[0], Started)


async def test_broken_glass_is_loud(two: Desk) -> None:
    """The command passes at once; the warning leads the news, and the journal has a kind of line for it."""
    policy(two, GLASS)

    told = await isolated(two, replace(BOTH, break_glass="nobody answers the phone"))

    assert isinstance(told[0], Started)
    assert told[0].warning == (
        "glass broken by alice: isolate db1,web1 (host), against the policy (1 approval by any other operator):"
        " nobody answers the phone"
    )
    (line,) = await journaled(two, "policy.broken_glass")
    assert (line.operation_id, line.actor, line.summary) == (told[0].operation_id, "alice", told[0].warning)


async def test_glass_that_the_policy_does_not_have_can_not_be_broken(two: Desk) -> None:
    """The reason changes nothing, and no request is made."""
    with pytest.raises(PolicyError, match="the policy does not allow to break the glass here: 1 approval by any"):
        await isolated(two, replace(BOTH, break_glass="hurry"))

    assert await two.engine.approvals.newest(10) == ()


async def test_no_glass_is_broken_where_nothing_needs_approval(two: Desk) -> None:
    """One host is below the rule's number: the reason is not used, and nothing is loud."""
    told = await isolated(two, replace(BOTH, target=TargetSpec(("db1",)), break_glass="hurry"))

    assert isinstance(told[0], Started)
    assert told[0].warning == ""
    assert await journaled(two, "policy.broken_glass") == []


async def test_a_policy_with_a_mistake_lets_nothing_pass(two: Desk) -> None:
    """Not even what no rule binds: which one does can't be told."""
    policy(two, "[[rules]]\nactions = ['isolat']\n")

    with pytest.raises(ConfigError, match=r"policy.toml: rules\[1\].actions: there is no action 'isolat'; did you me"):
        await isolated(two, replace(BOTH, target=TargetSpec(("db1",))))


async def test_adding_an_operator_can_need_two_persons_too(two: Desk) -> None:
    """Else whoever needs a second person could make one."""
    with pytest.raises(PolicyError, match="add operator mallory: needs 1 approval by any other operator"):
        await added(two.engine, "mallory")
    (request,) = await two.engine.approvals.newest(1)
    await decided(two, request.id, "carol")

    await added(two.engine, "mallory")

    assert [o.name for o in await two.engine.operators.all()] == ["alice", "bob", "carol", "mallory"]
    assert (await two.engine.approvals.show(request.id)).used_by == "operator add mallory"


async def test_letting_back_can_need_two_persons_too(two: Desk) -> None:
    """An intruder with one operator's key can't undo an isolation."""
    policy(two, '[[rules]]\nactions = ["release"]\n')
    await isolated(two)

    with pytest.raises(PolicyError, match="release db1,web1: needs 1 approval by any other operator until"):
        [_ async for _ in two.engine.isolations.release(BOTH)]
    (request,) = await two.engine.approvals.newest(1)
    await decided(two, request.id, "bob")
    back = outcomes([news async for news in two.engine.isolations.release(BOTH)])

    assert {host: o.outcome for host, o in back.items()} == {"db1": Outcome.OK, "web1": Outcome.OK}


async def test_the_code_for_the_console_is_a_release(two: Desk) -> None:
    """Who may not let a host back alone does not get the code that does it either; a glass can be broken."""
    policy(two, '[[rules]]\nactions = ["release"]\nbreak_glass = true\n')
    await isolated(two)

    with pytest.raises(PolicyError, match="show the code that lets web1 back: needs 1 approval by any other operator"):
        await two.engine.isolations.codes("web1", BOTH)
    codes, warning = await two.engine.isolations.codes("web1", replace(BOTH, break_glass="nobody answers"))

    assert len(codes) == 1
    assert warning.startswith("glass broken by alice: show the code that lets web1 back, against the policy")


async def test_labels_can_not_be_changed_to_get_around_a_rule(two: Desk) -> None:
    """Where a rule selects by label, changing it, or removing the host, needs two persons too."""
    policy(two, '[[rules]]\nactions = ["isolate", "fleet"]\ntarget = "env!=dev"\n')
    db1, *_ = await two.engine.hosts.all()

    with pytest.raises(PolicyError, match="label db1: needs 1 approval by any other operator"):
        await two.engine.hosts.label([db1], put={"env": "dev"}, drop=(), operator="alice", reason="")
    with pytest.raises(PolicyError, match="remove host db1: needs 1 approval by any other operator"):
        await two.engine.hosts.remove("db1", operator="alice", reason="")
    _, labels = await two.engine.approvals.newest(2)
    await decided(two, labels.id, "bob")
    await two.engine.hosts.label([db1], put={"env": "dev"}, drop=(), operator="alice", reason="")

    assert (await two.engine.approvals.show(labels.id)).used_by == "label db1"
    assert (await two.engine.hosts.get("db1")).labels == {"env": "dev"}


async def test_a_controller_that_was_killed_remembers_what_was_approved(two: Desk) -> None:
    """Requests are in the store: another process lets the command pass."""
    await decided(two, await asked(two), "bob")

    async with desk(two.opened.folder) as again:
        for name in ("db1", "web1", "web2"):
            await again.enrol(name)
        assert isinstance((await isolated(again))[0], Started)


async def test_an_operators_certificate_is_renewed_before_it_ends(two: Desk) -> None:
    """Where its key is in the state folder, for that very key; not a removed operator's, nor what is no certificate."""
    keys = pki.OperatorKeys(two.authority.folder)
    for name in ("dave", "erin"):
        key, signing_request = pki.new_request()
        old = two.authority.issue_operator(signing_request, name=name, now=now() - timedelta(days=70))
        await two.store.run(partial(Transaction.put_certificate, certificate=old))
        keys.keep(name, key, two.authority.chain_of(old))
    await two.store.run(lambda tx: tx.revoke(old.serial, now()))
    before = chain.certificates(keys.chain("dave"))[0]
    keys.keep("frank", b"", b"garbage")
    keys.keep("grace", key, two.authority.chain_of(old))

    assert await two.engine.operators.renew_due() == ["dave"]
    assert await two.engine.operators.renew_due() == []

    after = chain.certificates(keys.chain("dave"))[0]
    assert chain.public_key_of(after) == chain.public_key_of(before)
    assert after.not_valid_after_utc > now() + timedelta(days=80)
    (dave,) = [o for o in await two.engine.operators.all() if o.name == "dave"]
    assert dave.serial == chain.serial_hex(after)


async def test_a_handed_over_key_that_expired_can_be_replaced(two: Desk) -> None:
    """The name is free again once nothing of it is valid any more."""
    policy(two, "")
    _, signing_request = pki.new_request()
    old = two.authority.issue_operator(signing_request, name="dave", now=now() - timedelta(days=91))
    await two.store.run(lambda tx: tx.put_certificate(old))

    await added(two.engine, "dave")

    (dave,) = [o for o in await two.engine.operators.all() if o.name == "dave"]
    assert dave.not_after is not None
    assert dave.not_after > now() + timedelta(days=80)


async def test_another_controller_on_the_same_record_follows_a_removal(two: Desk) -> None:
    """Its deny-list is the record's at its next round of upkeep."""
    told: list[Collection[str]] = []
    beside = Engine(
        store=two.store, vault=two.vault, fleet=two.fleet, authority=lambda: two.authority,
        settings=two.opened.settings, folder=two.opened.folder, now=now,
        on_denied=lambda version, serials: told.append(serials),
    )  # fmt: skip
    policy(two, "")
    removed = await two.engine.operators.remove("bob", Wish("alice", TargetSpec(), reason="left"))

    await beside.operators.enforce_denied()

    assert told == [frozenset(removed.serials)]
