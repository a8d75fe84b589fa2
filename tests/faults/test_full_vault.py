"""A vault that fills up in the middle of an operation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_a_full_vault_fails_the_host_that_does_not_fit(tmp_path: Path) -> None:
    """That host fails with disk_full; the others are sealed, the journal goes on, and with room a retry gets it.

    What the host holds sealed since then is fetched: it is not asked to collect anew what may be gone by now.
    """
    program = ["unshare", "--mount", sys.executable, "-m", "tests.faults.full_vault", str(tmp_path / "state")]
    said = json.loads(subprocess.run(program, stdout=subprocess.PIPE, check=True, timeout=50).stdout)

    assert [said["first"][name][0] for name in ("db1", "web1")] == ["ok", "ok"], said["first"]
    outcome, reason, detail = said["first"]["huge"]
    assert (outcome, reason) == ("failed", "disk_full")
    assert detail.startswith("huge: not kept: ") and "vault" in detail
    assert said["again"] == {"huge": ["ok", ""]}
    assert said["captured"] == 1
    assert said["problems"] == [[], []]
