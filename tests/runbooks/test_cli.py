"""`fireline runbook`: what it prints and how it ends, without a controller; and suggestions from a real record."""

import json
import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner, Result

from fireline_controller import targets
from fireline_controller.cli.app import app
from fireline_controller.engine.incidents import Incidents
from fireline_controller.engine.suggestions import Suggestions
from fireline_controller.model import Finding, Host, HostOutcome, Operation, Outcome
from fireline_controller.store import Store, Transaction
from tests.fleet import BIN
from tests.runbooks.catalogue import HEAD

AT = datetime(2026, 5, 2, 12, 0, tzinfo=UTC)
RIGHT = HEAD.replace("tried,", "mine,") + "steps:\n  - {id: keep, capture: initial, timeout: 9s}\n"
WRONG = RIGHT.replace("capture: initial", "capture: intial").replace("mine", "wrong")


def fireline(*words: str | Path, state: Path) -> Result:
    """The command, in this process; it needs no state folder."""
    return CliRunner().invoke(app, list(map(str, words)), env={"FIRELINE_STATE": str(state), "NO_COLOR": "1"})


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with a right runbook and a wrong one."""
    (tmp_path / "runbooks").mkdir()
    (tmp_path / "runbooks" / "mine.yaml").write_text(RIGHT)
    (tmp_path / "runbooks" / "wrong.yaml").write_text(WRONG)
    return tmp_path


def test_a_wrong_runbook_hides_no_other(state: Path) -> None:
    """It is named on stderr with its first problem; all that are right are listed."""
    done = fireline("runbook", "list", state=state)

    assert done.exit_code == 0
    assert {"disk-full", "mine"} <= {line.split()[0] for line in done.stdout.splitlines()}
    assert f"{state}/runbooks/wrong.yaml:5:25: there is no profile 'intial'; did you mean 'initial'?" in done.stderr


def test_the_list_is_a_document_too(state: Path) -> None:
    """Each with its risk and hash; the wrong one with its problems."""
    listed = json.loads(fireline("runbook", "list", "--json", state=state).stdout)["runbooks"]
    by_name = {one["runbook"]: one for one in listed}

    assert by_name["p2-storage"]["risk"] == "destructive"
    assert by_name["mine"]["from"] == "yours" and len(by_name["mine"]["sha256"]) == 64
    assert "there is no profile 'intial'" in by_name["wrong"]["problems"][0]


def test_a_runbook_is_shown_step_by_step(state: Path) -> None:
    """Parameters as they would be typed, and what each step risks and asks for."""
    done = fireline("runbook", "show", "p2-storage", state=state)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]

    assert done.exit_code == 0
    assert "age duration 1d only what nobody used for so long" in lines
    assert "temp disk.clean_temp destructive 1 of the others continue Temporary files that nobody uses" in lines


def test_a_runbook_is_a_document_too(state: Path) -> None:
    """With stable keys, steps inside parallel steps among them."""
    shown = json.loads(fireline("runbook", "show", "p1-critical", "--json", state=state).stdout)
    [both] = [step for step in shown["steps"] if step["id"] == "assess"]

    assert [member["does"] for member in both["do"]["steps"]] == ["disk.usage", "container.top"]


def test_what_is_not_there_is_answered_with_the_nearest(state: Path) -> None:
    """And with the status for nothing matched."""
    done = fireline("runbook", "show", "disk-ful", state=state)

    assert done.exit_code == 3
    assert done.stderr == "fireline: there is no runbook 'disk-ful'; did you mean 'disk-full'?\n"


@pytest.mark.parametrize("files, status", [(["mine"], 0), (["wrong"], 1), (["mine", "wrong"], 1), (["gone"], 2)])
def test_check_ends_as_it_found(state: Path, files: list[str], status: int) -> None:
    """0 where all are right, 1 where something is wrong, 2 where a file can't be read."""
    paths = [state / "runbooks" / f"{name}.yaml" for name in files]

    assert fireline("runbook", "check", *paths, state=state).exit_code == status


def test_check_prints_places_that_editors_follow(state: Path) -> None:
    """`file:line:column: message`, one a line; the same as a document."""
    path = state / "runbooks" / "wrong.yaml"

    done = fireline("runbook", "check", path, state=state)
    [checked] = json.loads(fireline("runbook", "check", path, "--json", state=state).stdout)["files"]

    assert done.stdout == f"{path}:5:25: there is no profile 'intial'; did you mean 'initial'?\n"
    assert checked["problems"] == [
        {"line": 5, "column": 25, "message": "there is no profile 'intial'; did you mean 'initial'?"}
    ]


def test_a_hostile_file_steers_no_terminal(state: Path) -> None:
    """What a file holds is printed without control characters."""
    (state / "odd.yaml").write_text(HEAD + 'steps: "\\e[31m"\n')

    assert "\x1b" not in fireline("runbook", "check", state / "odd.yaml", state=state).stdout


def test_the_schema_and_the_export_are_json(state: Path) -> None:
    """Both go straight into other programs."""
    assert json.loads(fireline("runbook", "schema", state=state).stdout)["title"] == "Fireline runbook"
    assert json.loads(fireline("runbook", "export", "mine", state=state).stdout)["type"] == "playbook"


async def test_a_captured_finding_suggests_its_runbook(state: Path) -> None:
    """From the record: findings of the incident's captures, its hosts' labels, who gave no answer, and broken files."""
    key = ec.generate_private_key(ec.SECP256R1())
    store = Store.open(f"sqlite:///{state}/store.db", journal_key=key, anchor_path=state / "journal.anchor")
    incidents = Incidents(store, lambda: AT)
    incident = await incidents.open("P2", "shop is slow", target="", operator="alice", reason="")
    found = Finding("warning", "filesystem-full", "/", "full", "filesystems", "web1")
    outcomes = [
        HostOutcome("web1", Outcome.OK, findings=(found,)),
        HostOutcome("web2", Outcome.UNREACHABLE, reason="no_answer"),
    ]

    def record(tx: Transaction) -> None:
        for name in ("web1", "web2"):
            tx.put_host(Host(name, "198.18.0.1:7700", {"role": "web"}, 1, AT, "1", AT))
        target = targets.freeze(["web1", "web2"], spelled="web[1-2]")
        tx.put_operation(Operation("op-1", "capture", incident.id, "alice", "", target, AT, profile="initial"))
        tx.finish_operation("op-1", outcomes, AT)

    store.run_now(record)
    try:
        suggested = await Suggestions(state, store, incidents).of(incident.id)
    finally:
        store.close()

    best = suggested.suggestions[0]
    assert best.reasons[0] == "warning finding filesystem-full on web1"
    assert {"disk-full", "p2-storage"} <= {s.runbook.name for s in suggested.suggestions}
    assert list(suggested.affected.values()) == ["web2 gave no answer: network"]
    assert any("there is no profile 'intial'" in problem for problem in suggested.problems)


def test_an_operator_is_told_what_fits(tmp_path: Path) -> None:
    """The installed command asks the controller and prints what it answers, of alerts that it names too."""
    state = tmp_path / "state"
    environment = os.environ | {"FIRELINE_STATE": str(state), "NO_COLOR": "1"}

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([BIN / "fireline", *words], capture_output=True, text=True, timeout=60, env=environment)

    run("init", "--operator", "alice")
    opened = run("incident", "open", "P2", "no space left on device")
    [incident] = re.findall(r"INC-[0-9-]+", opened.stderr.splitlines()[0])

    told = json.loads(run("runbook", "suggest", incident, "--json").stdout)

    assert told["affected"] == ["the title says 'space': storage"]
    assert told["suggestions"][0]["reasons"] == ["the title says 'space': storage", "meant for P2 alone"]

    alert = "--alert=DatabaseConnectionFailure,service=postgres"
    named = json.loads(run("runbook", "suggest", incident, alert, "--json").stdout)
    assert "the alert DatabaseConnectionFailure" in named["suggestions"][0]["reasons"]
    assert run("runbook", "suggest", incident, "--alert=Down,=x").returncode == 2
