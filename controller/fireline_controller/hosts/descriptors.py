"""The controller's own file descriptors: raised at the start, and never blamed on a host when they run out."""

import errno
import os
import resource
from typing import Final

from fireline_controller.model import ControllerExhausted

# Each host takes one for its commands and one while its evidence comes; the rest is for store, vault and operators.
PER_HOST: Final = 2
RESERVED: Final = 128

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE})
# How gRPC spells both errors in a status.
_SPELLED: Final = "Too many open files"


def raise_descriptor_limit() -> int:
    """Raise the soft limit to the hard one, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def require_room(hosts: int) -> None:
    """Check before a fan-out that the limit allows so many hosts at once.

    Raises:
        ControllerExhausted: it does not; the message says what is wanted.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = PER_HOST * hosts + RESERVED
    if soft < wanted:
        raise ControllerExhausted(
            f"{hosts} hosts want {wanted} file descriptors and this process may open {soft}: raise its limit"
            " (LimitNOFILE= in the unit, ulimit -n in a shell) or narrow the target"
        )


def require_free() -> None:
    """Open one descriptor and close it again.

    Raises:
        ControllerExhausted: none is left.
    """
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if is_exhaustion(error):
            raise exhausted() from None
        raise


def is_exhaustion(error: OSError) -> bool:
    """Whether an error says that this process, or this machine, has no descriptor left."""
    return error.errno in _EXHAUSTED


def tells_exhaustion(details: str) -> bool:
    """The same of gRPC's text."""
    return _SPELLED in details


def exhausted() -> ControllerExhausted:
    """The error to raise."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ControllerExhausted(
        f"the controller ran out of file descriptors (limit {soft}): raise its limit (LimitNOFILE= in the unit,"
        " ulimit -n in a shell) or narrow the target; no host is to blame"
    )
