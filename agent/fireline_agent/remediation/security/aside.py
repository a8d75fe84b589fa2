"""What a rotation puts aside for its undo: beside the application's record, for root alone, and never in it.

It goes with the record once that has expired. Leaves to others: what is put aside, and when it is used again.
"""

import hashlib
import os
from pathlib import Path
from typing import Final

from fireline_agent.remediation.action import ActionError, Tools
from fireline_agent.remediation.order import key
from fireline_wire import durable

_RECORDS: Final = "remediations"  # as the agent's configuration names the folder


def keep(tools: Tools, name: str, content: bytes) -> str:
    """Put bytes aside under a name, for this application alone; returns the path for the record.

    Raises:
        ActionError: there is no space, or the folder can't be made; nothing was changed yet.
    """
    path = Path(path_of(tools, name))
    place = path.parent
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
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
    thing = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:32]
    return str(tools.roots.state / _RECORDS / key(tools.request_id) / "aside" / thing)
