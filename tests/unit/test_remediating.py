"""One host's action as the controller follows it: what a host's word is taken for."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fireline_controller import targets
from fireline_controller.engine.feed import Feed
from fireline_controller.engine.operations import Running
from fireline_controller.engine.remediating import HostAction, Subject
from fireline_controller.hosts import ActionNews, Command
from fireline_controller.model import ActionReport, HostFailed, Operation, Outcome
from fireline_controller.store import Store
from tests.runs.world import KEY, host

NOW = datetime.now(UTC)


class _Forgetful:
    """A host that knows nothing of what it once did."""

    async def undo_action(self, _command: Command, applied: str, *, idle_s: float) -> AsyncIterator[ActionNews]:
        """See RemediationCalls."""
        raise HostFailed(f"a: no record of {applied} within {idle_s} s", reason="not_found")
        yield


@pytest.mark.parametrize(
    ("known", "outcome"),
    [({}, Outcome.OK), ({"can_undo": True}, Outcome.FAILED), ({"changes_done": 1}, Outcome.FAILED)],
)
async def test_what_was_done_is_not_taken_back_by_a_host_that_forgot_it(
    tmp_path: Path, known: dict[str, Any], outcome: Outcome
) -> None:
    """Only where nobody knows that it was done, there is nothing to take back."""
    store = Store.open(f"sqlite:///{tmp_path}/store.sqlite", journal_key=KEY, anchor_path=tmp_path / "anchor")
    settings = SimpleNamespace(fanout=SimpleNamespace(idle_s=5.0))
    rooms: Any = SimpleNamespace(store=store, settings=settings, now=lambda: NOW)
    operation = Operation("op-2", "undo", "", "alice", "a test", targets.freeze(["a"], spelled="a"), NOW)
    command = Command("op-2", "op-2", "", "alice", "a test", NOW, 0)
    client: Any = _Forgetful()
    report = ActionReport("disk.move", request_id="op-1", **known)
    try:
        await store.run(lambda tx: tx.put_host(host("a")))
        subject = Subject(rooms, Running(operation, command, (0, ""), 0.0, Feed()), host("a"), client)
        found = await HostAction(subject, report, "op-2").undo()
    finally:
        store.close()

    assert found.outcome is outcome
