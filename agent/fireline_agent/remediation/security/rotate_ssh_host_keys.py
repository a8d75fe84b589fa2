"""security.rotate_ssh_host_keys: new keys for the host's sshd, of the kinds that it has; the former ones kept aside.

sshd reads its keys when it starts: name its unit in `dependents` (`service:ssh`); sessions that are open go on. The
new fingerprints are in the result, for whoever keeps known_hosts.

Sources: sshd(8), sshd_config(5) HostKey, ssh-keygen(1) for the names and kinds.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fireline_agent.hands import rewrite
from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import Action, ActionError, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.security import aside, dependents, rotation
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

_NAME: Final = re.compile(r"ssh_host_(ed25519|ecdsa|rsa)_key\Z")
_RSA_BITS: Final = 3072  # as ssh-keygen makes them
_PUBLIC_MODE: Final = 0o644


def gather(tools: Tools, params: Params) -> Facts:
    """The keys of the folder by their public halves."""
    folder = _on_host(tools, params["folder"])
    try:
        names = sorted(p.name for p in folder.iterdir() if p.name.startswith("ssh_host_"))
    except OSError as error:
        raise ActionError(f"{params['folder']}: {error.strerror}: where are sshd's keys?", reason="not_found") from None
    found = [_key(tools, f"{params['folder']}/{name}") for name in names if _NAME.match(name)]
    return {
        "keys": found,
        "others": [name for name in names if not _NAME.match(name.removesuffix(".pub"))],
        "is_allowed": all(tools.allows_path(key["path"]) for key in found),
        "dependents": dependents.gather(tools, params["dependents"], ()),
    }


def plan(facts: Facts, params: Params) -> Plan:
    """Each key, then who serves it."""
    keys = facts["keys"]
    if not keys:
        raise ActionError(f"{params['folder']} has no ssh_host_*_key: where are sshd's keys?", reason="not_found")
    if not facts["is_allowed"]:
        folder = params["folder"]
        raise ActionError(f"{folder}: this host's policy does not let actions change it (`writable`)", reason="denied")
    changes = [
        Change("key", f"{key['path']} ({key['fingerprint']})", f"make a new {key['kind']} key in {key['path']}", key)
        for key in keys
    ]
    after = dependents.changes(facts["dependents"])
    warnings = ["whoever connects is warned of a changed host key until known_hosts has the new fingerprints"]
    if facts["others"]:
        warnings.append(f"left as they are: {', '.join(map(printable, facts['others']))}; certificates fit no new key")
    if not after:
        warnings.append("no dependents are named: sshd serves the former keys until it is started again (service:ssh)")
    rows = [{"kind": key["kind"], "fingerprint": key["fingerprint"]} for key in keys]
    return Plan(f"make {len(keys)} host keys anew", (*changes, *after), tuple(warnings), {"former": rows})


def do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    """One key, private and public half."""
    if change.kind != "key":
        return dependents.do(tools, change, ())
    path = change.data["path"]
    private, public = rotation.read(tools, path), _public(tools, path)
    if private.identity != change.data["identity"]:
        raise ActionError(f"{path} was changed since this was planned: plan again")
    kept = {"private": aside.keep(tools, path, private.content), "public": ""}
    if public is not None:
        kept["public"] = aside.keep(tools, f"{path}.pub", public.content)
    fresh_private, fresh_public = _made(change.data["kind"])
    comment = public.content.split()[2:3] if public is not None else []
    line = b" ".join([fresh_public, *comment]) + b"\n"
    _replace(tools, path, fresh_private, private, mode=0o600)
    _replace(tools, f"{path}.pub", line, public, mode=_PUBLIC_MODE)
    return {"path": path, **kept, "fingerprint": _fingerprint(fresh_public)}


def verify(tools: Tools, plan_: Plan, params: Params) -> Verified:
    """Each key is another, its halves belong together, and who serves it is well."""
    keys = gather(tools, params)["keys"]
    former = {key["fingerprint"] for key in plan_.result["former"]}
    stale = [key["path"] for key in keys if key["fingerprint"] in former]
    problems = [f"{path} is as before" for path in stale]
    problems += dependents.unwell(tools, [c.data for c in plan_.changes if c.kind != "key"])
    rows = [{"kind": key["kind"], "fingerprint": key["fingerprint"], "public": key["public"]} for key in keys]
    sentence = "; ".join(problems) or f"{len(keys)} host keys are new, the private ones for their owner alone"
    return Verified(not problems, sentence, {"keys": rows})


def undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """The former halves, and whoever serves them started again with the first of the keys."""
    if change.kind != "key":
        return "it is started again by hand, once the former keys are back"
    path = kept["path"]
    _replace(tools, path, aside.held(kept["private"]), rotation.read(tools, path), mode=0o600)
    if kept["public"]:
        _replace(tools, f"{path}.pub", aside.held(kept["public"]), _public(tools, path), mode=_PUBLIC_MODE)
    return f"{path} is the former key again; start sshd again"


def _key(tools: Tools, path: str) -> dict[str, Any]:
    private, public = rotation.read(tools, path), _public(tools, path)
    match = _NAME.match(Path(path).name)
    line = public.content if public is not None else b""
    return {
        "path": path,
        "kind": match[1] if match else "",
        "identity": private.identity,
        "fingerprint": _fingerprint(line),
        "public": line.decode(errors="replace").strip()[:2000],
    }


def _public(tools: Tools, path: str) -> rewrite.Held | None:
    try:
        return rotation.read(tools, f"{path}.pub")
    except ActionError as error:
        if error.reason != "not_found":
            raise
        return None


def _made(kind: str) -> tuple[bytes, bytes]:
    """A new key of a kind: the private half as sshd reads it, and the public line without a comment."""
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
    if kind == "ed25519":
        private = ed25519.Ed25519PrivateKey.generate()
    elif kind == "ecdsa":
        private = ec.generate_private_key(ec.SECP256R1())
    else:
        private = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    return (
        private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
    )


def _fingerprint(line: bytes) -> str:
    """As ssh-keygen -l shows it; empty where the line is no key."""
    words = line.split()
    try:
        raw = base64.b64decode(words[1], validate=True)
    except (IndexError, ValueError):
        return ""
    return "SHA256:" + base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")


def _replace(tools: Tools, path: str, content: bytes, like: rewrite.Held | None, *, mode: int) -> None:
    try:
        rewrite.replace(str(_on_host(tools, path)), content, like, mode=mode)
    except OSError as error:
        raise ActionError(f"{path}: {error.strerror or error}") from None


def _on_host(tools: Tools, path: str) -> Path:
    return tools.roots.root / path.lstrip("/")


ACTION: Final = Action(
    ActionSpec(
        "security.rotate_ssh_host_keys",
        "Make new host keys for sshd, of the kinds that it has",
        Risk.DISRUPTIVE,
        (
            Parameter("folder", Kind.PATH, "where they are", "/etc/ssh"),
            dependents.DEPENDENTS,
        ),
        (
            Result("former", Kind.ROWS, "kind and fingerprint of each former key"),
            Result("keys", Kind.ROWS, "kind, fingerprint and public half of each new key, for known_hosts"),
        ),
        undo="the former keys are put back; sshd has to be started again",
    ),
    gather,
    plan,
    do,
    verify,
    undo,
)
