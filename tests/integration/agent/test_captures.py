"""Captures with real worker and sealer processes: whatever a collector does, the others' artifacts are kept."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fireline_agent.capture.order import Folder
from fireline_agent.capture.runner import CollectorEnded, CollectorStarted, News, Running
from fireline_agent.capture.spool import Sealed
from fireline_agent.hands import cgroup
from fireline_agent.hands.process import children, is_running
from fireline_wire.manifest import Artifact
from tests.integration.agent.captures import LIMITS, Evidence, collector, evidence, host, order, progress
from tests.integration.agent.stale_fuse import stale_mount


@pytest.fixture(params=["none", "real"])
def hierarchy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[cgroup.Hierarchy]:
    """With this machine's control groups, and without any."""
    if request.param == "none":
        yield cgroup.Hierarchy("none")
        return
    found = cgroup.prepare(f"fireline-test-{os.getpid()}")
    if found.kind == "none":
        pytest.skip("; ".join(found.lacks))
    yield found
    found.group("").remove()


def _artifact(found: Evidence, name: str) -> Artifact:
    return next(a for a in found.manifest.artifacts if a.name == name)


async def test_a_capture_is_collected_sealed_and_told(tmp_path: Path) -> None:
    """Artifacts, facts, findings, run times and the order's own words all stand in the signed manifest."""
    async with host(tmp_path) as h:
        found = await h.capture(collector("well", name="b"), lacks=("cgroup: none",))

    manifest = found.manifest
    assert (manifest.host, manifest.clock_offset_ns, manifest.journal_hash) == ("web-1", 5, "ab")
    assert (manifest.partial, manifest.lacks[0]) == (False, "cgroup: none")
    assert [a.name for a in manifest.artifacts] == ["well/b.txt", "well/big.bin"]
    assert found.data("well/b.txt") == b'hello {"n":1}\n'
    assert found.data("well/big.bin") == b"x" * (5 << 19)
    assert _artifact(found, "well/b.txt").facts == {"bytes": "\\udcff"}
    assert (found.run("well").status, found.run("well").version) == ("ok", "7")
    assert found.run("well").total_bytes == (5 << 19) + 14
    (finding,) = manifest.findings
    assert (finding.subject, len(finding.summary), finding.collector) == ("a\\udcffb", 1000, "well")
    assert found.news[0] == CollectorStarted("well", 0, 1)
    assert isinstance(found.news[1], CollectorEnded)
    assert isinstance(found.news[2], Sealed)
    assert found.news[2].artifacts == 2


@pytest.mark.parametrize(
    ("how", "status", "detail"),
    [
        ("raise", "failed", "LookupError: nothing"),
        ("absent", "absent", "no such thing in /x"),
        ("signal", "failed", "ended by SIGSEGV"),
        ("exit", "failed", "ended with status 1 and no result"),
        ("leave", "failed", "ended with status 4 and no result"),
    ],
)
async def test_a_collector_that_dies_costs_no_other(tmp_path: Path, how: str, status: str, detail: str) -> None:
    """Its own artifact is kept as truncated, its end is told, and the next one runs."""
    async with host(tmp_path) as h:
        found = await h.capture(collector("die", how=how), collector("well"))

    assert found.run("die").status == status
    assert detail in found.run("die").detail
    assert found.data("die.txt") == b"first words" * 10_000
    assert _artifact(found, "die.txt").truncated
    assert found.run("well").status == "ok"


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_collector_that_hangs_is_ended_at_its_deadline(
    tmp_path: Path, hierarchy: cgroup.Hierarchy, *, deaf: bool
) -> None:
    """What it wrote is kept; one that hears is let close its artifact, a deaf one is killed."""
    async with host(tmp_path) as h:
        found = await h.capture(collector("hang", deadline_s=0.8, deaf=deaf), collector("well"), hierarchy=hierarchy)

    run = found.run("hang")
    assert (run.status, run.detail) == ("timed_out", "stopped after 0.8 s")
    assert run.wall_ms < 2500
    assert found.data("hang.txt").startswith(b"tick\n")
    assert _artifact(found, "hang.txt").facts == ({} if deaf else {"is_open": True})
    assert found.run("well").status == "ok"


async def test_a_small_spool_is_shared_by_the_two_rows(tmp_path: Path) -> None:
    """One that may write as much as the whole room leaves half of it for the one that runs beside it."""
    async with host(tmp_path) as h:
        found = await h.capture(
            collector("hang", deadline_s=1.0), collector("well", beside=True), budget_bytes=LIMITS.output_bytes // 4
        )

    assert (found.run("well").status, found.run("well").detail) == ("ok", "")


@pytest.mark.parametrize("what", ["bytes", "artifacts", "findings"])
async def test_a_collector_that_writes_without_end_is_cut(tmp_path: Path, what: str) -> None:
    """Bytes, artifacts and findings each have a limit; what is within it is kept."""
    async with host(tmp_path) as h:
        found = await h.capture(collector("flood", what=what), collector("well"))

    flood = found.run("flood")
    sizes = {a.name: a.size for a in found.manifest.artifacts}
    if what == "bytes":
        assert flood.detail == f"output limit of {32 << 20} bytes reached; what was written is kept"
        assert (sizes["flood.bin"], _artifact(found, "flood.bin").truncated) == (32 << 20, True)
    elif what == "artifacts":
        assert flood.detail == "limit of 10000 artifacts reached; those before are kept"
        assert len(sizes) == 10_002
    else:
        findings = [f for f in found.manifest.findings if f.collector == "flood"]
        assert (len(findings), findings[-1].code) == (500, "too-many-findings")
    assert found.run("well").status == "ok"


async def test_the_budget_of_a_capture_binds_all_its_collectors(tmp_path: Path) -> None:
    """What the first one wrote is not there for the next."""
    async with host(tmp_path) as h:
        found = await h.capture(collector("flood", what="bytes"), collector("well"), budget_bytes=33 << 20)

    assert found.run("flood").total_bytes == 32 << 20
    assert found.run("well").status == "failed"
    assert "output limit of 1048576 bytes reached" in found.run("well").detail


@pytest.mark.parametrize("what", ["leave", "cpu"])
async def test_children_of_a_collector_end_with_it(tmp_path: Path, hierarchy: cgroup.Hierarchy, what: str) -> None:
    """Also those in sessions of their own: at the deadline, and when the collector left them behind."""
    async with host(tmp_path) as h:
        found = await h.capture(
            collector("breed", what=what, count=3, s=60, deadline_s=1.0), collector("well"), hierarchy=hierarchy
        )

    assert not any("cgroup" in lack for lack in found.manifest.lacks)
    pids = [int(line.split(b":")[1].strip(b"}")) for line in found.data("breed.txt").splitlines()]
    assert len(pids) == 3
    assert not any(is_running(pid) for pid in pids)
    assert found.run("breed").status == ("ok" if what == "leave" else "timed_out")
    assert found.run("well").status == "ok"


async def test_cpu_and_processes_are_limited_with_all_children(tmp_path: Path) -> None:
    """Three children that burn CPU get no more than the collector's share; the table of processes stays closed."""
    groups = cgroup.prepare(f"fireline-test-{os.getpid()}-cpu")
    if "cpu" not in groups.folders:
        pytest.skip("no cpu controller")
    async with host(tmp_path) as h:
        found = await h.capture(collector("breed", what="cpu", count=3, s=1.5), hierarchy=groups)
        many = await h.capture(collector("breed", what="cpu", count=200, s=0.1), request_id="r2", hierarchy=groups)
    groups.group("").remove()

    run = found.run("breed")
    assert run.wall_ms >= 1500
    # The limit is 100 % of one core, on a machine that has more; the least is more than the collector itself takes.
    assert 300 < run.cpu_ms < 1.3 * run.wall_ms
    assert many.data("breed.txt").count(b'{"pid":0}') > 200 - LIMITS.pids


async def test_a_child_that_eats_memory_is_ended_and_named(tmp_path: Path) -> None:
    """The kernel ends it at the collector's limit; the collector's end says why."""
    groups = cgroup.prepare(f"fireline-test-{os.getpid()}-memory")
    if "memory" not in groups.folders:
        pytest.skip("no memory controller")
    async with host(tmp_path) as h:
        found = await h.capture(collector("breed", what="memory"), collector("well"), hierarchy=groups)
    groups.group("").remove()

    assert f"memory limit of {256 << 20} bytes reached" in found.run("breed").detail
    assert found.run("well").status == "ok"


async def test_what_may_not_or_can_not_run_is_told(tmp_path: Path) -> None:
    """A denied, an unknown and a broken collector each end in their own words, and cost nothing else."""
    denied = collector("hang")
    denied = type(denied)(denied.name, denied.module, {}, denied.limits, denial="this host's policy says no")
    unknown = type(denied)("future", "", {}, denied.limits)
    async with host(tmp_path) as h:
        found = await h.capture(denied, unknown, collector("broken"), collector("well"))

    assert (found.run("hang").status, found.run("hang").detail) == ("denied", "this host's policy says no")
    assert found.run("future").detail == "this agent (0) has no collector 'future'"
    assert found.run("broken").detail == "can't be imported: RuntimeError: no such library"
    assert found.run("well").status == "ok"


async def test_collectors_run_in_order_and_only_those_beside_do_not_wait(tmp_path: Path) -> None:
    """The order of volatility holds; a collector beside the row runs while the row is held up."""
    async with host(tmp_path) as h:
        found = await h.capture(
            collector("hang", deadline_s=1.0), collector("die", how="raise"), collector("well", beside=True)
        )

    events = [(e["event"], e["index"]) for e in progress(found.folder) if "index" in e]
    assert events.index(("ended", 2)) < events.index(("ended", 0)) < events.index(("started", 1))


@pytest.mark.parametrize("deaf", [False, True])
async def test_cancel_stops_within_two_seconds_and_seals_what_is_there(
    tmp_path: Path, hierarchy: cgroup.Hierarchy, *, deaf: bool
) -> None:
    """The finished, the running and the waiting collector each keep what they have."""
    async with host(tmp_path) as h:
        running = h.start(
            order(collector("well"), collector("hang", deaf=deaf), collector("die", how="raise"), hierarchy=hierarchy)
        )
        async for news in running.follow():
            if news == CollectorStarted("hang", 1, 3):
                break
        await asyncio.sleep(0.5)
        began = time.monotonic()
        stopped = await h.runner.cancel("r1", "cancelled by ops")
        took = time.monotonic() - began
        found = await evidence(running)

    assert stopped is running
    assert took < 2.0
    assert (found.manifest.partial, found.manifest.partial_reason) == (True, "cancelled by ops")
    assert [c.status for c in found.manifest.collectors] == ["ok", "cancelled", "cancelled"]
    assert found.run("die").detail == "not started"
    assert found.data("hang.txt").startswith(b"tick\n")
    assert found.data("well/big.bin")


async def test_cancel_of_what_does_not_run_stops_nothing(tmp_path: Path) -> None:
    """An ended capture is not in work any more."""
    async with host(tmp_path) as h:
        await h.capture(collector("well"))

        assert await h.runner.cancel("r1", "late") is None


async def test_the_capture_as_a_whole_has_a_deadline(tmp_path: Path) -> None:
    """When its time is over it is sealed as partial with that reason."""
    async with host(tmp_path) as h:
        found = await evidence(h.start(order(collector("hang"), collector("well")), deadline_s=0.8))

    assert found.manifest.partial_reason == "its time of 0.8 s was over"
    assert found.run("well").detail == "not started"


async def test_a_worker_that_is_killed_loses_nothing_that_was_written(tmp_path: Path) -> None:
    """The agent seals what stands in the folder, and says that the worker was lost."""
    async with host(tmp_path) as h:
        running = h.start(order(collector("well"), collector("hang")))
        async for news in running.follow():
            if news == CollectorStarted("hang", 1, 2):
                break
        await asyncio.sleep(0.8)
        os.kill(_worker(), 9)
        found = await evidence(running)

    assert found.manifest.partial_reason == "the worker ended by SIGKILL"
    assert found.run("well").status == "ok"
    assert (found.run("hang").status, found.run("hang").detail) == (
        "failed",
        "lost in its work: the worker ended by SIGKILL",
    )
    assert found.data("hang.txt").startswith(b"tick\n")


def _worker() -> int:
    mine = children(os.getpid())
    (worker,) = [pid for pid in mine if b"capture.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return worker


@pytest.fixture
def stale(tmp_path: Path) -> Iterator[Path]:
    """A folder in which every call hangs in the kernel, beyond SIGKILL."""
    point = tmp_path / "stale"
    point.mkdir()
    with ExitStack() as stack:
        try:
            stack.enter_context(stale_mount(point))
        except OSError as error:
            pytest.skip(f"no FUSE mount here: {error}")
        yield point


async def test_a_collector_in_uninterruptible_sleep_holds_up_nobody(
    tmp_path: Path, hierarchy: cgroup.Hierarchy, stale: Path
) -> None:
    """It is left to the kernel and named; the next one runs and the capture ends."""
    began = time.monotonic()
    async with host(tmp_path) as h:
        found = await h.capture(
            collector("stuck", deadline_s=0.5, path=str(stale / "file")), collector("well"), hierarchy=hierarchy
        )

    run = found.run("stuck")
    assert time.monotonic() - began < 6
    assert run.status == "timed_out"
    assert re.fullmatch(r"stopped after 0\.5 s; the kernel does not end \d+ \(uninterruptible sleep\)", run.detail)
    assert found.data("stuck.txt") == b"before"
    assert found.run("well").status == "ok"
    assert not found.manifest.partial


async def test_cancel_names_who_can_not_be_killed(tmp_path: Path, hierarchy: cgroup.Hierarchy, stale: Path) -> None:
    """Cancelling takes two seconds at most even then."""
    async with host(tmp_path) as h:
        running = h.start(order(collector("stuck", path=str(stale / "file")), hierarchy=hierarchy))
        async for _ in running.follow():
            break
        await asyncio.sleep(0.5)
        began = time.monotonic()
        await h.runner.cancel("r1", "cancelled")
        took = time.monotonic() - began
        found = await evidence(running)

    assert took < 2.0
    assert len(running.unkillable_pids) == 1
    assert found.run("stuck").status == "cancelled"


async def test_a_long_silence_is_broken_by_signs_of_life(tmp_path: Path) -> None:
    """A caller can tell a collector that works from an agent that hangs; the news themselves stay as they are."""
    running = Running(order(collector("well")), Folder(tmp_path), sign_of_life_s=0.02)
    started = CollectorStarted("well", 0, 1)
    running.tell(started)

    heard = [news async for news, _ in _until(running.follow(), 4)]
    running.end(None)

    assert heard == [started] * 4
    assert [news async for news in running.follow()] == [started]


async def _until(news: AsyncIterator[News], count: int) -> AsyncIterator[tuple[News, int]]:
    number = 0
    async for one in news:
        number += 1
        yield one, number
        if number == count:
            return


async def test_many_followers_each_get_all_news(tmp_path: Path) -> None:
    """Whoever attaches late is told from the beginning."""
    async with host(tmp_path) as h:
        running = h.start(order(collector("well")))
        first, second = await asyncio.gather(evidence(running), evidence(running))
        late = await evidence(running)

    assert first.news == second.news == late.news
