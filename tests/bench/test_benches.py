"""The benches work on a small fleet: what they measure is right, whatever it costs here."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fireline_controller.config import Fanout
from fireline_controller.hosts import Fleet
from fireline_controller.model import TimedOut, Unreachable
from tests.bench import report, run, running, subjects
from tests.bench.grounds import Grounds, command, laid, stand_ins
from tests.lab import Process

AGENTS = 10


@pytest.fixture(scope="module")
def grounds() -> Iterator[Grounds]:
    """Certificates and addresses for ten agents."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc compiles the stand-ins")
    with laid(AGENTS) as made:
        yield made


async def test_stand_ins_answer_the_product(grounds: Grounds) -> None:
    """Every stand-in answers a ping with its clock, cold and warm, under the name of its own certificate."""
    with stand_ins(grounds, "grpc"):
        times = await subjects.fleet(grounds, rounds=3, deadline_s=10)

    assert times.not_ok == 0
    assert len(times.warm_s) == 3


async def test_stand_ins_answer_the_whole_controller(grounds: Grounds) -> None:
    """All of them are enrolled in the store that comes with the grounds."""
    with stand_ins(grounds, "grpc"):
        times = await subjects.engine(grounds, rounds=1)

    assert times.not_ok == 0


async def test_runs_succeed_over_stand_ins(grounds: Grounds) -> None:
    """A durable run over all of them, and one of many steps over one."""
    with stand_ins(grounds, "grpc"):
        ran = await running.runs(grounds, rounds=1)

    assert ran.not_ok == 0
    assert ran.step_s > 0


async def test_a_mute_stand_in_costs_its_own_deadline(grounds: Grounds) -> None:
    """Every fifth takes the connection and never answers; the others do."""
    with stand_ins(grounds, "grpc", mute_every=5):
        times = await subjects.fleet(grounds, rounds=1, deadline_s=0.5, cold_deadline_s=1)

    assert times.not_ok == AGENTS // 5
    assert 0.5 <= times.warm_s[0] < 2


async def test_a_stand_in_can_be_mute_before_tls(grounds: Grounds) -> None:
    """Such a one takes the TCP connection and leaves the handshake unanswered."""
    credentials = grounds.controller()
    fleet = Fleet(lambda: credentials, settings=Fanout(dial_s=0.5))
    with stand_ins(grounds, "grpc", mute_every=1, mute_how="tls"), pytest.raises((Unreachable, TimedOut)):
        await fleet.client(grounds.hosts[0]).ping(command(), timeout_s=1)
    await fleet.close()


async def test_a_stand_in_refuses_a_stranger(grounds: Grounds) -> None:
    """A client of another authority does not get in: what is measured is mutual TLS."""
    with laid(1) as others, stand_ins(grounds, "grpc"):
        credentials = others.controller()
        fleet = Fleet(lambda: credentials, settings=Fanout(dial_s=1))
        with pytest.raises(Unreachable):
            await fleet.client(grounds.hosts[0]).ping(command(), timeout_s=2)
        await fleet.close()


async def test_the_floors_echo(grounds: Grounds) -> None:
    """uvloop, bare and with streams, and C get every byte back from every stand-in."""
    with stand_ins(grounds, "echo"):
        in_python = await subjects.uvloop_echo(grounds, rounds=2)
        with_streams = await subjects.stream_echo(grounds, rounds=2)
        in_c = await subjects.c_echo(grounds, rounds=2)

    for times in (in_python, with_streams, in_c):
        assert len(times.warm_s) == 2
        assert min(times.cold_s, *times.warm_s) > 0


async def test_the_transfer_floors_move_every_byte(grounds: Grounds) -> None:
    """Both receivers take exactly what was asked for, and don't grow with it."""
    bare = await subjects.SUBJECTS["socket_bare"](grounds, total_bytes=8 << 20)
    kept = await subjects.SUBJECTS["socket_kept"](grounds, total_bytes=8 << 20)

    assert bare.total_bytes == kept.total_bytes == 8 << 20
    assert max(bare.grown_bytes, kept.grown_bytes) < 64 << 20


@pytest.mark.parametrize("name", ["fetch_bare", "fetch_kept"])
async def test_the_product_moves_every_byte(grounds: Grounds, name: str) -> None:
    """A real agent's capture comes over the evidence channel, bare and into a vault that verifies it."""
    moved = await subjects.SUBJECTS[name](grounds, total_bytes=8 << 20)

    assert moved.total_bytes == 8 << 20
    assert max(moved.grown_bytes, moved.far_grown_bytes) < 200 << 20


def test_a_run_prints_ratios_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table names each ratio with its goal; the file holds what the table shows."""
    file = tmp_path / "figures.json"
    small = ["--agents", "10", "--repetitions", "1", "--rounds", "2", "--deadline", "1"]
    assert run.main(["fanout", "mute", *small, "--json", str(file)]) == 0

    said = capsys.readouterr().out
    assert "engine warm / uvloop_echo warm" in said and "goal ≤ 2.5" in said
    assert [report["title"] for report in json.loads(file.read_text())["reports"]] == [
        "fan-out of a no-op to 10 agents over mutual TLS",
        "10 agents, every fifth mute, deadline 1 s",
    ]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("bench", "wanted"),
    [
        ("transfer", "fetch_kept / socket_kept"),
        ("rest", "agent's processor time at rest, percent"),
        ("agents", "seconds from command line to answer"),
        ("volatile", "seconds on the host"),
        ("notice", "the slowest of all, seconds"),
        ("gigabyte", "memory of the controller grown, MiB"),
        ("journal", "one line / a plain file's"),
        ("isolation", "seconds until the last of 2 is proved dark"),
        ("logs", "response_times / its pipeline"),
        ("disk", "disk.clean_logs / find"),
    ],
)
def test_each_other_bench_works(tmp_path: Path, bench: str, wanted: str) -> None:
    """With next to nothing to measure, each measures it: no figure is missing, and none is without meaning."""
    file = tmp_path / "figures.json"
    small = ["--repetitions", "1", "--mebibytes", "4", "--rest", "0.5", "--real-agents", "2"]
    assert run.main([bench, *small, "--processes", "5", "--large", "4", "--files", "50", "--json", str(file)]) == 0

    (found,) = json.loads(file.read_text())["reports"]
    assert wanted in [ratio["name"] for ratio in found["ratios"]]
    assert all(figure["high"] >= 0 for figure in found["figures"])


def test_a_killed_run_leaves_nothing_for_long() -> None:
    """Its processes end with it, and the next run removes its folder."""
    argv = [sys.executable, "-c", _HANGS]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as killed:
        assert killed.stdout is not None
        folder, agent = killed.stdout.readline().split()
        process = Process.of(int(agent))
        killed.kill()
    process.wait_gone(within_s=5)
    assert Path(folder).is_dir()

    with laid(1):
        assert not Path(folder).exists()


_HANGS = """
import time
from tests.bench import evidence, grounds
with grounds.laid(1) as made, evidence.serving(made, 1 << 20) as (agent, _):
    print(made.folder, agent, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_warm_call_costs_the_controller_few_bare_echoes() -> None:
    """Processor time, which others on the machine lengthen least: the goal of 2.5 echoes, and a third for the noise."""
    with laid(1000) as grounds:
        turns = []
        for _ in range(2):
            with stand_ins(grounds, "grpc"):
                product = run.measure("engine", grounds, rounds=12)
            with stand_ins(grounds, "echo"):
                floor = run.measure("uvloop_echo", grounds, rounds=12)
            assert product["not_ok"] == 0
            turns.append(product["cpu_warm_s"] / floor["cpu_warm_s"])

    assert min(turns) <= 2.5 * 4 / 3, f"processor time of the whole controller / of a bare echo: {turns}"


def test_a_missed_goal_is_marked() -> None:
    """With its value, and without hiding the others."""
    ratios = (
        report.Ratio("slow", 3.0, 2.5),
        report.Ratio("fast", 0.9, 0.8, at_most=False),
        report.Ratio("free", 7.0),
    )
    slow, fast, free = report.table(report.Report("t", (), ratios)).splitlines()[1:]

    assert slow.endswith("3.00       goal ≤ 2.5  MISSED")
    assert fast.endswith("0.90       goal ≥ 0.8")
    assert free.endswith("7.00       no goal")
    assert [ratio.is_met for ratio in ratios] == [False, True, True]
