"""Where files may be removed on this host at all. No action. Pure."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from fireline_agent.remediation.action import ActionError

# Folders whose content is the system, services' data or people's: only something below them may be named.
_ITSELF: Final = frozenset(
    {"/", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/var", "/var/lib", "/var/cache", "/var/spool"}
)
# With all that is below them.
_WHOLLY: Final = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr", "/var/lib/docker",
    "/var/lib/containerd",
)  # fmt: skip


def check(roots: Sequence[str], *, state: Path, allows_path: Callable[[str], bool]) -> None:
    """Let the roots pass. `state`: the agent's own folder, its real path, as roots are only taken by theirs.

    Raises:
        ActionError: one is too wide, the agent's own, another's part, or forbidden by the host's policy.
    """
    if not roots:
        raise ActionError("roots: wanted at least one folder, found none", reason="refused")
    for root in roots:
        if root in _ITSELF or is_inside(root, _WHOLLY):
            raise ActionError(
                f"{root}: nothing is removed here; name a folder for logs or temporary files", reason="refused"
            )
        if is_inside(str(state), (root,)) or is_inside(root, (str(state),)):
            raise ActionError(f"{root}: holds {state}, with this agent's keys and evidence", reason="refused")
        if not allows_path(root):
            raise ActionError(f"{root}: this host's policy does not let actions write there", reason="denied")
        if other := next((one for one in roots if one != root and is_inside(root, (one,))), None):
            raise ActionError(f"{root}: is part of {other}, which is named too; leave one out", reason="refused")
    if len(set(roots)) < len(roots):
        raise ActionError("a root is named twice; leave one out", reason="refused")


def check_patterns(patterns: Sequence[str]) -> None:
    """Let them pass: without any, every name would do.

    Raises:
        ActionError: there is none.
    """
    if not patterns:
        raise ActionError(
            "patterns: wanted at least one shell pattern, found none; '*' takes every name", reason="refused"
        )


def is_inside(path: str, folders: Sequence[str]) -> bool:
    """Whether a path is one of these folders or lies below one."""
    return any(path == folder or path.startswith(f"{folder.rstrip('/')}/") for folder in folders)
