"""A controller that is killed with signal 9 at any event of a run; the next one goes on and does nothing twice."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

# Every so many events; the processes take turns, so that all of them together kill at every second event.
_STRIDE: Final = 8
_FIRST: Final = (1, 3, 5, 7)


def _killed(folder: Path, book: str) -> list[dict[str, Any]]:
    commands = [
        [sys.executable, "-m", "tests.runs.killed", str(folder / str(first)), book, str(first), str(_STRIDE)]
        for first in _FIRST
    ]
    for first in _FIRST:
        (folder / str(first)).mkdir()
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    told = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running)
    return [json.loads(line) for text in told for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("book", "state"), [("whole", "succeeded"), ("back", "rolled_back")])
def test_i2_i6_a_run_ends_the_same_wherever_its_controller_is_killed(tmp_path: Path, book: str, state: str) -> None:
    """Steps at once, an approval, a step by hand, a way back: each act is done once on each host, each move once."""
    kills = _killed(tmp_path, book)

    on_record = [kill for kill in kills if kill["state"] != "nothing on record"]
    assert len(on_record) > 15
    assert {kill["state"] for kill in on_record} == {state}
    assert {times for kill in on_record for times in kill["done"].values()} == {1}
    assert all(len(set(kill["moves"])) == len(kill["moves"]) for kill in on_record)
    assert len({tuple(sorted(kill["moves"])) for kill in on_record}) == 1
    assert [kill["problems"] for kill in on_record if kill["problems"]] == []
