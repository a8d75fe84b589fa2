"""Restarts the host's network through whatever manages it, with a guard that puts the old state back by itself."""

import time
from collections.abc import Mapping
from typing import Any, Final

from fireline_agent.hands import systemctl
from fireline_agent.hands.printable import printable
from fireline_agent.hands.systemctl import Systemctl, SystemctlError
from fireline_agent.remediation.action import Action, ActionError, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.system import network_state
from fireline_agent.remediation.system.network_state import Saved
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

_MANAGERS: Final = ("NetworkManager.service", "systemd-networkd.service", "networking.service")
_SETTLED_S: Final = 1.0
_PAUSE_S: Final = 0.2
_REPORT_S: Final = 15.0


def _gather(tools: Tools, params: Params) -> Facts:
    manager = _manager(tools)
    found = {}
    try:
        for name in _MANAGERS:
            found[name] = dict(manager.show(name, ("LoadState", "ActiveState", "InvocationID")))
    except SystemctlError as error:
        raise ActionError(str(error)) from None
    return {"managers": found, "state": network_state.current()}


def _plan(facts: Facts, params: Params) -> Plan:
    running = [name for name, found in facts["managers"].items() if found.get("ActiveState") == "active"]
    if not running:
        raise ActionError(
            f"wanted a running {' or '.join(_MANAGERS)}, found none: restart by hand whatever makes this network",
            reason="unsupported",
        )
    name, state = running[0], facts["state"]
    return Plan(
        f"restart {name}; {len(state['addresses'])} addresses and {len(state['routes'])} routes are put back after "
        f"{params['revert_after']} s where they do not come back by themselves",
        (
            Change(
                "service",
                f"{name}, run {facts['managers'][name].get('InvocationID', '')[:12]}",
                f"systemctl restart -- {name}",
                {"unit": name},
            ),
        ),
        tuple(f"{other} runs too and is left alone" for other in running[1:]),
        {"addresses": [printable(words[0]) for words in state["addresses"]]},
    )


def _do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    manager, state = _manager(tools), network_state.current()
    place = network_state.path(tools.roots, tools.request_id)
    network_state.guard(place, Saved(network_state.monotonic_s() + params["revert_after"], state))
    tools.tell(f"{change.does}; the guard waits {params['revert_after']} s")
    try:
        manager.act("restart", change.data["unit"], timeout_s=float(params["revert_after"]))
    except SystemctlError as error:
        lines = " | ".join(manager.journal(change.data["unit"], 8))
        raise ActionError(
            f"{error}; addresses and routes that are gone come back in {params['revert_after']} s; "
            f"its log ends: {lines}"
        ) from None
    return {"state": state}


def _verify(tools: Tools, plan: Plan, params: Params) -> Verified:
    place = network_state.path(tools.roots, tools.request_id)
    good_since: float | None = None
    while (saved := network_state.load(place)) is not None:
        now = time.monotonic()
        lacks = network_state.lacking(saved.state, network_state.current())
        good_since = None if lacks else good_since or now
        if good_since is not None and now - good_since >= _SETTLED_S and network_state.take(place):
            network_state.clear(place)
            return Verified(True, "every address and route is there again; the guard was called off")
        time.sleep(_PAUSE_S)
    return _put_back(place)


def _put_back(place: Any) -> Verified:
    until = time.monotonic() + _REPORT_S
    while (told := network_state.report(place)) is None:
        if time.monotonic() >= until:
            return Verified(False, "the network did not come back, and the guard did not say what it did")
        time.sleep(_PAUSE_S)
    network_state.clear(place)
    failed = f"; not: {'; '.join(told['failed'][:5])}" if told["failed"] else ""
    put = "; ".join(told["added"][:10]) or "nothing"
    return Verified(False, f"the network did not come back as it was, so the guard put back: {put}{failed}")


def _undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    added, failed = network_state.ip().put_back(kept["state"])
    if failed:
        raise ActionError(f"not put back: {'; '.join(failed[:5])}")
    return f"put back: {'; '.join(added)}" if added else "every address and route from before is there"


def _manager(tools: Tools) -> Systemctl:
    found = systemctl.find(tools.roots.root)
    if found is None:
        raise ActionError(
            "systemd is not this host's service manager: there is no /run/systemd/system", reason="unsupported"
        )
    return found


ACTION = Action(
    ActionSpec(
        "system.network_restart",
        "Restart the network; addresses and routes that do not come back are put back by themselves",
        Risk.DISRUPTIVE,
        parameters=(
            Parameter(
                "revert_after", Kind.DURATION, "When what is lost is put back, whether or not anybody is there.",
                30, least=3, most=600,
            ),
        ),
        results=(Result("addresses", Kind.TEXTS, "The host's addresses before."),),
        undo="adds addresses and routes from before that lack",
        needs=("systemd", "NetworkManager, systemd-networkd or ifupdown"),
    ),
    _gather,
    _plan,
    _do,
    _verify,
    _undo,
)  # fmt: skip
