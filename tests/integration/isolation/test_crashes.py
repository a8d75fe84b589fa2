"""I6: whatever step a process dies after, the next one finds a proved isolation or the exact former state.

The steps are real, on a real kernel, in a namespace of the test's own; the death is an exception that nothing catches.
"""

import base64
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fireline_agent.hands import namespaces, nft
from fireline_agent.hands.nft import Nft
from fireline_agent.isolation import capability, facts, upkeep
from fireline_agent.isolation.hostnet import HostNet
from fireline_agent.isolation.keeper import Caller, Keeper
from fireline_agent.isolation.model import Capability, Phase
from fireline_agent.isolation.orders import Orders, Signed
from fireline_agent.isolation.records import Record, Records
from fireline_agent.isolation.releasing import release
from fireline_wire.isolation import IsolationOrder, Scope
from tests.integration.conftest import need
from tests.lab import NETNS, default_backend

pytestmark = pytest.mark.netns

_STEPS = 60  # more than a whole life has


class Death(BaseException):
    """The process ends here."""


class Counter:
    """Counts what changes disk or kernel, and dies after a number of it."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.done: list[str] = []

    def step(self, what: str, work: Callable[[], Any]) -> Any:
        """Do it, and die where it was the last."""
        result = work()
        self.done.append(what)
        self.left -= 1
        if self.left == 0:
            raise Death(what)
        return result


class MortalRecords(Records):
    """Dies after a write."""

    def __init__(self, folder: Path, orders: Orders, counter: Counter) -> None:
        super().__init__(folder, orders)
        self._counter = counter

    def keep(self, record: Record) -> None:
        """Write, then count."""
        self._counter.step(f"kept {record.phase}", lambda: super(MortalRecords, self).keep(record))

    def forget(self, name: str) -> None:
        """Forget, then count."""
        self._counter.step("forgotten", lambda: super(MortalRecords, self).forget(name))

    def raise_fence(self, token: int) -> None:
        """Write, then count."""
        self._counter.step("fenced", lambda: super(MortalRecords, self).raise_fence(token))


class MortalNft(Nft):
    """Dies after a transaction."""

    counter = Counter(0)

    def apply(self, transaction: str) -> None:
        """Apply, then count."""
        self.counter.step("applied", lambda: super(MortalNft, self).apply(transaction))


class PlainOrders(Orders):
    """Believes every order: signatures are another test's."""

    def _ask(self, signed: Signed, *, is_kept: bool) -> IsolationOrder:
        return IsolationOrder.parse(base64.b64decode(signed.envelope))


@pytest.fixture
def _namespace() -> Iterator[None]:
    """A network namespace with a link and a rule of somebody else's."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    with namespaces.throw_away():
        subprocess.run(["ip", "link", "add", "flt0", "type", "veth", "peer", "name", "flt1"], check=True)
        subprocess.run(["nft", "add", "table", "inet", "theirs"], check=True)
        yield


def keeper(folder: Path, counter: Counter) -> Keeper:
    """A process's view of the disk and of the kernel."""
    found = nft.find()
    assert found is not None
    program = MortalNft(found.path)
    object.__setattr__(program, "counter", counter)  # frozen, as the real one
    orders = PlainOrders(folder)
    host = HostNet(program, facts.identity(7700), Capability(has_cgroup=False))
    records = MortalRecords(folder / "isolation", orders, counter)
    return Keeper(records, orders, host, {}, now=lambda: datetime.now(UTC))


def order(number: int, token: int) -> Signed:
    """An order of the whole host."""
    made = IsolationOrder(
        order_id=f"crash-{number}",
        host="web-1",
        scope=Scope("host"),
        controllers=("198.18.0.254",),
        lease_s=60,
        fence_token=token,
        issued_at="2026-01-01T00:00:00+00:00",
        code_sha256="0" * 64,
    )
    return Signed(base64.b64encode(made.to_bytes()), b"")


def whole_life(life: Keeper, signed: Signed) -> None:
    """Armed, confirmed, committed, released."""
    caller = Caller("ipv4:198.18.0.254:1", "198.18.0.254")
    order_id = life.orders.opened(signed).order_id
    armed = life.arm(signed, caller, started_ns=0)
    life.confirm(order_id, armed.nonce, Caller("ipv4:198.18.0.254:2", "198.18.0.254"))
    life.commit(order_id)
    release(life, order_id, fence_token=life.orders.opened(signed).fence_token + 1)


@contextmanager
def dying() -> Iterator[None]:
    """A process that may die."""
    with suppress(Death):
        yield


def tables() -> list[str]:
    """The tables of this namespace."""
    listed = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if "theirs" not in line]


def lift_leases() -> None:
    """As time does: the lease of whatever is armed runs out."""
    for line in tables():
        _, family, name = line.split()
        listed = subprocess.run(
            ["nft", "list", "set", family, name, "armed"], check=True, capture_output=True, text=True
        ).stdout
        if "expires" in listed:
            subprocess.run(["nft", "flush", "set", family, name, "armed"], check=True)


@pytest.mark.usefixtures("_namespace")
@pytest.mark.parametrize("power", ["kept", "cut"])
def test_a_death_after_any_step_leaves_one_thing_or_the_other(tmp_path: Path, power: str) -> None:
    """Killed after each write and each transaction in turn; with `cut` the rules are gone with the power."""
    seen = set()
    for after in range(1, _STEPS):
        folder = tmp_path / str(after)
        counter = Counter(after)
        with dying():
            whole_life(keeper(folder, counter), order(after, 2 * after))
        if power == "cut":
            subprocess.run(["nft", "flush", "ruleset"], check=True)
            subprocess.run(["nft", "add", "table", "inet", "theirs"], check=True)
        lift_leases()
        after_it = keeper(folder, Counter(0))
        upkeep.Upkeep(after_it, lambda _: None).recover()
        standing, _ = after_it.status()
        seen.add(tuple(s.phase for s in standing))

        if standing:
            assert [(s.phase, s.is_in_force, s.lease_left_ms) for s in standing] == [(Phase.COMMITTED, True, 0)]
            assert len(tables()) == 3
            assert release(after_it, "", fence_token=10_000).order_ids == (f"crash-{after}",)
        assert tables() == [], (after, counter.done)
        if counter.left > 0:
            break
    assert counter.left > 0, counter.done
    assert seen == {(), (Phase.COMMITTED,)}


@pytest.mark.usefixtures("_namespace")
def test_an_nft_that_dies_half_way_leaves_nothing(tmp_path: Path) -> None:
    """Its transaction went through and it said no: what it did is taken away, and the refusal says so."""
    program = tmp_path / "nft"
    found = nft.find()
    assert found is not None
    program.write_text(f'#!/bin/bash\n{found.path} "$@" || exit\n[[ $1 != -f || -e {tmp_path}/late ]] || '
                       f"{{ touch {tmp_path}/late; echo out of luck >&2; exit 1; }}\n")  # fmt: skip
    program.chmod(0o755)
    life = keeper(tmp_path, Counter(0))
    life.host = HostNet(Nft(program), facts.identity(7700), Capability(has_cgroup=False))

    with pytest.raises(Exception, match=r"nothing was changed: .*out of luck"):
        whole_life(life, order(1, 1))
    assert (tables(), life.status()) == ([], ([], []))


@pytest.mark.usefixtures("_namespace")
def test_ten_thousand_rules_are_no_hindrance(tmp_path: Path) -> None:
    """Arm never lists them; Release compares them and finds them as they were."""
    lines = "".join(
        f"add rule inet theirs c ip saddr 198.18.{n >> 8}.{n & 255} tcp dport {n} drop\n" for n in range(10_000)
    )
    subprocess.run(["nft", "-f", "-"], input=f"add chain inet theirs c\n{lines}", text=True, check=True)
    life, signed = keeper(tmp_path, Counter(0)), order(1, 1)
    caller = Caller("ipv4:198.18.0.254:1", "198.18.0.254")
    armed = life.arm(signed, caller, started_ns=0)
    life.note_ruleset("crash-1")
    report = release(life, "crash-1", fence_token=2)

    assert armed.standing.is_in_force
    assert (report.order_ids, report.is_restored) == (("crash-1",), True)


@pytest.mark.usefixtures("_namespace")
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    """The lease is the kernel's, which counts by a clock that nobody sets; ours goes into the record only."""
    years = iter((1999, 2038, 1970, 2026, 2000, 2030, 1980))
    life, signed = keeper(tmp_path, Counter(0)), order(1, 1)
    life.now = lambda: datetime(next(years), 1, 1, tzinfo=UTC)
    armed = life.arm(signed, Caller("ipv4:198.18.0.254:1", "198.18.0.254"), started_ns=0)
    confirmed = life.confirm("crash-1", armed.nonce, Caller("ipv4:198.18.0.254:2", "198.18.0.254"))
    committed = life.commit("crash-1")

    assert 55_000 < confirmed.lease_left_ms <= 60_000
    assert (committed.phase, life.status()[0][0].is_in_force) == (Phase.COMMITTED, True)


def test_nft_that_is_missing_is_said_before_anything_is_touched(tmp_path: Path) -> None:
    """A value, not a traceback."""
    found = capability.find_out(nft.find([tmp_path / "nft"]), facts.identity(7700))

    assert found.line == "not at all: nft is missing: install the package nftables and restart the agent"
