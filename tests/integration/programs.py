"""Programs that run on lab hosts after their file was removed: a `volatile` capture copies them whole."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab import Host

_NUMBERS = itertools.count()


@contextmanager
def deleted_program(host: Host, make: str) -> Iterator[None]:
    """Run a program without a file for as long as the block lasts; a shell line makes it, in which $0 is its path."""
    path = f"/opt/program-{next(_NUMBERS)}"
    host.run(["bash", "-c", f"mkdir -p /opt && {make}", path])
    host.spawn([path, "600"])
    host.run(["bash", "-c", 'until pgrep -f "^$0 600" >/dev/null; do sleep 0.05; done; rm "$0"', path])
    try:
        yield
    finally:
        host.run(["pkill", "-9", "-f", f"^{path} 600"], check=False)
