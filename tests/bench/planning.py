"""Plans one action in a process that holds nothing else: `python -m tests.bench.planning NAME FOLDER` prints JSON."""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Final

from fireline_agent.remediation import applying
from fireline_agent.remediation.action import Action, Tools
from fireline_agent.remediation.disk import clean_logs, usage

_ACTIONS: Final[dict[str, tuple[Action, dict[str, object]]]] = {
    "usage": (usage.ACTION, {}),
    "clean_logs": (clean_logs.ACTION, {"older_than": 7 * 86400}),
}


def main() -> None:
    """Plan once and print what it cost."""
    what, place = sys.argv[1:3]
    action, given = _ACTIONS[what]
    params = action.spec.check({"roots": [place], **given})
    began = time.perf_counter()
    plan = applying.planned(action, Tools(), params)
    seconds = time.perf_counter() - began
    peak_kib = max(_own_peak_kib(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_kib << 10, "files": plan.result["files"]}))


def _own_peak_kib() -> int:
    """Not ru_maxrss, which holds the peak of whoever started us, from before the exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
