"""What every rotation of a secret does alike: the file, the old one aside, the new one in place, who uses it restarted.

The new secret is made on this host and is in no plan, record, result or command line. In a rotation the file waits on
the disk, beside the old one, before anything else is changed: a full disk is told while nothing has happened.

Leaves to others: telling the server that checks the secret (the actions).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands import rewrite
from fireline_agent.hands.printable import printable
from fireline_agent.hands.rewrite import Held, Staged
from fireline_agent.remediation.action import ActionError, Change, Plan, Tools
from fireline_agent.remediation.security import aside, dependents, secretfile
from fireline_wire.actions import Kind, Parameter, Result

FILE: Final = Parameter("file", Kind.PATH, "the file that holds the secret, its real path", is_required=True)
KEYS: Final = Parameter(
    "keys",
    Kind.TEXTS,
    "the variables of an environment file that hold it, as value or in a URL; none: the whole file",
    (),
)
RESULTS: Final = (
    Result("file", Kind.PATH, "where the secret stands"),
    Result("dependents", Kind.ROWS, "kind and name of what is started again"),
)
SECRET: Final = "secret"  # noqa: S105 -- a kind of change


def gather(tools: Tools, params: Mapping[str, Any]) -> dict[str, Any]:
    """The file by its identity, and its dependents; nothing of what is in it.

    Raises:
        ActionError: it is not there, a link, or lacks a variable; or a dependent does.
    """
    secretfile.require_names(params["keys"])
    held = read(tools, params["file"])
    if not secretfile.current(held.content, params["keys"]):
        raise ActionError(f"{printable(params['file'])} holds no secret: it is empty", reason="refused")
    return {
        "identity": held.identity,
        "is_allowed": tools.allows_path(params["file"]),
        "mode": held.mode,
        "leftovers": leftovers(tools, params["file"]),
        "dependents": dependents.gather(tools, params["dependents"], _secrets(held, params["keys"])),
    }


def _secrets(held: Held, keys: Sequence[str]) -> list[str]:
    """All that containers may have of it; stays in this process."""
    values = secretfile.variables(held.content) if keys else {}
    return [values[key] for key in keys] + [secretfile.current(held.content, [key]) for key in keys] or [
        secretfile.current(held.content, ())
    ]


def plan(facts: Mapping[str, Any], params: Mapping[str, Any], *, what: str, warnings: Sequence[str] = ()) -> Plan:
    """First the secret, then each dependent."""
    path = printable(params["file"], limit=1000)
    if not facts["is_allowed"]:
        raise ActionError(f"{path}: this host's policy does not let actions change it (`writable`)", reason="denied")
    variables = f" ({', '.join(params['keys'])})" if params["keys"] else ""
    change = Change(
        SECRET,
        f"{path}{variables}",
        f"make a new secret for {what} and write it to {path}{variables}",
        {"path": params["file"], "identity": facts["identity"], "dependents": facts["dependents"]},
    )
    after = dependents.changes(facts["dependents"])
    told = [*warnings]
    if facts["mode"] & 0o004:
        told.append(f"{path} can be read by everybody on the host (mode {facts['mode']:04o}): so can the new secret")
    if facts["leftovers"]:
        left = ", ".join(map(printable, facts["leftovers"]))
        told.append(f"a rotation was killed in the middle and left {left}: with a secret in it; remove it afterwards")
    if not after:
        told.append("no dependents are named: who uses the secret keeps the old one until it is started again")
    rows = [{"kind": one["kind"], "name": printable(one["name"])} for one in facts["dependents"]]
    count = f", then start {len(after)} again" if after else ""
    return Plan(f"rotate {what}{count}", (change, *after), tuple(told), {"file": params["file"], "dependents": rows})


def exchange(
    tools: Tools, change: Change, fresh: Callable[[bytes], bytes], *, between: Callable[[bytes, bytes], None] | None
) -> dict[str, Any]:
    """Put a new file in the old one's place; `between`, where a server is told, gets old and new content once
    the new one is on the disk.

    Returns what `restore` needs.

    Raises:
        ActionError: the file is another one by now, or can't be written; nothing was changed. Or it became another
            one while the server was told: the message says where the new secret lies.
    """
    held = read(tools, change.data["path"])
    if held.identity != change.data["identity"]:
        raise ActionError(f"{printable(change.data['path'])} was changed since this was planned: plan again")
    content = fresh(held.content)
    kept = aside.keep(tools, change.data["path"], held.content)
    try:
        with rewrite.staged(held.path, content, held) as staged:
            if between is not None:
                between(held.content, content)
                staged.is_kept = True  # from here on it holds the secret that is in force
            _take_place(tools, staged)
    except OSError as error:
        raise ActionError(f"{printable(change.data['path'])}: {error.strerror or error}") from None
    return {"path": change.data["path"], "aside": kept}


def restore(tools: Tools, kept: Mapping[str, Any], *, between: Callable[[bytes, bytes], None] | None) -> None:
    """Put the former content back; `between` as in `exchange`, with the present content and the former one."""
    former = aside.held(kept["aside"])
    held = read(tools, kept["path"])
    try:
        with rewrite.staged(held.path, former, held) as staged:
            if between is not None:
                between(held.content, former)
                staged.is_kept = True
            _take_place(tools, staged)
    except OSError as error:
        raise ActionError(f"{printable(kept['path'])}: {error.strerror or error}") from None


def _take_place(tools: Tools, staged: Staged) -> None:
    try:
        staged.take_place()
    except OSError as error:
        if not staged.is_kept:
            raise
        root = str(tools.roots.root).rstrip("/")
        path, waits_at = (printable(one.removeprefix(root)) for one in (staged.path, staged.waits_at))
        raise ActionError(
            f"{path}: {error.strerror or error}; the secret that is in force lies in {waits_at}: move it over {path}"
        ) from None


def read(tools: Tools, path: str) -> Held:
    """A file of the host.

    Raises:
        ActionError: `not_found`, or it is no plain file at a plain path.
    """
    place = Path(tools.roots.root) / path.lstrip("/")
    try:
        return rewrite.read(str(place))
    except FileNotFoundError:
        raise ActionError(f"{printable(path)}: there is no such file", reason="not_found") from None
    except OSError as error:
        raise ActionError(printable(error.strerror or str(error), limit=500), reason="refused") from None


def leftovers(tools: Tools, path: str) -> list[str]:
    """What a rotation left beside the file that was killed in the middle, by its path on the host."""
    root = str(tools.roots.root).rstrip("/")
    try:
        return [one.removeprefix(root) for one in rewrite.leftovers(f"{root}{path}")]
    except OSError as error:
        raise ActionError(printable(error.strerror or str(error), limit=500), reason="refused") from None


def pairs(tools: Tools, params: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The former and the new secrets, for the environment of containers: each value, and the secret itself."""
    former = aside.held(aside.path_of(tools, params["file"]))
    now = read(tools, params["file"]).content
    found = []
    for key in params["keys"]:
        found.append((secretfile.variables(former)[key], secretfile.variables(now)[key]))
        found.append((secretfile.current(former, [key]), secretfile.current(now, [key])))
    if not params["keys"]:
        found.append((secretfile.current(former, ()), secretfile.current(now, ())))
    return tuple(found)
