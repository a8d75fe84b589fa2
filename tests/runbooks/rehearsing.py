"""A runbook run by the real command, while a second operator approves and somebody does what is done by hand."""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from typing import Any

from tests.fleet import BIN, Fleet
from tests.lab import eventually


def rehearse(fleet: Fleet, host: str, *words: str, by_hand: Sequence[str] = ()) -> dict[str, Any]:
    """The run's document at its end. Bob approves whatever it waits for; the steps `by_hand` are said to be done.

    The fleet has the operator bob and one incident.
    """
    [incident] = [i["incident"] for i in fleet.json("incident", "list")["incidents"]]
    command = [BIN / "fireline", "runbook", "run", *words, "-t", host, "-i", incident, "-y", "--json"]
    environment = {**os.environ, "FIRELINE_STATE": str(fleet.state), "NO_COLOR": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as run:
        eventually(lambda: _ended(fleet, run, by_hand), within_s=200, every_s=2, what="the run's end")
        said, _ = run.communicate()
    found: dict[str, Any] = json.loads(said)
    return found


def _ended(fleet: Fleet, run: "subprocess.Popen[bytes]", by_hand: Sequence[str]) -> bool:
    for asked in fleet.json("approval", "list")["approvals"]:
        if not asked["votes"] and not asked["used_by"]:
            fleet.try_fireline("--as", "bob", "approval", "approve", asked["approval"], "--yes")
    runs = re.findall(r"run-[0-9a-f]+-[0-9a-f]+", fleet.fireline("runbook", "status"))
    for step in by_hand if runs else ():
        fleet.try_fireline("runbook", "done", runs[0], step, "--note", "seen to")
    return run.poll() is not None
