"""What the commands answer to somebody who makes mistakes: exit status, and words that say what to do."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fleet import BIN

NO_TARGET = "fireline: no target: say --target: names, ranges, @groups, label selectors or all\n"


def fireline(state: Path, *arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as an operator does."""
    return subprocess.run(
        [BIN / "fireline", *arguments, "--state", state], capture_output=True, text=True, timeout=60,
        env=os.environ | environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh state folder, without hosts and without a daemon."""
    folder = tmp_path_factory.mktemp("refusals") / "state"
    assert fireline(folder, "init", "--operator", "tester").returncode == 0
    return folder


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["host", "ping"], 2, NO_TARGET),
        (["capture", "--except", "web1"], 2, NO_TARGET),
        (["host", "label", "a=b"], 2, NO_TARGET),
        (["incident", "open", "P3", "drill", "--except", "web1"], 2, NO_TARGET),
        (["host", "ping", "-t", "web["], 2, "fireline: target 'web[' does not parse: "),
        (["host", "ping", "-t", "web9"], 3, "fireline: target names web9: no such host is enrolled; see `fireline ho"),
        (["host", "show", "web9"], 3, "fireline: host 'web9' is not known; `fireline host list` shows "),
        (["host", "ping", "-t", "@db"], 3, "fireline: no group is named @db; groups are set in [groups] of fireline.t"),
        (["evidence", "list", "-i", "INC-20200101-000000"], 3, "fireline: incident 'INC-20200101-000000' is not known"),
        (["isolate", "-t", "all"], 2, "fireline: --reason is missing: why, for the record"),
        (["release", "-t", "all", "--reason", " "], 2, "fireline: --reason is missing: why, for the record"),
        (["isolate", "--reason", "drill"], 2, NO_TARGET),
        (["isolate", "-t", "web9", "--reason", "drill"], 3, "fireline: target names web9: no such host is enrolled"),
        (["isolate", "-t", "web9", "--plan", "--scope", "moon"], 2, "fireline: scope 'moon': wanted one of host, cont"),
        (["isolate", "-t", "web9", "--plan", "--allow", "jump:22"], 2, "fireline: allowances: 'jump' is no literal ad"),
        (["isolate", "-t", "web9", "--plan", "--lease", "3"], 2, "fireline: lease: wanted 5 to 600 seconds, found 3"),
        (["isolate", "-t", "web9", "--reason", "x", "--hold", "soon"], 2, "fireline: 'soon' is no duration: wanted a "),
        (["isolation", "code", "web9", "--reason", "console"], 3, "fireline: host 'web9' is not known; `fireline host"),
        (["isolation", "status", "-t", "web9"], 3, "fireline: target names web9: no such host is enrolled"),
        (["enroll", "token", "--host", "Web_5"], 2, "fireline: no token can be made: 'Web_5' is not the name of a h"),
    ],
)  # fmt: skip
def test_a_slip_is_told_apart_from_what_is_not_there(
    state: Path, arguments: Sequence[str], status: int, words: str
) -> None:
    """Exit 2 for what can't be meant, 3 for what is not known; one line that says which."""
    done = fireline(state, *arguments)

    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(words), done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_that_does_not_verify_is_named_as_the_operator_named_it(state: Path, tmp_path: Path) -> None:
    """Not as the controller calls its copy; and a certificate that is not there is no crash."""
    file = tmp_path / "from-berlin.fireline"
    file.write_bytes(b"x" * 512)

    done = fireline(state, "evidence", "import", file)
    without = fireline(state, "evidence", "import", file, "--ca", tmp_path / "none.pem")

    assert done.returncode == 1
    assert done.stderr.startswith(f"fireline: {file} is not imported: it does not verify, 1 problem: the block at byte")
    assert (without.returncode, without.stderr) == (2, f"fireline: {tmp_path}/none.pem: no such file\n")


def test_a_wrong_variable_is_named(state: Path) -> None:
    """By every command alike."""
    for command in (["config", "show"], ["host", "list"], ["init"], ["serve"]):
        done = fireline(state, *command, FIRELINE_FANOUT_CONCURRENCY="abc")

        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("fireline: FIRELINE_FANOUT_CONCURRENCY (fanout.concurrency): "), done.stderr


def test_a_missing_key_is_told_alike_by_every_command(tmp_path: Path) -> None:
    """Exit 5, the file, and what to do."""
    state = tmp_path / "state"
    fireline(state, "init", "--operator", "tester")
    (state / "keys" / "ca.key").unlink()
    wanted = (
        f"fireline: {state}/keys: the authority is not whole: ca.key is missing."
        " Restore what is missing or broken from a backup\n"
    )

    for command in (["init"], ["host", "list"], ["serve"]):
        done = fireline(state, *command)
        assert (done.returncode, done.stderr) == (5, wanted)


def test_an_incident_without_a_target_says_so(state: Path) -> None:
    """Opened for the record only."""
    opened = fireline(state, "incident", "open", "P4", "a drill")
    incident = opened.stderr.split()[1]

    assert fireline(state, "incident", "show", incident).stdout.splitlines()[1].endswith("by tester, target: none")
    assert fireline(state, "evidence", "list", "-i", incident).returncode == 0
