"""security.disable_account: lock a person's account and end all that runs as it, and let it back.

The password is locked and the account expired, so that neither password nor key lets anybody in (PAM's account check,
and sshd's own without PAM), and cron runs nothing of it. Sources: usermod(8), shadow(5), sshd_config(5) UsePAM.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from fireline_agent.hands import accounts
from fireline_agent.hands.accounts import Account
from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import Action, ActionError, Change, Facts, Params, Plan, Tools, Verified
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk, nearest

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?\Z")
_EXPIRED: Final = "1"  # the second day of 1970: usermod(8) takes 0 and empty for never
_END_S: Final = 10.0
_MAX_ROWS: Final = 200
_ADMINS: Final = frozenset({"sudo", "wheel", "admin", "adm", "docker", "root", "lxd", "libvirt"})


def gather(tools: Tools, params: Params) -> Facts:
    """The account, and what runs as it."""
    name, root = params["account"], tools.roots.root
    if not _NAME.match(name):
        raise ActionError(f"{printable(name)}: this is no name of an account", reason="refused")
    try:
        account = accounts.find(name, root)
    except OSError as error:
        raise ActionError(f"the accounts of this host can't be read: {error}") from None
    if account is None:
        hint = nearest(name, accounts.names(root)[:1000])
        raise ActionError(f"there is no account {name} in {root / 'etc/passwd'}; {hint}", reason="not_found")
    return {
        "uid": account.uid,
        "is_system": accounts.is_system(account, root),
        "is_locked": account.is_locked,
        "has_password": account.has_password,
        "expires_day": account.expires_day,
        "groups": list(account.groups),
        "processes": [list(p) for p in accounts.processes_of(account.uid, tools.roots.proc)][:_MAX_ROWS],
    }


def plan(facts: Facts, params: Params) -> Plan:
    """Lock it, then end what runs as it; what that is may change, so it is not part of what is agreed on."""
    name = params["account"]
    _refuse(facts, params)
    who = {"account": name, "uid": facts["uid"]}
    lock = Change(
        "account",
        f"{name} (uid {facts['uid']})",
        f"usermod --lock --expiredate {_EXPIRED} {name}",
        {**who, "was_locked": facts["is_locked"], "expires_day": facts["expires_day"]},
    )
    end = Change("session", f"all that runs as {name} (uid {facts['uid']})", "kill it", who)
    changes = [] if _is_disabled(facts) else [lock]
    if params["end_sessions"] and (changes or facts["processes"]):
        changes.append(end)
    rows = [{"pid": pid, "name": printable(comm)} for pid, _, comm in facts["processes"]]
    count = f"{len(rows)} processes" if len(rows) != 1 else "1 process"
    return Plan(
        f"disable {name}, {count} of it" if changes else f"{name} is disabled already, and nothing runs as it",
        tuple(changes),
        tuple(_warnings(facts, params)),
        {"uid": facts["uid"], "processes": rows},
    )


def do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    """Lock, or end."""
    account = _planned(tools, params["account"], change)
    if change.kind == "session":
        ended, left = accounts.end_processes(account.uid, tools.roots.proc, within_s=_END_S)
        if left:
            raise ActionError(f"the kernel did not end {', '.join(map(str, left[:20]))} within {_END_S:g} s")
        return {"ended": ended}
    _modify(tools, account, "--lock", "--expiredate", _EXPIRED)
    return {"was_locked": change.data["was_locked"], "expires_day": change.data["expires_day"]}


def verify(tools: Tools, plan_: Plan, params: Params) -> Verified:
    """It is locked and expired, and nothing runs as it."""
    account = accounts.find(params["account"], tools.roots.root)
    if account is None or not account.is_locked or account.expires_day != _EXPIRED:
        return Verified(False, f"{params['account']} is not locked and expired: something changed it back")
    left = accounts.processes_of(account.uid, tools.roots.proc)
    if left and params["end_sessions"]:
        return Verified(False, f"{len(left)} processes run as {account.name} again, the first is pid {left[0][0]}")
    running = f"{len(left)} processes still run" if left else "nothing runs"
    return Verified(True, f"{account.name} is locked and expired in shadow, and {running} as it")


def undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """Let it in again as it was; what was ended stays ended."""
    name = change.data["account"]
    if change.kind == "session":
        return "what ran as it can't be brought back"
    account = _planned(tools, name, change)
    options = ["--expiredate", _as_date(kept["expires_day"])]
    if not kept["was_locked"] and account.is_locked and account.has_password:
        options.append("--unlock")
    _modify(tools, account, *options)
    return f"{name} may log in again as before"


def _refuse(facts: Facts, params: Params) -> None:
    name = params["account"]
    if facts["uid"] == 0:
        raise ActionError(f"{name} is root: without it nobody could let it back", reason="refused")
    if facts["is_system"] and not params["even_if_system"]:
        raise ActionError(
            f"{name} (uid {facts['uid']}) is a service's account: that service would stop; say even_if_system=yes",
            reason="refused",
        )
    if name in params["spare"]:
        raise ActionError(f"{name} is one of those to be spared ({', '.join(params['spare'])})", reason="refused")


def _is_disabled(facts: Facts) -> bool:
    return bool(facts["is_locked"]) and facts["expires_day"] == _EXPIRED


def _warnings(facts: Facts, params: Params) -> list[str]:
    name = params["account"]
    mighty = sorted(_ADMINS & set(facts["groups"]))
    found = [f"{name} is in {', '.join(mighty)}: whoever used it may have become root"] if mighty else []
    if not params["end_sessions"] and facts["processes"]:
        found.append(f"{len(facts['processes'])} processes go on as {name}: locking ends no session")
    return found


def _planned(tools: Tools, name: str, change: Change) -> Account:
    account = accounts.find(name, tools.roots.root)
    if account is None or account.uid != change.data["uid"]:
        raise ActionError(f"account {name} is not the one that was planned any more: plan again")
    return account


def _modify(tools: Tools, account: Account, *options: str) -> None:
    try:
        accounts.modify(account.name, tools.roots.root, *options)
    except OSError as error:
        raise ActionError(str(error)) from None


def _as_date(day: str) -> str:
    """As usermod takes it: days since 1970, or empty for never."""
    return day if day.isdecimal() else ""


ACTION: Final = Action(
    ActionSpec(
        "security.disable_account",
        "Disable an account of the host (locked and expired) and end all that runs as it",
        Risk.DISRUPTIVE,
        (
            Parameter("account", Kind.TEXT, "its name", is_required=True),
            Parameter("end_sessions", Kind.BOOL, "kill all that runs as it on the host", True),
            Parameter("even_if_system", Kind.BOOL, "also a service's account (uid below UID_MIN)", False),
            Parameter("spare", Kind.TEXTS, "accounts that are never disabled: those of the operators", ()),
        ),
        (
            Result("uid", Kind.INT, "the account's number"),
            Result("processes", Kind.ROWS, "pid and name of what runs as it, at most 200"),
        ),
        evidence=("processes", "sessions"),
        undo="lock and expiry are as before; sessions stay ended",
    ),
    gather,
    plan,
    do,
    verify,
    undo,
)
