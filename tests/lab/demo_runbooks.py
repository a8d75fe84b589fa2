"""The third act of the demo: runbooks cure what is really broken, each with its plan, a second person and a proof."""

import threading
from collections.abc import Callable
from typing import Final

from tests.fleet import Fleet
from tests.rehearsals.disks import DATA, MIB, NEW_LOG, OLD_LOGS, allow_all, fill, is_writable, there, used_percent

SECOND: Final = "bob"
_POLL_S: Final = 0.3

Show = Callable[..., None]
Say = Callable[[str], None]


def disk_full(fleet: Fleet, name: str, *, show: Show, say: Say) -> bool:
    """Fill a host's disk and let `disk-full` free it; whether the old logs went, and nothing else."""
    host = fleet.lab[name]
    allow_all(host)
    fill(host, log_bytes=8 * MIB)
    written = is_writable(host)
    say(f"{name}: the disk is {used_percent(host)} % full, and a program can{'' if written else 'not'} write to it")
    show(fleet, "incident", "open", "P2", f"no space left on {name}", "-t", name, "--profile", "volatile")
    incident = str(fleet.json("incident", "list")["incidents"][0]["incident"])
    show(fleet, "runbook", "suggest", incident)
    params = ("-p", "docker=false", "-p", "look_in=/var/log", "-p", "temp=/var/tmp")
    show(fleet, "runbook", "run", "disk-full", "-i", incident, *params, "--plan")
    approved_run(fleet, "disk-full", "-i", incident, *params, show=show)
    left = there(host, *OLD_LOGS, NEW_LOG, DATA)
    is_cured = is_writable(host) and left == [NEW_LOG, DATA]
    say(f"{name}: the disk is {used_percent(host)} % full; old logs are {'gone' if is_cured else 'STILL THERE'},"
        " the newest one and the data are not touched")  # fmt: skip
    return is_cured and not written


def approved_run(fleet: Fleet, *words: str, show: Show) -> None:
    """Run a runbook in front of the reader, while a second operator approves what it asks for."""
    ended = threading.Event()
    second = threading.Thread(target=_approve, args=(fleet, ended))
    second.start()
    try:
        show(fleet, "runbook", "run", *words)
    finally:
        ended.set()
        second.join()


def _approve(fleet: Fleet, ended: threading.Event) -> None:
    while not ended.wait(_POLL_S):
        waiting = [run["run"] for run in fleet.json("runbook", "status")["runs"] if run["state"] == "waiting"]
        for run in waiting:  # one that waits for anything else says so, and nothing happens
            fleet.try_fireline("--as", SECOND, "runbook", "approve", run, "--yes", "--reason", "plan looked at")
