"""Which hosts of the fleet look at a host from outside."""

import hashlib
from collections.abc import Collection, Sequence

from fireline_controller.model import Host


def candidates(
    about: str, hosts: Sequence[Host], *, spared: Collection[str], open_addresses: Collection[str]
) -> tuple[Host, ...]:
    """The hosts that may be a host's witnesses, the first to ask first.

    The order differs from host to host and is the same each time, so that many isolations at once don't lean on one
    witness. A host at an address that stays open would see what nobody else sees, and is none.

    Args:
        about: the host that is looked at.
        hosts: the fleet.
        spared: names that are isolated themselves, or about to be.
        open_addresses: the controllers' and the allowances', in their shortest form.
    """
    able = [
        host
        for host in hosts
        if not host.removed
        and host.name != about
        and host.name not in spared
        and host.address.rpartition(":")[0].strip("[]") not in open_addresses
    ]
    return tuple(sorted(able, key=lambda host: hashlib.sha256(f"{about} {host.name}".encode()).digest()))
