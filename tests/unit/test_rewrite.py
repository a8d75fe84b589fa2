"""Files that root writes anew in folders that belong to somebody else."""

import multiprocessing
import os
from contextlib import suppress
from multiprocessing.synchronize import Event
from pathlib import Path

from fireline_agent.hands import rewrite

_TRIES = 300


def _swap(folder: Path, victim: Path, stop: Event) -> None:
    """Puts a link to the victim in the place of every new file, as fast as it can."""
    while not stop.is_set():
        for name in os.listdir(folder):  # noqa: PTH208 -- the quickest
            if name.startswith(rewrite.STAGED):
                with suppress(OSError):
                    (folder / "link").symlink_to(victim)
                    (folder / "link").rename(folder / name)


def test_a_link_put_in_the_new_files_place_leads_nowhere(tmp_path: Path) -> None:
    """The folder's owner swaps names while root writes: owner and mode of what the link names stay."""
    folder, victim = tmp_path / "ssh", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("system")
    victim.chmod(0o644)
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    attacker = context.Process(target=_swap, args=(folder, victim, stop))
    attacker.start()
    try:
        for _ in range(_TRIES):
            with suppress(OSError):
                rewrite.write(str(folder / "keys"), b"key\n", uid=os.getuid(), gid=os.getgid(), mode=0o600)
            (folder / "keys").unlink(missing_ok=True)
    finally:
        stop.set()
        attacker.join(10)

    found = victim.stat()
    assert (found.st_mode & 0o7777, found.st_uid) == (0o644, os.getuid())
    assert not attacker.is_alive()
