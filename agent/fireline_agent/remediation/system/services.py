"""Services of systemd: what their three verbs share. No action.

Leaves to others: how systemd is spoken to (systemctl).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any, Final

from fireline_agent.hands import systemctl
from fireline_agent.hands.printable import printable
from fireline_agent.hands.systemctl import Systemctl, SystemctlError
from fireline_agent.remediation.action import ActionError, Change, Facts, Params, Tools, Verified
from fireline_wire.actions import Kind, Parameter, Result

_STATE: Final = (
    "Id",
    "Names",
    "LoadState",
    "ActiveState",
    "SubState",
    "MainPID",
    "InvocationID",
    "NRestarts",
    "Result",
)
_TIES: Final = ("RequiredBy", "BoundBy", "ConsistsOf", "TriggeredBy")
_JOURNAL_LINES: Final = 12
_PAUSE_S: Final = 0.2
# Never: the host would be out of reach, or not isolated any more.
_OURS: Final = ("fireline-*",)
_CRITICAL: Final = (
    "ssh.*", "sshd.*", "ssh@*", "sshd@*", "dbus.*", "dbus-broker.*", "systemd-*", "networking.*", "network.*",
    "NetworkManager*", "wpa_supplicant*", "dhcpcd*", "dhclient*", "ifup@*", "wg-quick@*", "openvpn*", "strongswan*",
    "nftables.*", "iptables.*", "ip6tables.*", "netfilter-persistent.*", "firewalld.*", "ufw.*", "tailscaled.*",
)  # fmt: skip

PARAMETERS: Final = (
    Parameter("units", Kind.TEXTS, "Names of units; `nginx` stands for `nginx.service`.", is_required=True),
    Parameter("even_if_critical", Kind.BOOL, "Also what the host is reached by: ssh, network, firewall.", False),
    Parameter("timeout", Kind.DURATION, "How long one unit may take.", 90, least=1, most=1800),
    Parameter("settle", Kind.DURATION, "How long it must stay as wanted.", 2, least=0, most=600),
)
RESULTS: Final = (Result("units", Kind.ROWS, "Each unit with its state and process."),)


def gather(tools: Tools, params: Params) -> Facts:
    """The state of every named unit, and what hangs on it.

    Raises:
        ActionError: there is no systemd, or a name is none.
    """
    manager = _manager(tools)
    names = [_named(text) for text in params["units"]]
    if not names:
        raise ActionError("units: wanted at least one name, found none", reason="refused")
    return {"units": [_looked_at(manager, name) for name in dict.fromkeys(names)]}


def known(facts: Facts, params: Params) -> Sequence[Mapping[str, Any]]:
    """The units, where all of them may be acted on.

    Raises:
        ActionError: one is not there, is masked, or is one that the host is reached by.
    """
    for unit in facts["units"]:
        name = unit["name"]
        if unit["load"] == "not-found":
            raise ActionError(f"{name}: systemd of this host knows no such unit", reason="not_found")
        if unit["load"] != "loaded":
            raise ActionError(f"{name}: wanted a loaded unit, found {unit['load']}", reason="refused")
        if any(fnmatchcase(alias, pattern) for alias in unit["names"] for pattern in _OURS):
            raise ActionError(f"{name}: is part of Fireline itself; the host would be lost to you", reason="refused")
        is_critical = any(fnmatchcase(alias, pattern) for alias in unit["names"] for pattern in _CRITICAL)
        if is_critical and not params["even_if_critical"]:
            raise ActionError(
                f"{name}: the host may be reached by it; say even_if_critical=true to do it anyway", reason="refused"
            )
    found: Sequence[Mapping[str, Any]] = facts["units"]
    return found


def change(verb: str, unit: Mapping[str, Any]) -> Change:
    """One verb on one unit, bound to the run of it that is there now."""
    run = f"run {unit['invocation'][:12]}" if unit["invocation"] else "not run yet"
    return Change(
        "service",
        f"{unit['name']}, {unit['active']}, {run}",
        f"systemctl {verb} -- {unit['name']}",
        {"unit": unit["name"], "active": unit["active"], "invocation": unit["invocation"]},
    )


def warnings(verb: str, units: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What else it touches."""
    for unit in units:
        if unit["dependents"]:
            yield f"{unit['name']}: {', '.join(unit['dependents'][:10])} will {verb} with it"
        if unit["triggers"] and verb == "stop":
            yield f"{unit['name']}: {', '.join(unit['triggers'][:10])} may start it again"


def act(tools: Tools, one: Change, params: Params, verb: str) -> Mapping[str, Any]:
    """Have systemd do it, where the unit is still the planned run.

    Raises:
        ActionError: it is not, or systemd failed; with the unit's last lines of log.
    """
    manager, name = _manager(tools), one.data["unit"]
    unit = _looked_at(manager, name)
    if (unit["active"], unit["invocation"]) != (one.data["active"], one.data["invocation"]):
        raise ActionError(
            f"{name}: wanted it {one.data['active']} as planned, found it {unit['active']} or started anew; plan again"
        )
    tools.tell(one.does)
    _do(manager, verb, name, float(params["timeout"]))
    return {"was": unit["active"], "pid": unit["pid"]}


def take_back(tools: Tools, one: Change, verb: str) -> str:
    """The opposite verb.

    Raises:
        ActionError: systemd failed.
    """
    _do(_manager(tools), verb, one.data["unit"], 90.0)
    return f"systemctl {verb} -- {one.data['unit']}"


def verify(
    tools: Tools, changes: Sequence[Change], params: Params, is_good: Callable[[Change, Mapping[str, Any]], bool]
) -> Verified:
    """Whether every unit is as wanted, and stays so."""
    manager = _manager(tools)
    until = time.monotonic() + params["settle"]
    while True:
        units = [_looked_at(manager, one.data["unit"]) for one in changes]
        bad = [unit for one, unit in zip(changes, units, strict=True) if not is_good(one, unit)]
        if bad or time.monotonic() >= until:
            break
        time.sleep(_PAUSE_S)
    result = {"units": [_row(unit) for unit in units]}
    if bad:
        said = _journal(manager, bad[0]["name"])
        return Verified(False, f"{bad[0]['name']} is {bad[0]['active']} ({bad[0]['result']}){said}", result)
    states = ", ".join(f"{unit['name']} is {unit['active']}" for unit in units)
    return Verified(True, f"{states}, for {params['settle']} s", result)


def _do(manager: Systemctl, verb: str, name: str, timeout_s: float) -> None:
    if verb != "stop":
        with suppress(SystemctlError):  # a unit that crashed too often is refused a start: StartLimitBurst=
            manager.act("reset-failed", name, timeout_s=timeout_s)
    try:
        manager.act(verb, name, timeout_s=timeout_s)
    except SystemctlError as error:
        raise ActionError(f"{error}{_journal(manager, name)}") from None


def _journal(manager: Systemctl, name: str) -> str:
    lines = manager.journal(name, _JOURNAL_LINES)
    return f"; its log ends: {' | '.join(lines)}" if lines else ""


def _manager(tools: Tools) -> Systemctl:
    found = systemctl.find(tools.roots.root)
    if found is None:
        raise ActionError(
            "systemd is not this host's service manager: there is no /run/systemd/system", reason="unsupported"
        )
    return found


def _named(text: str) -> str:
    name = systemctl.unit_name(text)
    if name is None:
        raise ActionError(f"units: wanted a name such as nginx.service, found {printable(text)!r}", reason="refused")
    return name


def _looked_at(manager: Systemctl, name: str) -> dict[str, Any]:
    try:
        found = manager.show(name, (*_STATE, *_TIES))
    except SystemctlError as error:
        raise ActionError(str(error)) from None
    dependents = {unit for tie in _TIES[:3] for unit in found.get(tie, "").split() if not unit.endswith(".target")}
    return {
        "name": found.get("Id", name),
        "names": sorted({name, found.get("Id", name), *found.get("Names", "").split()}),
        "load": found.get("LoadState", "not-found"),
        "active": found.get("ActiveState", "inactive"),
        "sub": found.get("SubState", ""),
        "pid": int(found.get("MainPID", "0") or 0),
        "invocation": found.get("InvocationID", ""),
        "result": found.get("Result", ""),
        "dependents": sorted(dependents),
        "triggers": found.get("TriggeredBy", "").split(),
    }


def _row(unit: Mapping[str, Any]) -> dict[str, Any]:
    return {"unit": unit["name"], "state": unit["active"], "sub": unit["sub"], "pid": unit["pid"]}
