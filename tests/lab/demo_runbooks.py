"""The demo's runbooks: a trouble that is made, the plan, the run, and the proof from outside that it is cured."""

from collections.abc import Callable

from tests.fleet import Fleet
from tests.lab import Host, engine, eventually

Show = Callable[..., None]
Say = Callable[[str], None]

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
