"""The main job as an operator does it: real commands, real agents on real hosts, real files."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fleet import BIN, Fleet
from tests.integration.programs import deleted_program
from tests.lab.plants import crash_loop, deleted_executable, foreign_listener

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]


def findings_of(fleet: Fleet, evidence_id: str) -> list[dict[str, str]]:
    """What stands out in sealed evidence."""
    shown = fleet.json("evidence", "show", evidence_id)
    found: list[dict[str, str]] = shown["statement"]["predicate"]["findings"]
    return found


def verify_elsewhere(fleet: Fleet, exported: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Verify a file with the authority's certificate and nothing else of the controller's."""
    ca = shutil.copy(fleet.state / "keys" / "ca.pem", folder / "ca.pem")
    return subprocess.run(
        [BIN / "fireline", "evidence", "verify", exported, "--ca", ca, "--json", "--state", folder / "none"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_one_dead_host_of_five_is_unreachable_and_the_others_are_sealed(fleet: Fleet, tmp_path: Path) -> None:
    """I1: with one host of five dead: exit 1, 4 ok and 1 unreachable; the evidence of the four verifies offline."""
    fleet.lab["web4"].power_cut()
    try:
        document = fleet.json("incident", "open", "P1", "drill", "--target", "all", status=1)
    finally:
        fleet.lab["web4"].boot()

    assert document["counts"] == {"ok": 4, "unreachable": 1}
    assert [h["host"] for h in document["hosts"]] == ["db1", "web1", "web2", "web3", "web4"]
    dead = document["hosts"][-1]
    assert (dead["outcome"], dead["reason"]) == ("unreachable", "no_answer")
    assert all(h["evidence_id"].startswith("ev-") and h["sealed_ms"] > 0 for h in document["hosts"][:-1])

    exported = tmp_path / "incident.fireline"
    fleet.fireline("evidence", "export", document["incident"], "--output", str(exported))
    verdict = verify_elsewhere(fleet, exported, tmp_path)
    assert verdict.returncode == 0, verdict.stdout
    assert json.loads(verdict.stdout)["artifacts"] == sum(h["artifacts"] for h in document["hosts"][:-1])


def test_a_flipped_bit_is_caught(fleet: Fleet, tmp_path: Path) -> None:
    """I7: an exported file with one bit changed does not verify, and the problem is named."""
    document = fleet.json("incident", "open", "P3", "bit", "--target", "db1")
    exported = tmp_path / "incident.fireline"
    fleet.fireline("evidence", "export", document["incident"], "--output", str(exported))
    content = bytearray(exported.read_bytes())
    content[len(content) // 3] ^= 4
    exported.write_bytes(content)

    verdict = verify_elsewhere(fleet, exported, tmp_path)

    assert verdict.returncode == 1
    assert json.loads(verdict.stdout)["problems"]


def test_what_an_intruder_leaves_is_found(fleet: Fleet) -> None:
    """A deleted running program and a listener in a foreign namespace are findings of a `volatile` capture."""
    planted = [deleted_executable(fleet.lab["web1"]), foreign_listener(fleet.lab["web2"])]

    document = fleet.json("capture", "-t", "web[1-2]", "--profile", "volatile", "--reason", "hunt")

    by_host = {h["host"]: h for h in document["hosts"]}
    for plant in planted:
        found = [f for f in by_host[plant.host]["findings"] if f["code"] == plant.finding]
        assert any(plant.subject in f["subject"] + f["summary"] for f in found), (plant, found)


@pytest.mark.docker
def test_a_crash_looping_container_is_found(engine_fleet: Fleet) -> None:
    """A container that restarts without end is a finding, and the critical service's settings are captured."""
    plant = crash_loop(engine_fleet.lab["db1"])

    document = engine_fleet.json("incident", "open", "P1", "checkout", "-t", "db1")

    host = document["hosts"][0]
    assert [f for f in host["findings"] if f["code"] == plant.finding and plant.subject in f["subject"]]
    names = [a["name"] for a in _manifest(engine_fleet, host["evidence_id"])["artifacts"]]
    assert any("inspect" in name for name in names), names


def _manifest(fleet: Fleet, evidence_id: str) -> dict[str, list[dict[str, str]]]:
    manifest: dict[str, list[dict[str, str]]] = fleet.json("evidence", "show", evidence_id)["statement"]["predicate"]
    return manifest


def test_the_incident_is_on_record(fleet: Fleet) -> None:
    """Opening, each seal, a note and each look at evidence are lines; the journal verifies."""
    document = fleet.json("incident", "open", "P2", "on record", "-t", "role=db,env=prod", "--except", "web1")
    incident = document["incident"]
    assert "by tester, target: role=db,env=prod except web1\n" in fleet.fireline("incident", "show", incident)
    fleet.fireline("incident", "note", incident, "looked at the disk first")
    fleet.json("evidence", "show", document["hosts"][0]["evidence_id"], "--reason", "triage")

    lines = [json.loads(line) for line in fleet.fireline("incident", "timeline", incident, "--json").splitlines()]

    assert [line["kind"] for line in lines] == [
        "incident.opened",
        "capture.ordered",
        "evidence.sealed",
        "capture.finished",
        "incident.note",
        "evidence.shown",
    ]
    assert lines[-1]["data"]["reason"] == "triage" and lines[-1]["actor"] == "tester"
    assert fleet.json("journal", "verify")["verified"]


def test_an_empty_target_opens_nothing(fleet: Fleet) -> None:
    """I10: a target that matches no host is exit 3, and no incident comes of it."""
    before = fleet.json("incident", "list")

    done = fleet.try_fireline("incident", "open", "P1", "nobody", "--target", "role=nothing")

    assert done.returncode == 3
    assert fleet.json("incident", "list") == before


def test_a_wide_target_needs_a_confirmation(fleet: Fleet) -> None:
    """I10: more hosts than `confirm_above` are refused without a terminal or --yes (exit 4), and nothing is sent."""
    (fleet.state / "fireline.toml").write_text(
        (fleet.state / "fireline.toml").read_text().replace("confirm_above = 20", "confirm_above = 3")
    )
    fleet.stop_daemon()
    fleet.start_daemon()
    try:
        done = fleet.try_fireline("host", "ping", "-t", "all")
        assert done.returncode == 4
        assert "5 hosts" in done.stderr and "--yes" in done.stderr
        assert fleet.json("host", "ping", "-t", "all", "--yes")["counts"] == {"ok": 5}
    finally:
        text = (fleet.state / "fireline.toml").read_text().replace("confirm_above = 3", "confirm_above = 20")
        (fleet.state / "fireline.toml").write_text(text)
        fleet.stop_daemon()
        fleet.start_daemon()


def test_the_same_works_without_a_daemon(fleet: Fleet) -> None:
    """One code path: a command without a daemon runs the controller inside its own process."""
    fleet.stop_daemon()
    try:
        document = fleet.json("incident", "open", "P3", "embedded", "-t", "web[1-3]")
        assert document["counts"] == {"ok": 3}
        assert fleet.json("evidence", "verify", document["hosts"][0]["evidence_id"])["verified"]
    finally:
        fleet.start_daemon()


def test_imported_evidence_verifies_on_another_controller(fleet: Fleet, tmp_path: Path) -> None:
    """An exported incident imports into a state folder of another authority and verifies there."""
    document = fleet.json("incident", "open", "P3", "hand over", "-t", "web1")
    exported = tmp_path / "incident.fireline"
    fleet.fireline("evidence", "export", document["incident"], "--output", str(exported))
    other = tmp_path / "other"
    base = [BIN / "fireline"]

    def run(*arguments: str, status: int = 0) -> str:
        done = subprocess.run([*base, *arguments, "--state", other], capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stderr
        return done.stdout

    run("init", "--operator", "auditor")
    run("evidence", "import", str(exported), status=1)  # its own authority is not the one that sealed
    run("evidence", "import", str(exported), "--ca", str(fleet.state / "keys" / "ca.pem"))
    evidence = json.loads(run("evidence", "list", "--json"))["evidence"]

    assert [e["evidence_id"] for e in evidence] == [document["hosts"][0]["evidence_id"]]
    assert json.loads(run("evidence", "verify", evidence[0]["evidence_id"], "--json"))["verified"]


def test_evidence_of_equal_files_crosses_the_wire_once(fleet: Fleet) -> None:
    """The same deleted program on two hosts is fetched from one of them and kept once."""
    make = "cp /bin/sleep $0 && yes fireline | head -c 8M >> $0"
    with deleted_program(fleet.lab["web3"], make), deleted_program(fleet.lab["web4"], make):
        document = fleet.json("capture", "-t", "web[3-4]", "--profile", "volatile", "--reason", "dedupe")

    assert document["counts"] == {"ok": 2}
    assert 8 << 20 < sum(h["deduplicated_bytes"] for h in document["hosts"]) < 12 << 20
