"""Measure the product against its floors: `python -m tests.bench.run [BENCH …] --json FILE`.

Product and floors take turns, each in a fresh process, so that whatever else the machine does weighs on all of them;
what counts are the ratios of the medians. A goal that is missed is marked; the exit code is 1 with `--gate`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench import footprint, gigabyte, isolating, logs, lost, real, record, tree
from tests.bench.grounds import Grounds, dies_with_us, laid, stand_ins
from tests.bench.report import Figure, Ratio, Report, table

_REPOSITORY = Path(__file__).resolve().parents[2]
_FLAT_MIB = 64
_RUN_HOSTS = 200
_COLD_DEADLINE_S = 8.0  # for the connections to stand before mute agents are measured


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    agents: int
    repetitions: int
    rounds: int
    deadline_s: float
    total_bytes: int
    rest_s: float
    real_agents: int
    processes: int
    large_bytes: int
    files: int


def fanout(plan: Plan) -> Report:
    """A no-op to so many agents, cold and warm, against the same echo in uvloop, bare and with streams, and in C.

    `fleet` is the hosts' room with the fan-out alone, `engine` the whole controller with journal and store.
    """
    floors = ("uvloop_echo", "stream_echo", "c_echo")
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in ("fleet", "engine", *floors)}
    with laid(plan.agents) as grounds:
        for _ in range(plan.repetitions):
            with stand_ins(grounds, "grpc"):
                for product in ("fleet", "engine"):
                    seen[product].append(measure(product, grounds, rounds=plan.rounds))
            with stand_ins(grounds, "echo"):
                for floor in floors:
                    seen[floor].append(measure(floor, grounds, rounds=plan.rounds))
    cold = {name: Figure.of(f"{name} cold", "ms", [run["cold_s"] * 1e3 for run in runs]) for name, runs in seen.items()}
    warm = {
        name: Figure.of(f"{name} warm", "ms", [statistics.median(run["warm_s"]) * 1e3 for run in runs])
        for name, runs in seen.items()
    }
    cpu = {
        name: Figure.of(f"{name} warm CPU of a call", "us", [run["cpu_warm_s"] / plan.agents * 1e6 for run in runs])
        for name, runs in seen.items()
        if name != "c_echo"
    }
    ratios = [
        Ratio(f"{product} {what} / {floor} {what}", found[product].median / found[floor].median, goal)
        for product in ("fleet", "engine")
        for what, found, floor, goal in (
            ("warm", warm, "uvloop_echo", 2.5),
            ("warm", warm, "stream_echo", None),
            ("warm", warm, "c_echo", 9),
            ("cold", cold, "c_echo", 1.35),
        )
    ]
    missing = sum(run["not_ok"] for product in ("fleet", "engine") for run in seen[product])
    return Report(
        f"fan-out of a no-op to {plan.agents} agents over mutual TLS",
        (*cold.values(), *warm.values(), *cpu.values()),
        (*ratios, Ratio("hosts not ok", missing, 0)),
    )


def mute(plan: Plan) -> Report:
    """Every fifth agent takes the connection and answers no call: what that costs beyond the deadline, warm."""
    walls = []
    with laid(plan.agents) as grounds, stand_ins(grounds, "grpc", mute_every=5):
        for _ in range(min(plan.repetitions, 3)):  # each waits for the deadline, so they hardly differ
            run = measure("fleet", grounds, rounds=2, deadline_s=plan.deadline_s, cold_deadline_s=_COLD_DEADLINE_S)
            walls += run["warm_s"]
            if run["not_ok"] != plan.agents // 5:
                raise RuntimeError(f"{run['not_ok']} hosts were not ok, wanted the {plan.agents // 5} mute ones")
    figure = Figure.of("warm, every fifth mute", "s", walls)
    ratio = Ratio("the same / deadline", figure.median / plan.deadline_s, 1.1)
    return Report(f"{plan.agents} agents, every fifth mute, deadline {plan.deadline_s:g} s", (figure,), (ratio,))


def transfer(plan: Plan) -> Report:
    """Evidence bytes from a real agent, against a plain Python TLS socket doing the same work."""
    names = [name for product, floor, _ in _TRANSFERS for name in (product, floor)]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(plan.repetitions):
        for name in names:
            with laid(1) as grounds:  # a fresh one each, so that no evidence is there before
                runs[name].append(measure(name, grounds, total_bytes=plan.total_bytes))
    fast = {n: Figure.of(n, "MB/s", [r["total_bytes"] / r["wall_s"] / 1e6 for r in found]) for n, found in runs.items()}
    cpu = [
        Figure.of(
            f"{n}, receiver's processor time for a GiB", "s", [r["cpu_s"] / r["total_bytes"] * 2**30 for r in found]
        )
        for n, found in runs.items()
    ]
    grown = [
        Figure.of(f"{product}, memory of {end} grown", "MiB", [run[key] / 2**20 for run in runs[product]])
        for product, _, _ in _TRANSFERS
        for end, key in (("the controller", "grown_bytes"), ("the agent", "far_grown_bytes"))
    ]
    ratios = tuple(
        Ratio(f"{product} / {floor}", fast[product].median / fast[floor].median, goal, at_most=False)
        for product, floor, goal in _TRANSFERS
    )
    return Report(f"transfer of {plan.total_bytes >> 20} MiB", (*fast.values(), *cpu, *grown), ratios)


def rest(plan: Plan) -> Report:
    """What the programs cost when nothing happens."""
    with laid(1) as grounds:
        found = footprint.agent_at_rest(grounds, seconds=plan.rest_s)
    helps = [(footprint.help_s(), footprint.bare_help_s()) for _ in range(max(plan.repetitions, 3))]
    own, bare = (
        Figure.of(name, "ms", [pair[i] * 1e3 for pair in helps]) for i, name in enumerate(("help", "bare help"))
    )
    sizes = (
        ("agent at rest, resident", found.agent_bytes),
        ("bare gRPC server with mutual TLS, resident", found.server_bytes),
        ("Python that can tell its memory, resident", found.telling_bytes),
        ("Python that only waits, resident", found.python_bytes),
    )
    figures = (*(Figure.of(name, "MiB", [size / 2**20]) for name, size in sizes), own, bare)
    ratios = (
        Ratio("agent's memory at rest / Python that can tell its own", found.agent_bytes / found.telling_bytes, 4.5),
        Ratio("agent's memory at rest / Python that only waits", found.agent_bytes / found.python_bytes),
        # Held closer: how much of gRPC's library is mapped differs between machines, what the agent adds does not.
        Ratio("agent's memory at rest / bare gRPC server", found.agent_bytes / found.server_bytes, 1.12),
        Ratio("agent's processor time at rest, percent", found.busy * 100, 0.1),
        Ratio("fireline --help / a bare typer program", own.median / bare.median, 2),
    )
    return Report("at rest", figures, ratios)


def agents(plan: Plan) -> Report:
    """A no-op to real agents, from the command line to its end."""
    turns = range(plan.repetitions)
    with real.fleet(plan.real_agents) as made:
        served = Figure.of("fireline host ping, with a daemon", "s", [real.ping_s(made) for _ in turns])
        made.stop_daemon()
        alone = Figure.of("fireline host ping, without one", "s", [real.ping_s(made) for _ in turns])
    ratio = Ratio("seconds from command line to answer", served.median, 0.5)
    return Report(f"{plan.real_agents} real agents", (served, alone), (ratio,))


def volatile(plan: Plan) -> Report:
    """Profile `volatile` of a real host on which many processes sleep."""
    with real.fleet(1) as made:
        host = made.lab["h1"]
        real.crowd(host, plan.processes)
        runs = [real.capture(made, host, "volatile") for _ in range(plan.repetitions)]
    on_host = Figure.of("on the host, first start to last end", "s", [run.host_s for run in runs])
    figures = (
        on_host,
        Figure.of("all collectors' processor time", "s", [run.cpu_s for run in runs]),
        Figure.of("from the operation's start to sealed", "s", [run.sealed_s for run in runs]),
        Figure.of("from command line to answer", "s", [run.command_s for run in runs]),
    )
    title = f"volatile on a host with {runs[-1].processes} processes"
    return Report(title, figures, (Ratio("seconds on the host", on_host.median, 2),))


def notice(plan: Plan) -> Report:
    """How soon the journal says that a host is lost: its agent frozen, killed, or its cable pulled."""
    with lost.watched_fleet() as made:
        turns = [lost.noticed_s(made, turn=n) for n in range(1, plan.repetitions + 1)]
    figures = tuple(Figure.of(fault, "ms", [turn[fault] * 1e3 for turn in turns]) for fault in turns[0])
    slowest_s = max(figure.high for figure in figures) / 1e3
    ratio = Ratio("the slowest of all, seconds", slowest_s, lost.KEEPALIVE_S + lost.TIMEOUT_S + 0.5)
    return Report(
        f"a lost host noticed, keep-alive {lost.KEEPALIVE_S} s, time-out {lost.TIMEOUT_S} s", figures, (ratio,)
    )


def large(plan: Plan) -> Report:
    """Evidence of one large artifact through the whole product: both ends' memory stays flat."""
    with gigabyte.loaded_fleet(plan.large_bytes) as made:
        run = gigabyte.passed(made)
    grown = (
        ("memory of the controller grown", run.controller_grown_bytes),
        ("memory of the agent grown", run.agent_grown_bytes),
        ("memory of the capturing children, whole", run.collecting_bytes),
    )
    figures = (
        *(Figure.of(name, "MiB", [size / 2**20]) for name, size in grown),
        Figure.of("on the host", "s", [run.captured.host_s]),
        Figure.of("from the operation's start to sealed", "s", [run.captured.sealed_s]),
    )
    ratios = tuple(Ratio(f"{name}, MiB", size / 2**20, _FLAT_MIB) for name, size in grown)
    return Report(f"{run.captured.total_bytes >> 20} MiB of evidence from a real agent, sealed", figures, ratios)


def journal(plan: Plan) -> Report:
    """The store's journal on SQLite, beside a file that is written and fsynced a line at a time."""
    runs = []
    for _ in range(plan.repetitions):
        with laid(1) as grounds:
            runs.append(record.measured(grounds))
    figures = {
        "one": Figure.of("one line appended", "ms", [run.one_s * 1e3 for run in runs]),
        "floor": Figure.of("one line written to a file, fsync", "ms", [run.plain_s * 1e3 for run in runs]),
        "many": Figure.of(f"{record.MANY} lines in one transaction", "ms", [run.many_s * 1e3 for run in runs]),
        "verify": Figure.of(f"{record.VERIFIED} lines verified", "ms", [run.verify_s * 1e3 for run in runs]),
    }
    ratio = Ratio("one line / a plain file's", figures["one"].median / figures["floor"].median)
    return Report("the journal on SQLite", tuple(figures.values()), (ratio,))


def isolation(plan: Plan) -> Report:
    """From the command line to proved dark, for one host and for many, beside a bare `nft -f` of the same text."""
    names = [f"h{n}" for n in range(1, plan.real_agents + 1)]
    with isolating.fleet(plan.real_agents) as made:
        bare = [us for _ in range(plan.repetitions) for us in isolating.bare_us(made, names[0])]
        one = [run for _ in range(plan.repetitions) for run in isolating.isolated(made, names[:1])]
        many = [run for _ in range(plan.repetitions) for run in isolating.isolated(made, names)]
    applied = Figure.of("the agent's part of arming, one host", "ms", [run.applied_us / 1e3 for run in one])
    alone = Figure.of("nft -f of the same text", "ms", [us / 1e3 for us in bare])
    figures = (*_dark("1 host", one), *_dark(f"{len(names)} hosts", many), applied, alone)
    slowest_s = max(run.proved_ms for run in many) / 1e3
    ratios = (
        Ratio("the agent's part of arming / nft -f", applied.median / alone.median, 3),
        Ratio(f"seconds until the last of {len(names)} is proved dark", slowest_s),
    )
    return Report(f"isolation, proved by {isolating.WITNESSES} witnesses", figures, ratios)


def disk(plan: Plan) -> Report:
    """Planning for a full disk on a tree of very many files: who fills it beside du, old logs beside find."""
    with tree.laid(plan.files) as place:
        turns = [
            (tree.planned("usage", place), tree.du_s(place), tree.planned("clean_logs", place), tree.find_s(place))
            for _ in range(plan.repetitions)
        ]
    usage, du, logs, find = zip(*turns, strict=True)
    figures = (
        Figure.of("disk.usage", "s", [run.seconds for run in usage]),
        Figure.of("du -sx", "s", du),
        Figure.of(f"disk.clean_logs, {logs[0].files} files chosen", "s", [run.seconds for run in logs]),
        Figure.of("find -xdev -name -mtime", "s", find),
        Figure.of("peak memory of the largest process", "MiB", [run.peak_bytes / 2**20 for run in (*usage, *logs)]),
    )
    ratios = (
        Ratio("disk.usage / du", figures[0].median / figures[1].median, 1),
        Ratio("disk.clean_logs / find", figures[2].median / figures[3].median, 1),
        Ratio("peak memory, MiB", figures[4].high, _FLAT_MIB),
    )
    return Report(f"planning on a tree of {plan.files} files", figures, ratios)


def analysis(plan: Plan) -> Report:
    """One large log searched, its errors counted and its response times ranked, against the user's own pipelines."""
    with logs.log(plan.large_bytes) as folder:
        runs = {name: [logs.turn(folder, name) for _ in range(plan.repetitions)] for name in logs.ACTIONS}
        size_bytes = (folder / "api.log").stat().st_size
    found = {
        what: {n: Figure.of(f"{n}, {what}", "s", [getattr(run, key) for run in made]) for n, made in runs.items()}
        for what, key in _ANALYSIS.items()
    }
    ours, ours_cpu, theirs, theirs_cpu = found.values()
    most = max(run.most_bytes for made in runs.values() for run in made)
    ratios = (
        *(Ratio(f"{name} / its pipeline", ours[name].median / theirs[name].median, 1) for name in runs),
        *(Ratio(f"{name} / its pipeline, processor", ours_cpu[name].median / theirs_cpu[name].median) for name in runs),
        Ratio("the most memory held, MiB", most / 2**20, _FLAT_MIB),
    )
    figures = tuple(figure for by_name in found.values() for figure in by_name.values())
    return Report(f"a log of {size_bytes >> 20} MiB", figures, ratios)


_ANALYSIS = {
    "ours": "ours_s",
    "ours, processor": "ours_cpu_s",
    "the pipeline": "pipeline_s",
    "the pipeline, processor": "pipeline_cpu_s",
}


def _dark(what: str, runs: Sequence[isolating.Isolated]) -> Iterator[Figure]:
    proved = sorted(run.proved_ms for run in runs)
    yield Figure.of(f"{what}, command to proved dark, p50", "ms", proved)
    yield Figure.of(f"{what}, command to proved dark, p99", "ms", [proved[-1 - len(proved) // 100]])
    yield Figure.of(f"{what}, command to rules in force", "ms", [run.armed_ms for run in runs])
    yield Figure.of(f"{what}, command to committed", "ms", [run.committed_ms for run in runs])
    for phase in runs[0].shares:
        yield Figure.of(f"{what}, share of {phase}", "%", [run.shares[phase] for run in runs])


def runs(plan: Plan) -> Report:
    """A durable step, and a run of one step over 200 hosts beside the bare fan-out of the same calls."""
    with laid(_RUN_HOSTS) as grounds, stand_ins(grounds, "grpc"):
        found = [measure("runs", grounds, rounds=plan.rounds) for _ in range(plan.repetitions)]
    step = Figure.of("one durable step, one host", "ms", [one["step_s"] * 1e3 for one in found])
    whole = Figure.of("a run of one step, warm", "ms", [statistics.median(one["run_s"]) * 1e3 for one in found])
    bare = Figure.of("the bare fan-out, warm", "ms", [statistics.median(one["bare_s"]) * 1e3 for one in found])
    ratios = (
        Ratio("a run of one step / the bare fan-out", whole.median / bare.median),
        Ratio("runs that did not succeed", sum(one["not_ok"] for one in found), 0),
    )
    return Report(f"a durable run over {_RUN_HOSTS} hosts", (step, whole, bare), ratios)


# Product, floor, and the share of the floor's speed that is the goal.
_TRANSFERS = (("fetch_bare", "socket_bare", 0.8), ("fetch_kept", "socket_kept", 1.0))
BENCHES: dict[str, Callable[[Plan], Report]] = {
    "fanout": fanout,
    "mute": mute,
    "transfer": transfer,
    "rest": rest,
    "agents": agents,
    "volatile": volatile,
    "notice": notice,
    "gigabyte": large,
    "journal": journal,
    "isolation": isolation,
    "disk": disk,
    "logs": analysis,
    "runs": runs,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benches that were asked for, print a table, and write JSON if wanted."""
    args = _parser().parse_args(argv)
    plan = Plan(
        args.agents, args.repetitions, args.rounds, args.deadline, args.mebibytes << 20, args.rest,
        args.real_agents, args.processes, args.large << 20, args.files,
    )  # fmt: skip
    reports = []
    for name in args.bench or list(BENCHES):
        report = BENCHES[name](plan)
        print(table(report), flush=True)
        reports.append(report)
    if args.json:
        args.json.write_text(
            json.dumps({"machine": machine(), "plan": asdict(plan), "reports": [asdict(r) for r in reports]}, indent=1)
        )
    missed = any(not ratio.is_met for report in reports for ratio in report.ratios)
    return int(args.gate and missed)


def machine() -> dict[str, Any]:
    """Enough of the machine to read the absolute figures by."""
    return {
        "processors": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def measure(name: str, grounds: Grounds, **options: Any) -> dict[str, Any]:
    """One subject in a fresh process; what it measured.

    Raises:
        RuntimeError: it failed; the message carries the end of what it said.
    """
    argv = [sys.executable, "-m", "tests.bench.subjects", name, str(grounds.folder), json.dumps(options)]
    done = subprocess.run(dies_with_us(argv), capture_output=True, text=True, cwd=_REPOSITORY, check=False, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.run", description=__doc__)
    parser.add_argument("bench", nargs="*", choices=[*BENCHES, []], help="which; all when left out")
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=12, help="warm rounds of each repetition")
    parser.add_argument("--deadline", type=float, default=2.0, help="seconds, for mute agents")
    parser.add_argument("--mebibytes", type=int, default=256, help="of each transfer")
    parser.add_argument("--rest", type=float, default=30, help="seconds that the agent is watched at rest")
    parser.add_argument("--real-agents", type=int, default=20, help="of `agents` and `isolation`")
    parser.add_argument("--processes", type=int, default=500, help="that sleep on the host of `volatile`")
    parser.add_argument("--files", type=int, default=1_000_000, help="in the tree of `disk`")
    parser.add_argument("--large", type=int, default=1024, help="MiB of evidence in `gigabyte`, of the log in `logs`")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--gate", action="store_true", help="exit 1 when a goal is missed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
