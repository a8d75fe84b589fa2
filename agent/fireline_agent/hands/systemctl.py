"""The door to the host's services: the systemctl and journalctl programs, with bounded time and output.

The programs, not D-Bus: they are wherever systemd is. Leaves to others: which services, sd_notify (systemd).
Sources: systemctl(1), org.freedesktop.systemd1(5), journalctl(1), systemd.unit(5) for names.
"""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fireline_agent.hands.printable import printable
from fireline_agent.hands.secrets import mask_text

# Never PATH: on a suspect host another program may stand there.
_PLACES: Final = (Path("/usr/bin"), Path("/bin"))
_RUNNING: Final = Path("/run/systemd/system")  # sd_booted(3)
_ENVIRONMENT: Final = {"LANG": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_PAGER": ""}
_LOOK_S: Final = 15.0
_MAX_OUTPUT: Final = 1 << 18
_MAX_COMPLAINT: Final = 600
_LINE_LETTERS: Final = 300
_UNIT: Final = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]{0,249}\Z")


class SystemctlError(Exception):
    """A program refused, did not end in time or can't be started; the message is its own complaint, shortened."""


@dataclass(frozen=True)
class Systemctl:
    """systemd of this host. Every method blocks for a bounded time and raises SystemctlError."""

    folder: Path

    def show(self, unit: str, properties: Sequence[str]) -> Mapping[str, str]:
        """Properties of a unit; one that there is not has the LoadState `not-found`."""
        answer = self._run(["systemctl", "show", f"--property={','.join(properties)}", "--", unit], _LOOK_S)
        return dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)

    def act(self, verb: str, unit: str, *, timeout_s: float) -> None:
        """Have it done and wait for the end of it: `start`, `stop`, `restart`, `reset-failed`."""
        self._run(["systemctl", verb, "--no-ask-password", "--", unit], timeout_s)

    def switch(self, unit: str, *, on: bool) -> None:
        """Start a unit now and at every boot, or end it and start it never again."""
        self._run(["systemctl", "enable" if on else "disable", "--now", "--no-ask-password", "--", unit], _LOOK_S)

    def reload(self) -> None:
        """Read the unit files again."""
        self._run(["systemctl", "daemon-reload"], _LOOK_S)

    def journal(self, unit: str, lines: int) -> list[str]:
        """The last lines of a unit's log, printable, secrets masked; empty where there are none or none may be read."""
        words = ["journalctl", "--no-pager", "--output=cat", f"--lines={lines}", f"--unit={unit}"]
        try:
            answer = self._run(words, _LOOK_S)
        except SystemctlError:
            return []
        return [mask_text(printable(line, limit=_LINE_LETTERS)) for line in answer.splitlines()[-lines:]]

    def _run(self, words: Sequence[str], timeout_s: float) -> str:
        argv = (str(self.folder / words[0]), *words[1:])
        try:
            ended = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, cwd="/", env=_ENVIRONMENT,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise SystemctlError(f"{' '.join(words)}: did not end within {timeout_s:g} s") from None
        except OSError as error:
            raise SystemctlError(f"{argv[0]} can't be started: {error.strerror}") from None
        if ended.returncode != 0:
            complaint = " ".join(ended.stderr.decode(errors="backslashreplace").split())
            raise SystemctlError(
                f"{' '.join(words)}: {printable(complaint, limit=_MAX_COMPLAINT) or f'exit status {ended.returncode}'}"
            )
        return ended.stdout[:_MAX_OUTPUT].decode(errors="backslashreplace")


def find(root: Path = Path("/")) -> Systemctl | None:
    """systemd, where it runs as the host's service manager; None elsewhere."""
    if not (root / _RUNNING.relative_to("/")).is_dir():
        return None
    return next((Systemctl(place) for place in _PLACES if os.access(place / "systemctl", os.X_OK)), None)


def unit_name(text: str) -> str | None:
    """A unit's full name (`nginx` is `nginx.service`), or None where it can't be one."""
    name = text if text.rpartition(".")[2] in ("service", "socket", "timer", "path") else f"{text}.service"
    return name if _UNIT.match(name) else None
