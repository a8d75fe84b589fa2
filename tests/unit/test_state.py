"""The state folder: made once, whole or named."""

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fireline_controller import state
from fireline_controller.model import ConfigError, FirelineError, StoreError

NOW = datetime(2026, 5, 2, 12, 0, tzinfo=UTC)
_MAKE = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from fireline_controller import state
print("go", flush=True)
state.make(Path(sys.argv[1]), operator="alice", now=datetime.now(UTC))
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file with its bytes; the store's journal files come and go."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.endswith(("-wal", "-shm"))
    }


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A whole state folder."""
    folder = tmp_path / "state"
    assert state.make(folder, operator="alice", now=NOW) is not None
    return folder


def test_making_it_twice_changes_nothing(made: Path) -> None:
    """The second time it says that all is there, and no byte differs."""
    before = contents(made)
    assert state.make(made, operator="bob", now=NOW) is None
    assert contents(made) == before
    assert state.open_state(made).authority.operator_name == "alice"


def test_it_is_closed_to_others(made: Path) -> None:
    """Folders are 0700 and keys 0600, whatever the umask."""
    assert [oct(p.stat().st_mode & 0o777) for p in (made, made / "keys", made / "vault")] == ["0o700"] * 3
    assert {p.stat().st_mode & 0o077 for p in (made / "keys").iterdir()} == {0}


@pytest.mark.parametrize("part", ["keys", "vault", "store.sqlite", "journal.anchor"])
def test_a_missing_part_is_named(made: Path, part: str) -> None:
    """Opening and making again both refuse, name the part and what to do, and change nothing."""
    (made / part).rename(made / f"aside-{part}")
    before = contents(made)
    if part == "keys":
        wanted = r"half made: keys missing, found .*store\.sqlite.*remove the folder and run it again"
    else:
        wanted = rf"half made: {part} missing, found .*keys.*restore the missing part from a backup"
    with pytest.raises(StoreError, match=wanted):
        state.open_state(made)
    with pytest.raises(StoreError, match=wanted):
        state.make(made, operator="alice", now=NOW)
    assert contents(made) == before


def test_a_missing_key_is_named(made: Path) -> None:
    """A part of a part: the same words and the same kind of error, whoever asks."""
    (made / "keys" / "journal.key").unlink()
    wanted = (
        r"keys: the authority is not whole: journal\.key is missing\. Restore what is missing or broken from a backup"
    )
    with pytest.raises(StoreError, match=wanted):
        state.open_state(made)
    with pytest.raises(StoreError, match=wanted):
        state.make(made, operator="alice", now=NOW)


def test_no_folder_says_how_to_make_one(tmp_path: Path) -> None:
    """The first command of a new user."""
    with pytest.raises(ConfigError, match=r"none: no state folder; make one: fireline init --state .*/none"):
        state.open_state(tmp_path / "none")


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o777])
def test_a_folder_open_to_others_is_refused(made: Path, mode: int) -> None:
    """The mode found, the mode wanted, and the command that mends it."""
    made.chmod(mode)
    with pytest.raises(StoreError, match=rf"mode is {mode:04o}, wanted 0700: it holds keys; run: chmod 700 {made}"):
        state.open_state(made)


def test_settings_are_checked_before_anything_is_made(tmp_path: Path) -> None:
    """A wrong fireline.toml beside an empty folder leaves nothing half made."""
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "fireline.toml").write_text("[fanout]\nconcurency = 3\n")
    with pytest.raises(ConfigError, match=r"unknown key fanout\.concurency; the nearest right one is fanout\.concurr"):
        state.make(folder, operator="alice", now=NOW)
    assert [p.name for p in folder.iterdir()] == ["fireline.toml"]


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    """A file stands where the folder should be made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(FirelineError, match=r"file/state/fireline\.toml: can't be read: Not a directory"):
        state.make(tmp_path / "file" / "state", operator="alice", now=NOW)


def test_a_killed_making_is_completed_or_named(tmp_path: Path) -> None:
    """kill -9 at any moment: making again completes it, or says that it is half made; never a broken whole."""
    seen = set()
    for step in range(12):
        folder = tmp_path / f"state-{step}"
        with subprocess.Popen([sys.executable, "-c", _MAKE, folder], stdout=subprocess.PIPE) as making:
            assert making.stdout is not None
            making.stdout.readline()
            time.sleep(step * 0.012)  # the moment of the kill: from before its first step to after its last
            making.kill()
        try:
            again = state.make(folder, operator="alice", now=NOW)
        except StoreError as error:
            assert "half made" in str(error)
            seen.add("named")
            continue
        seen.add("there" if again is None else "completed")
        opened = state.open_state(folder)
        store = opened.open_store()
        assert [line.entry.kind for line in store.read_now(lambda tx: tx.lines())] == ["controller.made"]
        assert store.verify_now().problems == ()
        store.close()
        assert not [p for p in folder.iterdir() if p.name.startswith(".")], "a killed run's keys lie about"
    assert seen & {"completed", "there"}
