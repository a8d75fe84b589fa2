"""What the analysis of one large log costs, beside the pipelines of grep, awk and sort that the user's runbook has.

Both read the same file in turns, from the page cache, each as programs of their own from start to end.
"""

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from fireline_agent.remediation.action import Action
from fireline_agent.remediation.logs import errors, response_times, search
from tests.remediation.rehearsal import Rehearsal

_REPOSITORY = Path(__file__).resolve().parents[2]
_DAY_LINES = 500_000
_MESSAGES = ("request served", "cache refreshed", "session opened", "connection pool: 12 of 40 in use")

ACTIONS: Final[Mapping[str, tuple[Action, Mapping[str, Any]]]] = {
    "errors": (errors.ACTION, {}),
    "response_times": (response_times.ACTION, {"value": "last"}),
    "search": (search.ACTION, {"text": "path=/cart/777 "}),
    "regex": (search.ACTION, {"regex": "cart/777[0-9] .* response_time [0-9]{3}$"}),
    "errors_gz": (errors.ACTION, {}),
}
# The first two are the runbook's own, word for word but for the file's name.
_BY_MINUTE: Final = "awk '{{print $1, $2}}' | cut -d: -f1-2 | sort | uniq -c | sort -nr | head -20"
PIPELINES: Final[Mapping[str, str]] = {
    "errors": f"grep -h ERROR {{log}} | {_BY_MINUTE}",
    "response_times": """grep "response_time" {log} | awk '{{print $NF}}' | sort -n |
        awk '{{ count[NR] = $1; total += $1 }}
        END {{ print "Average:", total/NR; print "P50:", count[int(NR*0.5)]; print "P95:", count[int(NR*0.95)];
        print "P99:", count[int(NR*0.99)] }}'""",
    "search": "grep -r 'path=/cart/777 ' {log} | tail -100",
    "regex": "grep -E 'cart/777[0-9] .* response_time [0-9]{{3}}$' {log} | tail -100",
    "errors_gz": f"zcat {{log}} | grep -h ERROR | {_BY_MINUTE}",
}


@dataclass(frozen=True)
class Run:
    """One turn: seconds and processor seconds of ours and of the pipeline, and the most memory that ours held."""

    ours_s: float
    ours_cpu_s: float
    pipeline_s: float
    pipeline_cpu_s: float
    most_bytes: int


@contextmanager
def log(size_bytes: int) -> Iterator[Path]:
    """A folder with `api.log` of about this size, and the same compressed; nothing is left of it."""
    folder = Path(tempfile.mkdtemp(prefix="fireline-bench-log-"))
    try:
        day = _day(min(_DAY_LINES, size_bytes // 128 + 1))
        with (folder / "api.log").open("wb") as file:
            for number in range(max(1, size_bytes // len(day))):
                file.write(day.replace(b"2026-05-01", b"2026-%02d-%02d" % (number // 28 + 1, number % 28 + 1)))
        with (folder / "api.log.gz").open("wb") as packed:
            subprocess.run(["gzip", "-1", "-c", str(folder / "api.log")], stdout=packed, check=True)
        yield folder
    finally:
        shutil.rmtree(folder)


def turn(folder: Path, name: str) -> Run:
    """Ours and the pipeline, one after the other."""
    path = folder / ("api.log.gz" if name.endswith("_gz") else "api.log")
    ours = _timed([sys.executable, "-m", "tests.bench.logs", name, str(path)])
    pipeline = _timed(["sh", "-c", PIPELINES[name].format(log=path)])
    return Run(*ours[:2], *pipeline[:2], json.loads(ours[2])["most_bytes"])


def _timed(argv: list[str]) -> tuple[float, float, bytes]:
    """Seconds, processor seconds of it and all its children, and its output."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(argv, capture_output=True, cwd=_REPOSITORY, env=environment, check=True, timeout=600)
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def _day(lines: int) -> bytes:
    """A day of an application's log: one line in fifty is an error, each has its response time at the end."""
    chance = random.Random(7)
    now, step = datetime(2026, 5, 1, tzinfo=UTC), timedelta(days=1) / lines
    made = []
    for _ in range(lines):
        now += step * 0.999
        level = "ERROR" if chance.random() < 0.02 else "INFO"
        made.append(
            f"{now:%Y-%m-%d %H:%M:%S} {level} shop.api {chance.choice(_MESSAGES)} id={chance.getrandbits(64):016x}"
            f" path=/cart/{chance.randrange(100_000)} status=200 response_time {int(chance.lognormvariate(4, 1))}\n"
        )
    return "".join(made).encode()


def main() -> None:
    """One of ours, as the child that acts on a host would do it; prints the most memory that it held."""
    action, given = ACTIONS[sys.argv[1]]
    found = Rehearsal(action, {"paths": [sys.argv[2]], "rotated": False, "within": 600, **given}).plan()
    if not found.result["is_complete"]:
        raise RuntimeError(f"{sys.argv[1]} did not read everything: {found.warnings}")
    # Not ru_maxrss, which a program inherits from the one that started it.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(json.dumps({"most_bytes": int(peak.split()[1]) << 10}))


if __name__ == "__main__":
    main()
