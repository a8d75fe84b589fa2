"""Which operations lost their process: the kernel knows."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fireline_controller.engine.owners import Owners
from fireline_controller.model import StoreError

_HOLDER = """
import sys, time
from pathlib import Path
from fireline_controller.engine.owners import Owners
Owners(Path(sys.argv[1]), is_shared=False).hold("op-1")
print("held", flush=True)
time.sleep(60)
"""


def is_lost(owners: Owners, operation_id: str = "op-1") -> bool:
    """Whether the operation lost its process."""
    with owners.inherited(operation_id) as lost:
        return lost


def test_an_operation_is_lost_when_its_process_is_killed(tmp_path: Path) -> None:
    """Another process's operation is left alone while that process lives, and inherited once after kill -9."""
    owners = Owners(tmp_path / "running", is_shared=True)
    with subprocess.Popen([sys.executable, "-c", _HOLDER, tmp_path / "running"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert not is_lost(owners)
        holder.kill()
    assert is_lost(owners)
    assert list((tmp_path / "running").iterdir()) == []


def test_the_operations_of_ones_own_process_are_not_lost(tmp_path: Path) -> None:
    """The same process asks about its own operation: it is alive; once released nothing is left of it."""
    owners = Owners(tmp_path / "running", is_shared=True)
    held = owners.hold("op-1")
    assert not is_lost(owners)

    owners.release("op-1", held, is_settled=True)

    assert list((tmp_path / "running").iterdir()) == []


def test_an_end_that_is_not_on_record_keeps_the_operation_to_be_inherited(tmp_path: Path) -> None:
    """Where the store failed at the end, the next round settles the operation, though the process lives."""
    owners = Owners(tmp_path / "running", is_shared=True)
    owners.release("op-1", owners.hold("op-1"), is_settled=False)
    assert is_lost(owners)


@pytest.mark.parametrize("is_shared", [False, True])
def test_without_a_file_only_a_shared_record_leaves_doubt(tmp_path: Path, is_shared: bool) -> None:
    """On a record of this folder's own nobody can be at work; on a shared one it may be another controller's work."""
    assert is_lost(Owners(tmp_path / "running", is_shared=is_shared)) is not is_shared


def test_one_that_inherits_keeps_others_off(tmp_path: Path) -> None:
    """Two controllers that settle at once: one of them does."""
    owners = Owners(tmp_path / "running", is_shared=True)
    owners.release("op-1", owners.hold("op-1"), is_settled=False)
    with owners.inherited("op-1") as first, owners.inherited("op-1") as second:
        assert (first, second) == (True, False)


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    """An operation that can't be owned does not start."""
    (tmp_path / "running").write_text("no folder")
    with pytest.raises(StoreError, match=r"running/op-1\.lock: can't be made: File exists"):
        Owners(tmp_path / "running", is_shared=False).hold("op-1")


def test_a_file_that_is_cleared_away_while_it_is_made_is_made_again(tmp_path: Path) -> None:
    """Whoever looks for lost operations may take a fresh file for a leftover: its owner notices and holds a new one."""
    owners = Owners(tmp_path / "running", is_shared=False)
    over = threading.Event()

    def clear() -> None:
        while not over.is_set():
            for operation_id in owners.known():
                is_lost(owners, operation_id)

    clearing = threading.Thread(target=clear)
    clearing.start()
    try:
        for n in range(300):
            held = owners.hold(f"op-{n}")
            assert owners.known() == [f"op-{n}"]
            assert not is_lost(owners, f"op-{n}")
            owners.release(f"op-{n}", held, is_settled=True)
    finally:
        over.set()
        clearing.join()
    assert owners.known() == []
