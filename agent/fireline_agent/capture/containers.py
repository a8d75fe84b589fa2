"""What the engine's answers about containers mean: which are critical, which fail, which could take the host over.

Pure functions over answers that may have any shape: what does not fit is as if it weren't there. Leaves to others:
asking the engine (docker_containers).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Final

from fireline_agent.hands.printable import printable

PROJECT: Final = "com.docker.compose.project"
SERVICE: Final = "com.docker.compose.service"

LOOP_RESTARTS: Final = 3  # with a start as fresh as this, it is a loop and not a long life with three mishaps
LOOP_WINDOW_S: Final = 600.0

# Capabilities that are as good as root on the host, see capabilities(7).
_ROOT_CAPABILITIES: Final = frozenset(
    {"ALL", "BPF", "DAC_READ_SEARCH", "MAC_ADMIN", "SYS_ADMIN", "SYS_BOOT", "SYS_MODULE", "SYS_PTRACE", "SYS_RAWIO"}
)
# Host folders that give the host away when a container holds them.
_ROOT_BINDS: Final = frozenset(
    {
        "/",
        "/boot",
        "/dev",
        "/etc",
        "/home",
        "/proc",
        "/root",
        "/run",
        "/sys",
        "/usr",
        "/var",
        "/var/lib/docker",
        "/var/run",
    }
)
_ENGINE_SOCKETS: Final = ("docker.sock", "containerd.sock", "crio.sock", "podman.sock")


@dataclass(frozen=True)
class Found:
    """Something about a container that stands out; the fields of a finding."""

    severity: str
    code: str
    subject: str
    summary: str


@dataclass(frozen=True)
class Risk:
    """A setting that weakens the wall between a container and its host; `is_root` when there is no wall left."""

    code: str
    detail: str
    is_root: bool


@dataclass(frozen=True)
class Selector:
    """How a critical service is named: `label:KEY=VALUE`, `compose:SERVICE` or `name:GLOB`."""

    kind: str
    wanted: str

    @classmethod
    def parse(cls, spelled: str) -> "Selector":
        """Read a selector.

        Raises:
            ValueError: it is of no known kind, or a label without `=`.
        """
        kind, colon, wanted = spelled.partition(":")
        if (
            not colon
            or not wanted
            or kind not in ("label", "compose", "name")
            or (kind == "label" and "=" not in wanted)
        ):
            raise ValueError(
                f"critical service {spelled!r} is not understood: write label:KEY=VALUE, compose:SERVICE or name:GLOB"
            )
        return cls(kind, wanted)

    def matches(self, listed: Mapping[str, Any]) -> bool:
        """Whether a container, as `containers` lists it, is meant. Any of its names will do."""
        labels = part(listed, "Labels")
        if self.kind == "name":
            return any(fnmatchcase(name, self.wanted) for name in names(listed))
        if self.kind == "compose":
            return labels.get(SERVICE) == self.wanted
        key, _, value = self.wanted.partition("=")
        return labels.get(key) == value

    def __str__(self) -> str:
        return f"{self.kind}:{self.wanted}"


def part(tree: Any, *keys: str) -> Mapping[str, Any]:
    """The object under these keys, an empty one where there is none."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def names(listed: Mapping[str, Any]) -> list[str]:
    """A listed container's names, without the slash that the engine puts before them."""
    found = listed.get("Names")
    return [name.removeprefix("/") for name in found if isinstance(name, str)] if isinstance(found, list) else []


def title(listed: Mapping[str, Any]) -> str:
    """What to call a container in a message: its name, or the head of its id."""
    return printable((names(listed) or [str(listed.get("Id", "?"))[:12]])[0])


def looks_unwell(listed: Mapping[str, Any]) -> bool:
    """Whether the list alone gives reason to look closer: failed, restarting, unhealthy, or just started again."""
    state, status = str(listed.get("State", "")), str(listed.get("Status", ""))
    if state in ("restarting", "dead", "removing"):
        return True
    if state == "exited":
        return "Exited (0)" not in status
    return "(unhealthy)" in status or (status.startswith("Up ") and "second" in status)


def health(inspected: Mapping[str, Any], subject: str, *, now: datetime) -> Iterator[Found]:
    """What is wrong with an inspected container at the moment."""
    state = part(inspected, "State")
    if is_crash_looping(inspected, now=now):
        summary = (
            f"{subject} crashes and is started again: {_number(inspected, 'RestartCount')} restarts,"
            f" last exit code {_number(state, 'ExitCode')}{_error(state)}"
        )
        yield Found("critical", "container-crash-looping", subject, summary)
    if part(state, "Health").get("Status") == "unhealthy":
        yield Found("warning", "container-unhealthy", subject, f"{subject} fails its health check{_last_check(state)}")
    if state.get("OOMKilled") is True:
        summary = f"{subject} was killed for want of memory (limit {_memory_limit(inspected)})"
        yield Found("warning", "container-oom-killed", subject, summary)
    if state.get("Dead") is True or state.get("Status") == "dead":
        yield Found("warning", "container-dead", subject, f"{subject} is dead: it could not be removed{_error(state)}")


def is_crash_looping(inspected: Mapping[str, Any], *, now: datetime) -> bool:
    """Whether a container restarts right now, or did so often and lately."""
    state = part(inspected, "State")
    if state.get("Restarting") is True:
        return True
    started = _time(state.get("StartedAt"))
    is_fresh = started is not None and (now - started).total_seconds() < LOOP_WINDOW_S
    return _number(inspected, "RestartCount") >= LOOP_RESTARTS and is_fresh


def risks(inspected: Mapping[str, Any]) -> tuple[Risk, ...]:
    """The settings of a container that give it power over its host."""
    host = part(inspected, "HostConfig")
    return (*_flag_risks(host), *_namespace_risks(host), *_confinement_risks(host), *_mount_risks(inspected))


def compose_projects(listed: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Compose projects with their files and, for each service, its containers."""
    projects: dict[str, Any] = {}
    for entry in listed:
        labels = part(entry, "Labels")
        if not isinstance(labels.get(PROJECT), str):
            continue
        project = projects.setdefault(
            labels[PROJECT],
            {
                "working_dir": labels.get(f"{PROJECT}.working_dir", ""),
                "config_files": str(labels.get(f"{PROJECT}.config_files", "")).split(","),
                "services": {},
            },
        )
        container = {
            "id": entry.get("Id"),
            "name": title(entry),
            "state": entry.get("State"),
            "image": entry.get("Image"),
        }
        project["services"].setdefault(str(labels.get(SERVICE, "")), []).append(container)
    return projects


def _flag_risks(host: Mapping[str, Any]) -> Iterator[Risk]:
    if host.get("Privileged") is True:
        yield Risk("privileged", "runs privileged", is_root=True)
    added = sorted(str(name).upper().removeprefix("CAP_") for name in _list(host.get("CapAdd")))
    if added:
        is_root = not _ROOT_CAPABILITIES.isdisjoint(added)
        yield Risk("cap-add", f"adds capabilities {', '.join(added)}", is_root=is_root)
    devices = [str(device.get("PathOnHost")) for device in _list(host.get("Devices")) if isinstance(device, dict)]
    if devices:
        yield Risk("device", f"holds devices {', '.join(sorted(devices))}", is_root=False)


def _namespace_risks(host: Mapping[str, Any]) -> Iterator[Risk]:
    for key, code, is_root in (
        ("PidMode", "pid-host", True),
        ("NetworkMode", "network-host", False),
        ("IpcMode", "ipc-host", False),
        ("UsernsMode", "userns-host", False),
    ):
        if host.get(key) == "host":
            yield Risk(code, f"shares the host's {code.partition('-')[0]} namespace", is_root=is_root)


def _confinement_risks(host: Mapping[str, Any]) -> Iterator[Risk]:
    options = [str(option) for option in _list(host.get("SecurityOpt"))]
    loose = sorted(
        option for option in options if "unconfined" in option or option.replace("=", ":") == "label:disable"
    )
    if loose:
        yield Risk("unconfined", f"runs without {', '.join(loose)}", is_root=False)


def _mount_risks(inspected: Mapping[str, Any]) -> Iterator[Risk]:
    for mount in _list(inspected.get("Mounts")):
        source = str(mount.get("Source", "")) if isinstance(mount, dict) and mount.get("Type") == "bind" else ""
        folder = source.rstrip("/") or ("/" if source else "")
        way = "read-write" if isinstance(mount, dict) and mount.get("RW") is True else "read-only"
        if folder.endswith(_ENGINE_SOCKETS):
            # A read-only bind of a socket can still be written to.
            yield Risk("engine-socket", f"holds the container engine's socket {folder}", is_root=True)
        elif folder in _ROOT_BINDS:
            yield Risk("host-bind", f"holds the host's {folder} {way}", is_root=folder == "/" or way == "read-write")


def risk_finding(subject: str, found: Sequence[Risk]) -> Found:
    """One finding for all the risky settings of a container."""
    severity = "warning" if any(risk.is_root for risk in found) else "notice"
    summary = f"{subject} {'; '.join(risk.detail for risk in found)}"
    return Found(severity, "container-risky-settings", subject, printable(summary, limit=400))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(tree: Mapping[str, Any], key: str) -> int:
    value = tree.get(key)
    return value if type(value) is int else 0


def _error(state: Mapping[str, Any]) -> str:
    return f": {printable(str(state['Error']))}" if state.get("Error") else ""


def _last_check(state: Mapping[str, Any]) -> str:
    checks = [check for check in _list(part(state, "Health").get("Log")) if isinstance(check, dict)]
    output = str(checks[-1].get("Output", "")).strip() if checks else ""
    return f": {printable(output)}" if output else ""


def _memory_limit(inspected: Mapping[str, Any]) -> str:
    limit = _number(part(inspected, "HostConfig"), "Memory")
    return f"{limit >> 20} MiB" if limit else "none: the host itself ran out"


def _time(value: Any) -> datetime | None:
    """The engine's RFC 3339 time; it writes nanoseconds, which Python cuts off."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment if moment.tzinfo else None
