"""Who serves a state folder: a lock that the kernel drops, with an address in it."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fireline_controller import presence
from fireline_controller.model import ConfigError, PolicyError, StoreError

_DAEMON = """
import sys, time
from pathlib import Path
from fireline_controller import presence
lock = presence.Lock(Path(sys.argv[1]))
lock.take()
lock.announce("unix:/run/control.sock")
print("ready", flush=True)
time.sleep(60)
"""


def test_a_killed_daemon_serves_no_more(tmp_path: Path) -> None:
    """Its address stays in the file after kill -9 and counts for nothing; the next daemon takes over."""
    with subprocess.Popen([sys.executable, "-c", _DAEMON, tmp_path], stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()
        assert presence.address_of_daemon(tmp_path) == "unix:/run/control.sock"
        with presence.Lock(tmp_path) as second, pytest.raises(PolicyError, match="a daemon serves it already; stop"):
            second.take()
        assert presence.address_of_daemon(tmp_path) == "unix:/run/control.sock", "the refused one changed nothing"
        daemon.kill()
    assert (tmp_path / presence.FILE).read_text() == "unix:/run/control.sock"
    assert presence.address_of_daemon(tmp_path) == ""
    with presence.Lock(tmp_path) as next_one:
        next_one.take()
        assert (tmp_path / presence.FILE).read_text() == "", "the killed one's address is gone with the lock"


def test_a_command_waits_for_a_daemon_that_starts(tmp_path: Path) -> None:
    """It neither runs a controller of its own beside it nor fails: it gets the address once that is known."""
    with presence.Lock(tmp_path) as daemon:
        daemon.take()
        announcing = threading.Timer(0.4, daemon.announce, ["unix:/run/control.sock"])
        announcing.start()
        began = time.monotonic()
        assert presence.address_of_daemon(tmp_path) == "unix:/run/control.sock"
        assert time.monotonic() - began > 0.3
        announcing.join()


def test_a_daemon_that_ends_while_it_starts_leaves_the_folder_free(tmp_path: Path) -> None:
    """A command that waited for it goes on by itself."""
    daemon = presence.Lock(tmp_path)
    daemon.take()
    ending = threading.Timer(0.3, daemon.__exit__)
    ending.start()
    assert presence.address_of_daemon(tmp_path) == ""
    ending.join()


def test_a_stuck_daemon_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that holds the folder and never says where it answers."""
    monkeypatch.setattr(presence, "_STARTING_S", 0.2)  # a shorter wait, nothing else
    with presence.Lock(tmp_path) as daemon:
        daemon.take()
        with pytest.raises(StoreError, match=r"daemon\.lock: a daemon holds it but does not answer; look at its log"):
            presence.address_of_daemon(tmp_path)


def test_commands_that_look_do_not_keep_a_daemon_out(tmp_path: Path) -> None:
    """Each look holds a shared lock for an instant; a daemon that starts meanwhile tries again."""
    (tmp_path / presence.FILE).touch()
    looked, over = [0], threading.Event()

    def look() -> None:
        while not over.is_set():
            presence.address_of_daemon(tmp_path)
            looked[0] += 1
            time.sleep(0.001)  # commands take their time between two looks

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(20):
            with presence.Lock(tmp_path) as daemon:
                daemon.take()
                daemon.announce("unix:/run/control.sock")
    finally:
        over.set()
        for looker in lookers:
            looker.join()
    assert looked[0] > 0


def test_without_a_folder_or_a_daemon(tmp_path: Path) -> None:
    """No daemon has ever run here: nothing is made just by looking; no folder at all is named."""
    assert presence.address_of_daemon(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"none: no state folder; make one: fireline init --state"):
        presence.address_of_daemon(tmp_path / "none")
