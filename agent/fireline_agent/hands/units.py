"""The door to systemd's units: how one is, and started again. See systemctl(1)."""

import subprocess
from typing import Final

_TIMEOUT_S: Final = 120.0  # a unit's own time-outs are 90 s
_ENVIRONMENT: Final = {"LANG": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def state(name: str) -> str:
    """`active`, `inactive`, `failed`, …; empty where systemd has no such unit.

    Raises:
        OSError: there is no systemd on this host.
    """
    shown = _systemctl("show", "--property=LoadState,ActiveState", "--", name)
    found = dict(line.partition("=")[::2] for line in shown.splitlines())
    return "" if found.get("LoadState", "not-found") == "not-found" else found.get("ActiveState", "")


def restart(name: str) -> None:
    """Stop and start a unit, and wait until systemd calls it started.

    Raises:
        OSError: it did not start, or there is no systemd.
    """
    _systemctl("restart", "--", name)


def _systemctl(*arguments: str) -> str:
    argv = ("systemctl", *arguments)
    try:
        ended = subprocess.run(argv, check=True, capture_output=True, timeout=_TIMEOUT_S, env=_ENVIRONMENT, cwd="/")
    except FileNotFoundError:
        raise OSError("no systemd on this host: systemctl is not there") from None
    except subprocess.TimeoutExpired:
        raise OSError(f"systemctl {arguments[0]}: no end within {_TIMEOUT_S:g} s") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()[-300:]
        raise OSError(f"systemctl {arguments[0]}: {said or error}") from None
    return ended.stdout.decode(errors="replace")
