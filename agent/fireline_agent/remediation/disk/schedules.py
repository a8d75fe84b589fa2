"""A recurring clean-up as files of this host: what they are called and hold. No action. Pure but for reading them.

With systemd a timer and its service, else a script for cron's run-parts(8). They run this agent's own clean-up (sweep),
so that a scheduled one spares exactly what an ordered one spares. Every file says who made it; others are not touched.

Sources: systemd.service(5) and systemd.syntax(7) for quoting, systemd.timer(5), cron(8).
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands import systemctl
from fireline_agent.hands.process import module_command, module_environment
from fireline_agent.remediation.action import ActionError, Tools

MARK: Final = "# Made by Fireline, disk.schedule_cleanup."
_UNITS: Final = "etc/systemd/system"
_SWEEP: Final = "fireline_agent.remediation.disk.sweep"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}\Z")
EVERY: Final = ("hourly", "daily", "weekly")

_SERVICE: Final = """\
{mark} Remove it with disk.unschedule_cleanup name={name}
[Unit]
Description=Fireline clean-up {name}

[Service]
Type=oneshot
Environment={environment}
ExecStart={command}
Nice=10
IOSchedulingPriority=7
PrivateNetwork=yes
NoNewPrivileges=yes
"""
_TIMER: Final = """\
{mark} Remove it with disk.unschedule_cleanup name={name}
[Unit]
Description=Fireline clean-up {name}, {every}

[Timer]
OnCalendar={every}
RandomizedDelaySec=10min
Persistent=true

[Install]
WantedBy=timers.target
"""
_SCRIPT: Final = """\
#!/bin/sh
{mark} Remove it with disk.unschedule_cleanup name={name}
exec env {environment} {command}
"""


def checked_name(name: str) -> str:
    """The name of a schedule.

    Raises:
        ActionError: it can't be one.
    """
    if not _NAME.match(name):
        raise ActionError(f"name: wanted a-z, 0-9 and '-', at most 40, found {name[:60]!r}", reason="refused")
    return name


def has_systemd(tools: Tools) -> bool:
    """Whether this host has timers of systemd; else whether cron looks into its folders.

    Raises:
        ActionError: neither is there.
    """
    if systemctl.find(tools.roots.root) is not None:
        return True
    if (tools.roots.root / "etc/cron.daily").is_dir():
        return False
    raise ActionError(
        "nothing here starts programs by the clock: no /run/systemd/system, no /etc/cron.daily", reason="unsupported"
    )


def timer(name: str) -> str:
    """The timer's unit name."""
    return f"fireline-cleanup-{name}.timer"


def places(name: str, *, systemd: bool) -> list[str]:
    """Where a schedule's files may be, as absolute paths of the host."""
    if systemd:
        return [f"/{_UNITS}/fireline-cleanup-{name}.service", f"/{_UNITS}/{timer(name)}"]
    return [f"/etc/cron.{every}/fireline-cleanup-{name}" for every in EVERY]


def texts(params: Mapping[str, Any], *, systemd: bool) -> dict[str, str]:
    """The files of a schedule, by path."""
    name, every = params["name"], params["every"]
    command = [*module_command(_SWEEP, (params["kind"], f"--older-than={params['older_than']}"))]
    command += [f"--pattern={pattern}" for pattern in params["patterns"]]
    command += [f"--root={root}" for root in params["roots"]]
    variables = [f"{key}={value}" for key, value in module_environment().items()]
    if not systemd:
        words = {"environment": shlex.join(variables), "command": shlex.join(command)}
        return {f"/etc/cron.{every}/fireline-cleanup-{name}": _SCRIPT.format(mark=MARK, name=name, **words)}
    service, clock = places(name, systemd=True)
    words = {"environment": _quoted(variables), "command": _quoted(command)}
    return {
        service: _SERVICE.format(mark=MARK, name=name, **words),
        clock: _TIMER.format(mark=MARK, name=name, every=every),
    }


def found(tools: Tools, paths: Sequence[str]) -> dict[str, str]:
    """What is at these paths now, where something is.

    Raises:
        ActionError: a file of the name is not ours.
    """
    there = {}
    for path in paths:
        try:
            text = on_host(tools, path).read_text(errors="surrogateescape")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ActionError(f"{path}: {error.strerror}") from None
        if MARK not in text[:200]:
            raise ActionError(f"{path}: is there and was not made by Fireline; it stays", reason="refused")
        there[path] = text
    return there


def on_host(tools: Tools, path: str) -> Path:
    """A path of the host as this process reaches it."""
    return tools.roots.root / path.lstrip("/")


def _quoted(words: Sequence[str]) -> str:
    """Words of a command line in a unit: `%` and `$` would be specifiers and variables, systemd.unit(5)."""
    escaped = (w.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$") for w in words)
    return " ".join(f'"{word}"' for word in escaped)
