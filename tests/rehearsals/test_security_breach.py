"""security-breach on hosts that somebody broke into: kept, cut off, cleaned, rebuilt, and let back on a person's word.

All of it while the host is dark, through the controller. From outside: a stranger's connections, the servers' own word
on passwords, the engine's on containers.
"""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet import Fleet
from tests.lab import NETNS, Host, default_backend, eventually
from tests.rehearsals import breached
from tests.rehearsals.breached import Breach
from tests.rehearsals.ground import Going, fleet_of_two_people, is_proved, lines, opened, planned, suggested
from tests.rehearsals.ground import steps_on_record as on_record
from tests.remediation.watching import files_with, processes_watched

pytestmark = [
    pytest.mark.netns, pytest.mark.docker, pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(240),
]  # fmt: skip

BOOK = "security-breach"
STATE = "/var/lib/fireline-agent"
_PATIENCE_S = 1.0
_OF_PEOPLE = ("findings", "other_secrets", "clean")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Two hosts that allow what destroys, each the other's witness, and two operators."""
    if default_backend() != NETNS or breached.lacks():
        pytest.skip(f"needs root, namespaces, {', '.join(breached.lacks())}")
    with fleet_of_two_people("shop1", "shop2") as made:
        for host in made.lab:
            host.end_agent()
            host.write("/etc/fireline/policy.toml", breached.POLICY)
            host.start_agent()
            _until_it_answers(made, host)
        yield made


@pytest.fixture(scope="module")
def second(fleet: Fleet) -> Breach:
    """The second host, broken into."""
    return breached.break_into(fleet.lab["shop2"])


def _until_it_answers(fleet: Fleet, host: Host) -> None:
    eventually(
        lambda: fleet.try_fireline("host", "ping", "-t", host.name).returncode == 0, within_s=30, what="the agent"
    )


def _knocks(fleet: Fleet, host: Host, port: int) -> bool:
    """Whether a stranger on the same network gets through to a port."""
    stranger = fleet.lab.outsider()
    with stranger.socket(socket.AF_INET, socket.SOCK_STREAM) as caller:
        caller.settimeout(_PATIENCE_S)
        return caller.connect_ex((host.address, port)) == 0


def _is_dark(fleet: Fleet, host: Host) -> bool:
    return not _knocks(fleet, host, 7700)


def _act_by_hand(fleet: Fleet, run: Going) -> None:
    """What the step `findings` asks for: the planted file and the intruder's program."""
    quarantine = ("action", "run", "security.quarantine_file", "-t", "shop1", "-p", f"path={breached.SETUID}")
    kill = ("action", "run", "system.process_kill", "-t", "shop1", "-p", "command=.cache-update")
    refused = fleet.try_fireline(*quarantine, "--reason", "planted", "--yes")

    assert refused.returncode == 4
    assert f"if its step findings asks for this, say --run {run.id}" in refused.stderr
    for words in (quarantine, kill):
        fleet.fireline(*words, "--reason", "planted", "--yes", "--run", run.id)


def _exported(fleet: Fleet, incident: str, folder: Path) -> bytes:
    """All that was sealed in an incident, with its lines of the journal."""
    fleet.fireline("evidence", "export", incident, "--output", str(folder / "all.fireline"), within_s=200)
    return (folder / "all.fireline").read_bytes()


def _imaged(fleet: Fleet, incident: str, folder: Path) -> bytes:
    found = fleet.json("evidence", "list", "--incident", incident)["evidence"]
    [image] = [one["evidence_id"] for one in found if one["profile"] == "image"]
    fleet.fireline("evidence", "export", image, "--output", str(folder / "image.fireline"))
    fleet.fireline("evidence", "image", str(folder / "image.fireline"), "--output", str(folder / "disk.raw"))
    return (folder / "disk.raw").read_bytes()


def test_a_host_is_cut_off_cleaned_rebuilt_and_let_back(fleet: Fleet, tmp_path: Path) -> None:
    """The whole of it, by two persons; what was secret before and after is nowhere but where it belongs."""
    host = fleet.lab["shop1"]
    breach = breached.break_into(host)
    incident = opened(fleet, "P1", "an intruder on shop1", "shop1")
    reasons = suggested(fleet, incident)
    plan = planned(fleet, BOOK, incident, *breach.params)

    assert next(iter(reasons)) == BOOK
    assert any("deleted-executable" in reason for reason in reasons[BOOK])
    assert [e["effect"].partition(",")[0] for e in plan["rebuild"]["effects"]] == ["rebuild 2 containers of shop"]
    assert breach.container_ids() == breach.containers
    assert breach.secret(breached.ENV) == breached.OLD["token"]
    assert _knocks(fleet, host, 4444) and not _is_dark(fleet, host)

    with Going(fleet, BOOK, incident, *breach.params) as run:
        run.until("findings", within_s=150)
        assert not _knocks(fleet, host, 4444) and _is_dark(fleet, host)
        assert fleet.json("isolation", "status", "-t", "shop1")["hosts"][0]["isolations"][0]["phase"] == "committed"
        _act_by_hand(fleet, run)
        run.done("findings")
        with processes_watched() as watch:
            run.done("other_secrets")
        run.until("rebuild")
        assert fleet.try_fireline("runbook", "approve", run.id, "--yes").returncode == 4
        run.approved("rebuild")
        run.until("clean")
        assert _is_dark(fleet, host)
        fleet.fireline("capture", "-t", "shop1", "-i", incident, "--profile", "breach", "--reason", "clean?")
        run.done("clean")
        run.approved("let_back")
        ended = run.ended()

    assert (ended.status, ended.state, ended.run["why"]) == (0, "succeeded", "")
    new = {name: breach.secret(path) for name, path in breached.FILES.items()}
    assert [breach.role_lets_in(s["role"]) for s in (new, breached.OLD)] == [True, False]
    assert [breach.redis_lets_in(s["redis"]) for s in (new, breached.OLD)] == [True, False]
    assert f"SHOP_TOKEN={new['token']}" in breach.docker("inspect", "--format", "{{.Config.Env}}", "shop-web-1")
    assert breach.docker("inspect", "--format", "{{.Image}}", "shop-web-1") == breach.image
    assert breach.data() == ["good"]
    assert "backdoor" not in breach.docker("exec", "shop-web-1", "ls", "/tmp")
    assert not host.path(breached.SETUID).exists()
    assert host.run(["getent", "shadow", breached.INTRUDER]).split(":")[7] == "1"
    assert not _knocks(fleet, host, 4444) and not _is_dark(fleet, host)
    assert set(on_record(fleet, incident)) >= {
        "cut_off",
        "disk_image",
        "role",
        "redis",
        "secrets",
        "rebuild",
        "let_back",
    }
    assert is_proved(fleet)
    is_same = _imaged(fleet, incident, tmp_path) == breached.DISK_CONTENT
    assert is_same
    _assert_kept_to_itself(fleet, breach, new, _exported(fleet, incident, tmp_path))
    assert not any(watch.has_on_command_line(secret) for secret in new.values())
    assert watch.looks > 0


def _assert_kept_to_itself(fleet: Fleet, breach: Breach, new: dict[str, str], exported: bytes) -> None:
    """No secret is in evidence, journal, state, logs or what the agent keeps, but for the former ones set aside."""
    journal = fleet.fireline("journal", "export").encode()
    status = fleet.fireline("runbook", "status", "--json").encode()
    agent = breach.host.path(STATE)
    assert b"shop-web-1" in exported  # what is looked through holds the evidence in the clear
    for secret in (*new.values(), *breached.OLD.values()):
        assert not any(secret.encode() in text for text in (exported, journal, status))
        assert files_with(secret, fleet.state) == []
        assert secret not in breach.host.agent_log()
    for secret in new.values():
        assert files_with(secret, agent) == []
    assert {path.parent.name for s in breached.OLD.values() for path in files_with(s, agent)} == {"aside"}


def test_a_backup_that_is_not_the_named_one_destroys_nothing(fleet: Fleet, second: Breach) -> None:
    """The hash is compared before anything stops: all containers run on with their data, and the host stays dark."""
    incident = opened(fleet, "P1", "an intruder on shop2", "shop2")
    params = second.rebuild_params(backup_sha256="0" * 64)

    with Going(fleet, BOOK, incident, *params) as run:
        run.until("findings", within_s=150)
        run.done("findings")
        run.done("other_secrets")
        run.approved("rebuild")
        ended = run.ended()

    [(_, outcome)] = ended.hosts("rebuild")
    assert (ended.status, ended.state, outcome) == (1, "failed", "failed")
    assert "lost in step rebuild" in ended.run["why"]
    assert second.container_ids() == second.containers
    assert (second.data(), second.kept_aside()) == (["bad"], [])
    assert second.host.run(["ls", "/var/lib/docker/volumes/shop_data"]).split() == ["_data"]
    assert _is_dark(fleet, second.host)


def test_a_second_person_who_says_no_ends_it(fleet: Fleet, second: Breach) -> None:
    """Who denies sees the very values; nothing is rebuilt, and nobody is let back. The host was dark already."""
    incident = opened(fleet, "P1", "an intruder on shop2, again", "shop2")

    with Going(fleet, BOOK, incident, *second.rebuild_params()) as run:
        run.until("findings", within_s=150)
        run.done("findings")
        run.done("other_secrets")
        run.until("rebuild")
        [asked] = [a for a in fleet.json("approval", "list")["approvals"] if a["standing"] == "open"]
        shown = json.dumps(fleet.json("approval", "show", asked["approval"]))
        run.approved("rebuild", "--deny")
        ended = run.ended()

    assert second.backup_sha256 in shown and second.image in shown
    assert (ended.status, ended.state) == (1, "failed")
    assert "bob denied it: rehearsal" in ended.run["why"]
    assert second.container_ids() == second.containers
    assert _is_dark(fleet, second.host)


def test_i2_i6_a_controller_that_is_killed_in_the_rebuild_does_nothing_twice(fleet: Fleet, second: Breach) -> None:
    """Its daemon dies by signal 9 while the host rebuilds; the next one goes on, and all can be taken back."""
    incident = opened(fleet, "P1", "an intruder on shop2, once more", "shop2")
    with Going(fleet, BOOK, incident, *second.rebuild_params()) as run:
        run.until("findings", within_s=150)
        run.done("findings")
        run.done("other_secrets")
        run.approved("rebuild")
        eventually(lambda: bool(second.kept_aside()), within_s=60, every_s=0.1, what="the rebuild to be under way")
        fleet.kill_daemon()
        fleet.start_daemon()
        eventually(lambda: "clean" in _position(fleet, run.id), within_s=60, what="the run to go on")
        fleet.fireline("runbook", "done", run.id, "clean", "--note", "rehearsal")
        eventually(lambda: _approves(fleet, run.id), within_s=30, what="the last approval")
        eventually(lambda: _state(fleet, run.id) == "succeeded", within_s=60, what="the end")
        run_id = run.id

    assert second.kept_aside() == ["shop-db-1", "shop-web-1"]
    assert second.data() == ["good"]
    folders = second.host.run(["ls", "/var/lib/docker/volumes/shop_data"]).split()
    assert [name.partition(".fireline-")[2].partition("-")[0] for name in folders] == ["", "old"]
    applied = [one for one in lines(fleet, incident) if one["kind"] == "action.applied"]
    assert [one["data"]["action"] for one in applied] == ["security.rebuild"]
    assert not _is_dark(fleet, second.host)

    fleet.fireline("runbook", "rollback", run_id, "--reason", "the former state is wanted")

    assert second.container_ids() == second.containers
    assert second.data() == ["bad"]
    assert is_proved(fleet)


def _state(fleet: Fleet, run_id: str) -> str:
    return str(fleet.json("runbook", "status", run_id)["state"])


def _position(fleet: Fleet, run_id: str) -> str:
    return str(fleet.json("runbook", "status", run_id)["position"])


def _approves(fleet: Fleet, run_id: str) -> bool:
    return fleet.try_fireline("--as", "bob", "runbook", "approve", run_id, "--yes").returncode == 0
