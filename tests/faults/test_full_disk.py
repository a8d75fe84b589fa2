"""A store on a disk that is full."""

import json
import os
import subprocess
import sys

import pytest

# In a mount namespace of its own: the file system is gone with the process, however the test ends.
_SCRIPT = """
import json, logging, subprocess, sys
from datetime import UTC, datetime
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric import ec
from fireline_controller.model import Entry, StoreError
from fireline_controller.store import Store

logging.disable()
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
key = ec.generate_private_key(ec.SECP256R1())
store = Store.open(f"sqlite:///{folder}/store.db", journal_key=key, anchor_path=folder / "journal.anchor")
note = Entry("incident.note", "alice", datetime(2026, 5, 1, tzinfo=UTC), "x" * 3000)
acknowledged, errors = [], []
while len(errors) < 3:
    try:
        acknowledged += [line.hash for line in store.run_now(lambda tx: tx.append(note, note, note))]
    except StoreError as error:
        errors.append([error.reason, str(error)])
kept = [line.hash for line in store.read_now(lambda tx: tx.lines())]
full = store.verify_now().problems
subprocess.run(["mount", "-o", "remount,size=4m", str(folder)], check=True)
after = store.run_now(lambda tx: tx.append(note))[0].seq
print(json.dumps({
    "acknowledged": acknowledged, "kept": kept, "errors": errors, "full": full, "after": after,
    "verified": store.verify_now().problems,
}))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_told_and_loses_nothing(tmp_path: os.PathLike[str]) -> None:
    """What was acknowledged is there, what was refused is not, and once there is space the chain goes on."""
    command = ["unshare", "--mount", sys.executable, "-c", _SCRIPT, str(tmp_path)]
    said = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=50).stdout)

    assert len(said["acknowledged"]) > 30
    assert said["kept"] == said["acknowledged"]
    for reason, message in said["errors"]:
        assert reason == "disk_full"
        assert message == (
            f"store {tmp_path}/store.db: the disk is full and nothing of this transaction was kept;"
            f" free space on {tmp_path} and repeat the command"
        )
    assert (said["full"], said["verified"]) == ([], [])
    assert said["after"] == len(said["kept"]) + 1
