"""A real service manager on a lab host: systemd, with the product's own units and nothing that the machine enables."""

import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.lab.errors import LabError
from tests.lab.host import Host
from tests.lab.namespaces import REPOSITORY
from tests.lab.processes import Process, child_of, eventually

SYSTEMD: Final = Path("/usr/lib/systemd/systemd")
_UNITS: Final = "/etc/systemd/system"
_BOOT_S: Final = 30.0
# What a lab host has no devices, terminals or machine for.
_MASKED: Final = (
    "getty.target",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-logind.service",
    "systemd-networkd.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "systemd-udev-trigger.service",
    "systemd-udevd.service",
    "dev-hugepages.mount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
)
# The sandbox of a unit hides the folders that a developer's Python and repository lie in: they are bound to /opt.
_PROGRAM: Final = """\
#!/opt/fireline/python/bin/{python} -I
import sys
sys.path[:0] = ["/opt/fireline/agent", "/opt/fireline/protos", "/opt/fireline/packages"]
from fireline_agent.main import main
sys.exit(main())
"""


def lacks() -> tuple[str, ...]:
    """What is missing for it, nothing as a rule."""
    return () if SYSTEMD.exists() else ("systemd",)


class Services:
    """systemd on one host while the block lasts: `fireline-agent` installed, its units and some more enabled.

    Args:
        host: it runs, and no agent does.
        more: the text of further units, by name, enabled too.
        can_change: the agent's unit is opened for actions, by its drop-in.
    """

    def __init__(self, host: Host, more: Mapping[str, str] | None = None, *, can_change: bool = False) -> None:
        self._host = host
        self._drop_ins = tuple((REPOSITORY / "agent").glob("*.service.d/*.conf")) if can_change else ()
        self._more = more or {}
        self._holder: Process | None = None

    def __enter__(self) -> Self:
        host = self._host
        program = _PROGRAM.format(python=Path(sys.executable).resolve().name)
        host.run(["rm", "-rf", "/usr/bin/fireline-agent", "/lab-units"])
        host.write("/usr/bin/fireline-agent", program.encode(), mode=0o755)
        self._install()
        boot = host.write("/lab-services.sh", Path(__file__).with_name("services.sh").read_bytes(), mode=0o755)
        env = {"LAB_BINDS": _binds(), "LAB_SYSTEMD": str(SYSTEMD)}
        self._holder = host.spawn(["bash", boot], unit="services", log="/var/log/services.log", env=env)
        try:
            eventually(self._is_up, within_s=_BOOT_S, what=f"systemd on {host.name} to be up", every_s=0.1)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command where the services run.

        Raises:
            LabError: it failed (unless `check` is off), or there is no systemd.
        """
        return self._host.run([*self.inside(), *argv], check=check)

    def inside(self) -> list[str]:
        """What stands before a command of the host so that it runs where the services run.

        Raises:
            LabError: there is no systemd.
        """
        inside = _pid_on_host(self._init().pid)
        return ["nsenter", "-t", str(inside), "-m", "-p", "-C", "--root", "--wd", "--"]

    def _install(self) -> None:
        units = {unit.name: unit.read_text() for unit in (REPOSITORY / "agent").glob("*.service")} | dict(self._more)
        for name, text in units.items():
            self._host.write(f"/lab-units/{name}", text.encode(), mode=0o644)
        for drop_in in self._drop_ins:
            self._host.write(f"/lab-units/{drop_in.parent.name}/{drop_in.name}", drop_in.read_bytes(), mode=0o644)
        links = [(name, "/dev/null") for name in _MASKED]
        links += [(f"multi-user.target.wants/{name}", f"{_UNITS}/{name}") for name in units]
        links.append(("default.target", "/usr/lib/systemd/system/multi-user.target"))
        self._host.run(["mkdir", "-p", "/lab-units/multi-user.target.wants"])
        for name, target in links:
            self._host.run(["ln", "-sf", target, f"/lab-units/{name}"])

    def _is_up(self) -> bool:
        if self._holder is None or not self._holder.is_alive():
            raise LabError(f"systemd ended: {self._host.run(['tail', '-n', '20', '/var/log/services.log'])}")
        try:
            return self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded")
        except LabError:
            return False  # not even its first process is there

    def _init(self) -> Process:
        init = child_of(self._holder) if self._holder is not None else None
        if init is None:
            raise LabError(f"{self._host.name}: there is no systemd")
        return init

    def _end(self) -> None:
        holder, self._holder = self._holder, None
        init = child_of(holder) if holder is not None else None
        for process in (holder, init):  # the first process of a namespace goes last of all that are in it
            if process is not None:
                process.signal(9)
                process.wait_gone(within_s=10)


def _binds() -> str:
    sources = {
        sys.base_prefix: "python",
        sysconfig.get_path("purelib"): "packages",
        str(REPOSITORY / "agent"): "agent",
        str(REPOSITORY / "protos"): "protos",
    }
    binds = [f"{source}:/opt/fireline/{name}" for source, name in sources.items()]
    return " ".join([*binds, f"/lab-units:{_UNITS}"])


def _pid_on_host(pid: int) -> int:
    """A process's pid as the host's first process knows it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[2])
