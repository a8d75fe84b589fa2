"""What a host lacks, and what breaks under the agent's hands: nothing is done by halves, and nothing is left behind."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import grpc
import pytest

from tests.isolation.glance import becomes_open, is_dark, is_open
from tests.isolation.lone import COMMITTED, LAPSED_S, OWN_RULES, REPAIRED_S, Lone, ruleset
from tests.lab import eventually

pytestmark = pytest.mark.netns

_NFT, _REAL_NFT = "/usr/sbin/nft", "/usr/sbin/nft-real"
_REFUSES = f"""#!/bin/sh
case "$*" in *-f*) echo "Error: Could not process rule: Out of memory" >&2; exit 1;; esac
exec {_REAL_NFT} "$@"
"""
_APPLIES_AND_FAILS = f"""#!/bin/sh
{_REAL_NFT} "$@" || exit
case "$*" in *-f*) exit 1;; esac
"""


@contextmanager
def nft_replaced(lone: Lone, script: str) -> Iterator[None]:
    """Let the host's nft be another program, or none, while the block lasts."""
    lone.host.run(["mv", _NFT, _REAL_NFT])
    if script:
        lone.host.write(_NFT, script.encode(), mode=0o755)
    try:
        yield
    finally:
        lone.host.run(["mv", "-f", _REAL_NFT, _NFT])


@pytest.mark.parametrize("script", ["", _REFUSES])
def test_without_an_nft_that_works_nothing_is_touched(lone: Lone, script: str) -> None:
    """Missing or failing: the order is refused as unsupported, and every rule is as before."""
    with nft_replaced(lone, script), pytest.raises(grpc.RpcError, match=r"nft|nothing was changed"):
        lone.ordering.arm(lone.order())

    assert lone.is_former()
    assert is_open(lone.host.vantage, lone.outsider)


def test_an_nft_that_works_and_says_that_it_failed(lone: Lone) -> None:
    """What came of it is taken away again, at the latest by the kernel and the agent after the lease."""
    with nft_replaced(lone, _APPLIES_AND_FAILS), pytest.raises(grpc.RpcError):
        lone.ordering.arm(lone.order())

    becomes_open(lone.host.vantage, lone.outsider, within_s=LAPSED_S)
    eventually(lone.is_former, within_s=REPAIRED_S, what="the former ruleset")


def test_a_full_disk_does_nothing_by_halves(lone: Lone) -> None:
    """Isolated in what was set aside for such a day, or refused and untouched."""
    order = lone.order()
    lone.host.disk_full()
    try:
        with suppress(grpc.RpcError):
            lone.ordering.isolate(order)
        if lone.standing():
            assert lone.standing() == [(order.order_id, COMMITTED)]
            assert is_dark(lone.host.vantage, lone.outsider)
            assert lone.ordering.release(order).restored
        assert lone.is_former()
    finally:
        lone.host.disk_free()


def test_a_disk_that_fills_up_meanwhile_locks_nobody_out(lone: Lone) -> None:
    """An isolated host with a full disk is let back all the same, whatever else was asked of it before."""
    order = lone.order()
    lone.ordering.isolate(order)
    lone.host.disk_full()
    try:
        for _ in range(20):  # more than fits into the last block of any file
            lone.ordering.release(lone.order())
        assert lone.ordering.release(order).restored
        assert is_open(lone.host.vantage, lone.outsider)
    finally:
        lone.host.disk_free()


@pytest.mark.timeout(120)
def test_ten_thousand_rules_are_there_already(lone: Lone) -> None:
    """They neither keep the host from going dark nor change by one byte."""
    rules = "".join(
        f"add rule inet many input ip saddr 198.18.99.{n % 250} tcp dport {n + 1} drop\n" for n in range(10_000)
    )
    chain = "add chain inet many input { type filter hook input priority filter; policy accept; }"
    lone.host.vantage.run(["nft", "-f", "-"], text=f"add table inet many\n{chain}\n{rules}", within_s=60)
    former = ruleset(lone.host)
    order = lone.ordering.signed(lease_s=40)
    lone.ordering.isolate(order)

    assert is_dark(lone.host.vantage, lone.outsider)
    assert lone.ordering.release(order).restored
    assert ruleset(lone.host) == former
    lone.host.vantage.run(["nft", "delete", "table", "inet", "many"], within_s=60)


@pytest.mark.parametrize("tool", ["iptables-legacy", "iptables-nft"])
def test_rules_of_iptables_open_nothing(lone: Lone, tool: str) -> None:
    """What it accepts, first of all and while the host is isolated, stays dropped."""
    order = lone.order()
    lone.ordering.isolate(order)
    for chain in ("INPUT", "OUTPUT", "FORWARD"):
        lone.host.vantage.run([tool, "-I", chain, "-j", "ACCEPT"])

    assert is_dark(lone.host.vantage, lone.outsider)
    lone.ordering.release(order)
    assert is_open(lone.host.vantage, lone.outsider)
    lone.host.vantage.run([tool, "-F"])
    lone.host.vantage.run(["nft", "-f", "-"], text=f"flush ruleset\n{OWN_RULES}")
