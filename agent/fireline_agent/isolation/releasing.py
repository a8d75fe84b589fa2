"""Let a host back: take our tables away, and say whether everything is as it was before.

Blocking. Leaves to others: who may ask (server), the console (main).
"""

import difflib
import hmac
import time
from collections.abc import Sequence
from typing import Final

from fireline_agent.errors import RefusedError
from fireline_agent.isolation.force import without_ours
from fireline_agent.isolation.ground import BY_CODE, Ground
from fireline_agent.isolation.means import MeansError
from fireline_agent.isolation.model import Phase, Report
from fireline_agent.isolation.records import Record, advanced
from fireline_wire.isolation import code_sha256

_MAX_DIFFERENCE: Final = 2000  # characters


class WrongCode(Exception):
    """No isolation of this host has this code; `is_isolated` says whether there is one at all."""

    def __init__(self, *, is_isolated: bool) -> None:
        super().__init__(
            "no isolation of this host has this code" if is_isolated else "nothing is isolated on this host"
        )
        self.is_isolated = is_isolated


def release(ground: Ground, order_id: str, *, fence_token: int) -> Report:
    """Let go of one order, or of all that an agent of ours made here where `order_id` is empty.

    Releasing what is not isolated is no error. The token is remembered, so that an older order is refused.

    Raises:
        RefusedError: fenced, or unsupported where the kernel refuses; then the watchdog tries again.
    """
    started_ns = time.monotonic_ns()
    with ground.records.locked():
        newest = ground.records.fence()
        if 0 < fence_token < newest:
            raise RefusedError("fenced", f"the release has token {fence_token}, older than {newest}, seen here before")
        _with_room(ground, fence_token)
        records = ground.records.all()
        chosen = [r for r in records if order_id in ("", r.order.order_id)]
        replaced = {other for record in chosen for other in record.replaces}
        chosen += [r for r in records if r.order.order_id in replaced and r not in chosen]
        if order_id and not chosen:
            ground.records.history.note(order_id, "released", at=ground.now().isoformat())
        return let_go(ground, chosen, "released", started_ns=started_ns, is_all=not order_id)


def release_with_code(ground: Ground, code: str) -> Report:
    """Let go of the isolations that this one-time code is of.

    Raises:
        WrongCode: there is none.
        RefusedError: the kernel refuses.
    """
    started_ns = time.monotonic_ns()
    digest = code_sha256(code)
    with ground.records.locked(breaks=True):
        found = ground.records.all()
        chosen = [r for r in found if hmac.compare_digest(r.order.code_sha256, digest)]
        if not chosen:
            raise WrongCode(is_isolated=bool(found))
        return let_go(ground, chosen, BY_CODE, started_ns=started_ns)


def let_go(
    ground: Ground, records: Sequence[Record], how: str, *, started_ns: int | None = None, is_all: bool = False
) -> Report:
    """Take records out of force, then off the disk. With the lock held; `is_all` takes tables without a record too."""
    started_ns = time.monotonic_ns() if started_ns is None else started_ns
    lifted, refused = _lifted(ground, records)
    if is_all:
        refused += _strangers_lifted(ground, {record.name for record in records} - {record.name for record in lifted})
    applied_us = (time.monotonic_ns() - started_ns) // 1000
    difference = _difference(ground, lifted)
    for record in lifted:
        ground.records.forget(record.name)
        ground.leases.pop(record.name, None)
        ground.note(record, how, difference=difference)
    ground.records.history.prune(ground.records.names())
    if refused:
        raise RefusedError("unsupported", f"not released: {'; '.join(refused)}; it is tried again")
    return Report(tuple(r.order.order_id for r in lifted), not difference, difference, applied_us)


def _lifted(ground: Ground, records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Those that are out of force, and why not for the others: one must not hold up another."""
    lifted: list[Record] = []
    refused: list[str] = []
    for record in records:
        _mark(ground, record)
        try:
            ground.means(record.order).lift(record.order)
        except MeansError as error:
            refused.append(f"{record.order.scope} (order {record.order.order_id}): {error}")
        else:
            lifted.append(record)
    return lifted, refused


def _strangers_lifted(ground: Ground, kept: set[str]) -> list[str]:
    """Take away what no record explains, and the records that explain nothing; why not, where it is refused."""
    try:
        ground.host.lift_named(ground.host.own_names() - kept)
    except MeansError as error:
        return [str(error)]
    believed = {record.name for record in ground.records.all()}
    for name in ground.records.names() - believed:
        ground.records.forget(name)
    return []


def _mark(ground: Ground, record: Record) -> None:
    """Note that it is being released; on a full disk the record goes first, so that nothing puts it back."""
    try:
        ground.records.keep(advanced(record, Phase.RELEASING))
    except RefusedError:
        ground.records.forget(record.name)


def _with_room(ground: Ground, fence_token: int) -> None:
    try:
        ground.records.raise_fence(fence_token)
    except RefusedError:
        ground.records.make_room()
        ground.records.raise_fence(fence_token)


def _difference(ground: Ground, records: Sequence[Record]) -> str:
    """What somebody changed in the ruleset meanwhile, as a short diff; empty where it is byte-equal."""
    if not records:
        return ""
    before = ground.records.history.ruleset(records[0].name, "before")
    if before is None:
        return "the ruleset of before was not kept, so it can't be compared"
    try:
        after = without_ours(ground.host.ruleset())
    except MeansError as error:
        return f"the ruleset can't be listed: {error}"
    ground.records.history.keep_ruleset(records[0].name, "after", after)
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", n=1, lineterm="")
    return "\n".join(lines)[:_MAX_DIFFERENCE]
