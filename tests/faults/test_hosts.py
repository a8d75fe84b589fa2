"""Hosts that vanish, and a controller without descriptors: nothing is blamed on the wrong one."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nft") is None, reason="wants root and nft")


def said(fault: str, *, inside: tuple[str, ...] = ()) -> Any:
    """What the controller in its own process said."""
    command = [*inside, sys.executable, "-m", "tests.faults.host_process", fault]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.netns
@needs_root
def test_a_swallowed_dial_is_no_answer() -> None:
    """Dead hosts end as unreachable within their deadline, and a living one among them is not held up."""
    seen = said("blackhole", inside=("unshare", "--net"))

    *dead, living = seen["outcomes"]
    assert living[:2] == ["web-1", "ok"]
    assert [o[1:3] for o in dead] == [["unreachable", "no_answer"]] * 5
    assert dead[0][3] == "dead-0 at 198.18.7.2:7700: no answer: the host is down or its network drops us"
    assert seen["took_s"] < 3.5


@pytest.mark.netns
@needs_root
def test_a_cut_off_host_is_noticed_by_keep_alive() -> None:
    """Within keep-alive (2 s), time-out (1 s) and half a second; the next call says that nothing answers."""
    seen = said("cut-off", inside=("unshare", "--net"))

    assert (seen["reason"], seen["after"]) == ("broken", "no_answer")
    assert seen["took_s"] <= 2 + 1 + 0.5


def test_our_own_lack_of_descriptors_is_no_hosts_outcome() -> None:
    """The fan-out ends as the controller's failure; every host has an outcome, and none is called unreachable."""
    seen = said("exhausted")

    assert "the controller ran out of file descriptors (limit " in seen["said"]
    assert "no host is to blame" in seen["said"]
    assert sorted(o[0] for o in seen["outcomes"]) == sorted(f"h-{n}" for n in range(16))
    outcomes = Counter(o[1] for o in seen["outcomes"])
    assert set(outcomes) <= {"ok", "cancelled", "skipped"}
    assert outcomes["cancelled"]
    assert {o[2] for o in seen["outcomes"] if o[1] != "ok"} == {"file_descriptors"}
