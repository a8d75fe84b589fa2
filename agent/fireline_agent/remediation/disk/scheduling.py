"""Putting a schedule's files in place and taking them away: what schedule and unschedule share. No action."""

from collections.abc import Mapping
from typing import Any

from fireline_agent.hands import systemctl
from fireline_agent.hands.systemctl import SystemctlError
from fireline_agent.remediation.action import ActionError, Change, Tools
from fireline_agent.remediation.disk import schedules
from fireline_wire import durable


def writing(path: str, text: str) -> Change:
    """A file to be made."""
    return Change("setting", path, f"write {path}", {"path": path, "text": text}, len(text.encode()))


def removing(path: str, text: str) -> Change:
    """A file to be removed, as it is now."""
    return Change("setting", path, f"remove {path}", {"path": path, "text": text})


def switching(name: str, *, on: bool) -> Change:
    """The timer of a schedule, switched on or off."""
    unit, verb = schedules.timer(name), "enable" if on else "disable"
    return Change("service", unit, f"systemctl {verb} --now -- {unit}", {"unit": unit, "on": on})


def write(tools: Tools, data: Mapping[str, Any]) -> None:
    """Put the file there, durable, readable for all as units are.

    Raises:
        ActionError: something else is there, or it can't be written.
    """
    if schedules.found(tools, [data["path"]]).get(data["path"], data["text"]) != data["text"]:
        raise ActionError(f"{data['path']}: was changed meanwhile; plan again")
    place = schedules.on_host(tools, data["path"])
    try:
        durable.replace(place, data["text"].encode(errors="surrogateescape"))
        place.chmod(0o644 if place.suffix in (".service", ".timer") else 0o755)
    except OSError as error:
        raise ActionError(f"{data['path']}: {error.strerror}") from None
    _reload(tools, place.suffix)


def remove(tools: Tools, data: Mapping[str, Any]) -> None:
    """Take the file away.

    Raises:
        ActionError: it holds something else by now, or can't be removed.
    """
    found = schedules.found(tools, [data["path"]])
    if found.get(data["path"], data["text"]) != data["text"]:
        raise ActionError(f"{data['path']}: was changed meanwhile; it stays")
    place = schedules.on_host(tools, data["path"])
    try:
        place.unlink(missing_ok=True)
        durable.sync_folder(place.parent)
    except OSError as error:
        raise ActionError(f"{data['path']}: {error.strerror}") from None
    _reload(tools, place.suffix)


def switch(tools: Tools, unit: str, *, on: bool) -> None:
    """Start the timer now and at every boot, or never again.

    Raises:
        ActionError: systemd refuses.
    """
    manager = systemctl.find(tools.roots.root)
    if manager is None:
        raise ActionError("systemd is gone meanwhile", reason="unsupported")
    try:
        manager.switch(unit, on=on)
    except SystemctlError as error:
        raise ActionError(str(error)) from None


def is_waiting(tools: Tools, name: str) -> bool:
    """Whether the timer is enabled and runs."""
    manager = systemctl.find(tools.roots.root)
    try:
        state = manager.show(schedules.timer(name), ("ActiveState", "UnitFileState")) if manager else {}
    except SystemctlError:
        return False
    return (state.get("ActiveState"), state.get("UnitFileState")) == ("active", "enabled")


def _reload(tools: Tools, suffix: str) -> None:
    manager = systemctl.find(tools.roots.root) if suffix in (".service", ".timer") else None
    if manager is not None:
        try:
            manager.reload()
        except SystemctlError as error:
            raise ActionError(str(error)) from None
