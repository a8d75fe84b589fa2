"""Disks that are really full: old logs, old temporary files and data that must stay, up to the last byte."""

import os
import time
from typing import Final

from tests.lab import Host, eventually

MIB: Final = 1 << 20
DISK_BYTES: Final = 320 * MIB
POLICY: Final = b'actions = ["*"]\n'  # of a host that lets Fireline destroy
DATA: Final = "/srv/data/orders.db"
OLD_LOGS: Final = tuple(f"/var/log/shop/shop-{n}.log" for n in range(10))
NEW_LOG: Final = "/var/log/shop/shop.log"
OLD_TEMP: Final = "/var/tmp/build/leftover"
_SERVING: Final = '"message": "serving"'
_DAY_S: Final = 86400


def allow_all(host: Host) -> None:
    """Let the host's own policy allow what destroys."""
    host.write("/etc/fireline/policy.toml", POLICY)
    host.end_agent()
    before = host.agent_log().count(_SERVING)
    host.start_agent()
    eventually(lambda: host.agent_log().count(_SERVING) > before, within_s=30, what=f"{host.name}'s agent to serve")


def fill(host: Host, *, log_bytes: int = 15 * MIB, temp_bytes: int = MIB) -> None:
    """Fill a host's disk until not a byte is free: by old logs for the most part, or by temporary files."""
    for place in OLD_LOGS:
        aged(host, place, log_bytes, days=30)
    aged(host, OLD_TEMP, temp_bytes, days=30)
    aged(host, NEW_LOG, MIB, days=0)
    aged(host, DATA, 60 * MIB, days=300)
    host.disk_full()


def aged(host: Host, place: str, size: int, *, days: float) -> None:
    """A file that was last written so many days ago."""
    host.write(place, os.urandom(size), mode=0o644)
    then = time.time() - days * _DAY_S
    os.utime(host.path(place), (then, then))


def used_percent(host: Host) -> int:
    """What df(1) says of the host's disk."""
    return int(host.run(["df", "--output=pcent", "/"]).splitlines()[1].strip(" %"))


def there(host: Host, *places: str) -> list[str]:
    """Those of these files that exist."""
    return [place for place in places if host.path(place).exists()]


def is_writable(host: Host) -> bool:
    """Whether a program on the host can write a file of a few MiB."""
    done = host.run(["sh", "-c", "head -c 4194304 /dev/zero > /srv/probe && echo written; rm -f /srv/probe"])
    return done.strip() == "written"
