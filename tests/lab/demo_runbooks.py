"""The demo's runbooks: a trouble that is made, the plan, the run, and the proof from outside that it is cured."""

import threading
from collections.abc import Callable
from typing import Final

from tests.fleet import Fleet
from tests.lab import Host, engine, eventually
from tests.rehearsals.disks import DATA, MIB, NEW_LOG, OLD_LOGS, allow_all, fill, is_writable, there, used_percent

Show = Callable[..., None]
Say = Callable[[str], None]

SECOND: Final = "bob"
_POLL_S: Final = 0.3
_SICK, _WELL = "shop-web", "shop-cache"
_SCRIPT = "trap 'exit 0' TERM; touch /tmp/well; while :; do sleep 0.2; done"
_CHECK = ("--health-cmd", "[ -f /tmp/well ]", "--health-interval", "1s", "--health-retries", "1")
_STATUS = "{{.State.Health.Status}}, up since {{.State.StartedAt}}"


def unhealthy_containers(fleet: Fleet, names: tuple[str, ...], incident: str, *, show: Show, say: Say) -> bool:
    """Containers fail their own check on some hosts: those alone are restarted, one host first. Whether it helped."""
    hosts = [fleet.lab[name] for name in names]
    for host in hosts:
        for name in (_SICK, _WELL):
            options = ("run", "-d", "--pull", "never", "--name", name, *_CHECK)
            engine.docker(host, *options, engine.IMAGE, "sh", "-c", _SCRIPT)
    for host in hosts:
        _until(host, _WELL, "healthy")
        _until(host, _SICK, "healthy")
        engine.docker(host, "exec", _SICK, "/bin/busybox", "rm", "/tmp/well")
    for host in hosts:
        _until(host, _SICK, "unhealthy")
    before = _statuses(hosts)
    say(f"{_SICK} fails its check on {' and '.join(names)}; {_WELL} beside it is well:")
    _tell(before, say)

    order = ("runbook", "run", "unhealthy-containers", "-t", ",".join(names), "-i", incident, "-p", "after=1s")
    show(fleet, *order, "--plan")
    show(fleet, *order)

    after = _statuses(hosts)
    say("asked of the engines themselves, not of Fireline:")
    _tell(after, say)
    are_spared = all(after[host, _WELL] == before[host, _WELL] for host in names)
    return are_spared and all(after[host, _SICK].startswith("healthy") for host in names)


def _until(host: Host, name: str, health: str) -> None:
    def is_so() -> bool:
        return engine.docker(host, "inspect", "--format", _STATUS, name).startswith(f"{health},")

    eventually(is_so, within_s=20, what=f"{name} on {host.name} to be {health}", every_s=0.2)


def _statuses(hosts: list[Host]) -> dict[tuple[str, str], str]:
    return {
        (host.name, name): engine.docker(host, "inspect", "--format", _STATUS, name)
        for host in hosts
        for name in (_SICK, _WELL)
    }


def _tell(statuses: dict[tuple[str, str], str], say: Say) -> None:
    for (host, name), status in statuses.items():
        say(f"  {host} {name}: {status}")


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
