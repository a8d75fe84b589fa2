"""What a rotation puts aside for its undo: in the agent's own folder, for root alone, and never in a record.

Leaves to others: what is put aside, and when it is used again (the actions).
"""

import hashlib
import os
from pathlib import Path

from fireline_agent.remediation.action import ActionError, Tools
from fireline_wire import durable


def keep(tools: Tools, name: str, content: bytes) -> str:
    """Put bytes aside under a name, for this application alone; returns the path for the record.

    Raises:
        ActionError: there is no space, or the folder can't be made; nothing was changed yet.
    """
    path = Path(path_of(tools, name))
    place = path.parent
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.parent.chmod(0o700)
        durable.replace(path, content)
        durable.sync_folder(place.parent)
    except OSError as error:
        raise ActionError(f"{path}: can't be put aside for the undo: {error.strerror}; nothing was changed") from None
    return str(path)


def held(path: str) -> bytes:
    """What was put aside.

    Raises:
        ActionError: it is not there any more.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ActionError(f"{path}: what was put aside for the undo can't be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def path_of(tools: Tools, name: str) -> str:
    """Where something is put aside."""
    application, thing = (
        hashlib.sha256(w.encode(errors="surrogateescape")).hexdigest() for w in (tools.request_id, name)
    )
    return str(tools.roots.state / "aside" / application[:24] / thing[:32])
