"""security.rotate_authorized_keys: who may log in to an account by key is this list and nobody else; the old one aside.

The folder belongs to the account, and so maybe to an intruder: no part of the path is followed as a link, and the new
file belongs to the account with mode 0600. What sshd reads elsewhere (AuthorizedKeysCommand, a global file) stays.

Sources: sshd(8) AUTHORIZED_KEYS FILE FORMAT, sshd_config(5) AuthorizedKeysFile.
"""

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands import accounts, places, rewrite
from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import Action, ActionError, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.security import aside, rotation
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

_KINDS: Final = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
_FILES: Final = ("authorized_keys", "authorized_keys2")  # sshd's default is both
_NOTHING: Final = b""


def gather(tools: Tools, params: Params) -> Facts:
    """The account, and the files as they are."""
    account = accounts.find(params["account"], tools.roots.root)
    if account is None:
        raise ActionError(f"there is no account {printable(params['account'])} on this host", reason="not_found")
    paths = [f"{account.home.rstrip('/')}/.ssh/{name}" for name in _FILES]
    found = {path: _read(tools, path) for path in paths}
    return {
        "uid": account.uid,
        "gid": account.gid,
        "folder": f"{account.home.rstrip('/')}/.ssh",
        "is_allowed": all(tools.allows_path(path) for path in paths),
        "files": [
            {"path": path, "identity": held.identity if held else "", "lines": _lines(held.content if held else b"")}
            for path, held in found.items()
        ],
    }


def plan(facts: Facts, params: Params) -> Plan:
    """The first file gets the list; the second, where there is one, becomes empty."""
    wanted = [_checked(line) for line in params["keys"]]
    if not facts["is_allowed"]:
        raise ActionError(
            f"{facts['folder']}: this host's policy does not let actions change it (`writable`)", reason="denied"
        )
    first, second = facts["files"]
    changes = [] if first["lines"] == wanted else [_change(first, wanted, facts)]
    if second["lines"]:
        changes.append(_change(second, [], facts))
    now = [*first["lines"], *second["lines"]]
    leaving = [line for line in now if line not in wanted]
    coming = [line for line in wanted if line not in now]
    account = printable(params["account"])
    summary = f"{account}: {len(leaving)} keys go, {len(coming)} come, {len(wanted) - len(coming)} stay"
    warnings = [] if wanted else [f"nobody can log in to {account} by key any more"]
    result = {"leaving": [_shown(line) for line in leaving], "coming": [_shown(line) for line in coming]}
    return Plan(summary, tuple(changes), tuple(warnings), result)


def do(tools: Tools, change: Change, _params: Params) -> Mapping[str, Any]:
    """One file."""
    data = change.data
    _require_folder(tools, data)
    held = _read(tools, data["path"])
    if (held.identity if held else "") != data["identity"]:
        raise ActionError(f"{data['path']} was changed since this was planned: plan again")
    kept = aside.keep(tools, data["path"], held.content) if held else ""
    _write(tools, data, "".join(f"{line}\n" for line in data["lines"]).encode(), held)
    return {"aside": kept}


def verify(tools: Tools, plan_: Plan, _params: Params) -> Verified:
    """The files hold the list and nothing else."""
    for change in plan_.changes:
        held = _read(tools, change.data["path"])
        if held is None or _lines(held.content) != change.data["lines"]:
            return Verified(False, f"{change.data['path']} was changed again meanwhile: somebody is at it")
        if (held.uid, held.mode) != (change.data["uid"], 0o600):
            return Verified(False, f"{change.data['path']}: wanted owner {change.data['uid']} and mode 0600")
    return Verified(True, "exactly these keys may log in")


def undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """The former file; one that was not there becomes empty."""
    former = aside.held(kept["aside"]) if kept["aside"] else _NOTHING
    _write(tools, change.data, former, _read(tools, change.data["path"]))
    return f"{change.data['path']} holds its {len(_lines(former))} former keys again"


def _change(file: Mapping[str, Any], wanted: list[str], facts: Facts) -> Change:
    data = {"path": file["path"], "identity": file["identity"], "lines": wanted}
    data |= {"uid": facts["uid"], "gid": facts["gid"], "folder": facts["folder"]}
    return Change("file", file["path"], f"write {len(wanted)} keys in the place of {len(file['lines'])}", data)


def _checked(line: str) -> str:
    """A line of the file: a key with its comment. Options are not taken: a list of trusted keys needs none."""
    words = line.split()
    is_key = len(words) >= 2 and words[0] in _KINDS and "\n" not in line and line.isprintable()
    if not is_key or not _is_blob(words[0], words[1]):
        kinds = "ssh-ed25519, ecdsa-sha2-…, ssh-rsa or sk-…"
        raise ActionError(f"keys: wanted `KIND BASE64 COMMENT` of {kinds}, found {printable(line, limit=60)!r}")
    return " ".join(words)


def _is_blob(kind: str, text: str) -> bool:
    """Whether a key says of itself what its line says."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return False
    return raw[:4] == len(kind).to_bytes(4, "big") and raw[4 : 4 + len(kind)] == kind.encode()


def _lines(content: bytes) -> list[str]:
    """What counts in a file: neither comments nor empty lines."""
    found = (line.strip() for line in content.decode(errors="backslashreplace").splitlines())
    return [" ".join(line.split()) for line in found if line and not line.startswith("#")]


def _shown(line: str) -> dict[str, str]:
    words = line.split()
    place = next((i for i, word in enumerate(words) if word in _KINDS), 0)
    blob = words[place + 1] if len(words) > place + 1 else ""
    comment = printable(" ".join(words[place + 2 :]), limit=80)
    return {"kind": printable(words[place], limit=40), "end": printable(blob[-12:]), "comment": comment}


def _read(tools: Tools, path: str) -> rewrite.Held | None:
    try:
        return rotation.read(tools, path)
    except ActionError as error:
        if error.reason != "not_found":
            raise
        return None


def _require_folder(tools: Tools, data: Mapping[str, Any]) -> None:
    """The account's .ssh, made where it is not there."""
    path = str(tools.roots.root / data["folder"].lstrip("/"))
    try:
        with places.folder_of(path) as (home, name):
            os.mkdir(name, 0o700, dir_fd=home)
            # The home is the account's own: what has the name by now may be another thing.
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=home)
            try:
                os.fchown(folder, data["uid"], data["gid"])
            finally:
                os.close(folder)
    except FileExistsError:
        return
    except OSError as error:
        raise ActionError(f"{data['folder']}: can't be made: {error.strerror or error}") from None


def _write(tools: Tools, data: Mapping[str, Any], content: bytes, held: rewrite.Held | None) -> None:
    place = str(Path(tools.roots.root) / data["path"].lstrip("/"))
    try:
        rewrite.write(place, content, uid=data["uid"], gid=data["gid"], mode=0o600, like=held)
    except OSError as error:
        raise ActionError(f"{data['path']}: {error.strerror or error}") from None


ACTION: Final = Action(
    ActionSpec(
        "security.rotate_authorized_keys",
        "Let exactly these SSH keys log in to an account, and no other",
        Risk.REVERSIBLE,
        (
            Parameter("account", Kind.TEXT, "the account", is_required=True),
            Parameter("keys", Kind.TEXTS, "the keys that stay or come, as `KIND BASE64 COMMENT`; none: nobody", ()),
        ),
        (
            Result("leaving", Kind.ROWS, "kind, last letters and comment of each key that goes"),
            Result("coming", Kind.ROWS, "the same of each key that comes"),
        ),
        undo="the former files are put back",
    ),
    gather,
    plan,
    do,
    verify,
    undo,
)
