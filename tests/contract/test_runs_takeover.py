"""A second controller takes over the run of a dead one: in the same folder at once, on a shared store by its lease."""

import asyncio
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from fireline_controller.runbooks.record import RunState
from tests.lab import eventually
from tests.runs.books import Shelf
from tests.runs.killed import BOOKS
from tests.runs.world import LedgerHosts, world


def _killed_at_work(command: list[str], ledger: Path) -> str:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        run_id = child.stdout.readline().strip()
        eventually(ledger.exists, within_s=20, what="the first application to be at work")
        child.kill()
    return run_id


async def test_i2_i6_a_second_controller_goes_on_with_the_run_of_a_dead_one(store_url: str, tmp_path: Path) -> None:
    """Killed in the middle of an application: it is asked for again, and no host does anything twice."""
    is_shared, ledger = store_url.startswith("postgresql"), tmp_path / "ledger"
    first = tmp_path / "first"
    second = tmp_path / "second" if is_shared else first
    url = store_url if is_shared else ""
    command = [sys.executable, "-m", "tests.runs.child", str(first), str(ledger), url]
    run_id = await asyncio.to_thread(_killed_at_work, command, ledger)

    async with world(second, Shelf(*BOOKS.values()), url=url, hosts=LedgerHosts(ledger)) as here:
        here.hosts.hold.set()
        here.hosts.bad = {f"apply test.bad@{name}" for name in "abc"}
        if is_shared:
            assert await here.runs.take_up_lost() == []  # its lease runs: it may be alive on its machine
            here.clock.added = timedelta(seconds=31)
        assert await here.runs.take_up_lost() == [run_id]
        ended = await here.until(run_id, within_s=30)

        assert ended.state is RunState.ROLLED_BACK
        assert set(here.hosts.done().values()) == {1}
        assert any("was lost" in line for line in await here.journal(run_id))
