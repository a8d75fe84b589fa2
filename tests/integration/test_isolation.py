"""`fireline isolate` and `fireline release` on real hosts with real kernels: proved, let back, and never half done."""

import json
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.fleet import AGENT_CONFIG, BIN, Fleet
from tests.integration.conftest import need
from tests.lab import NETNS, Host, default_backend, eventually

LEASE_S = 5
SETTINGS = f"[isolation]\nlease_s = {LEASE_S}\nlook_s = 0.5\n"
NOW = ("--now", "--reason", "drill")


@pytest.fixture(scope="module")
def four() -> Iterator[Fleet]:
    """Four hosts and a daemon, of which nothing is isolated at the start of each test."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    labels = {"web4": "service=cache"}
    with Fleet(["web1", "web2", "web3", "web4"], labels=labels, settings=SETTINGS) as made:
        yield made


@pytest.fixture
def fleet(four: Fleet) -> Iterator[Fleet]:
    """The four hosts; whatever a test left is mended."""
    yield four
    if four.daemon is None:
        four.start_daemon()
    for host in four.lab:
        host.heal()
        if host.agent is None:
            host.start_agent()
    eventually(
        lambda: four.try_fireline("host", "ping", "-t", "all").returncode == 0, within_s=30, what="all to answer"
    )
    four.fireline("release", "-t", "all", "--reason", "mend")
    assert [host.name for host in four.lab if is_dark(host)] == []


def is_dark(host: Host) -> bool:
    """Whether rules of ours are in the host's kernel."""
    return "fireline_" in host.run(["nft", "list", "tables"])


def ruleset(host: Host) -> str:
    """The host's rules."""
    return host.run(["nft", "list", "ruleset"])


def kinds(fleet: Fleet, host: str) -> list[str]:
    """What the journal says of a host's isolation, the host's own words left out."""
    with closing(sqlite3.connect(f"file:{fleet.state / 'store.sqlite'}?mode=ro", uri=True)) as store:
        lines = [json.loads(line) for (line,) in store.execute("SELECT canonical FROM journal ORDER BY seq")]
    found = [line for line in lines if line["host"] == host and line["kind"].startswith("isolation.")]
    return [line["kind"].removeprefix("isolation.") for line in found if line["kind"] != "isolation.changed"]


def phases(fleet: Fleet, host: str) -> tuple[list[str], list[str]]:
    """The phases of what is isolated on a host: by its kernel, and by the record."""
    (shown,) = json.loads(fleet.try_fireline("isolation", "status", "-t", host, "--json").stdout)["hosts"]
    return [one["phase"] for one in shown["isolations"]], [one["phase"] for one in shown["records"]]


def started(fleet: Fleet, *arguments: str) -> "subprocess.Popen[str]":
    """A command that goes on beside the test."""
    return subprocess.Popen(
        [BIN / "fireline", *arguments, "--state", fleet.state],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_two_hosts_go_dark_proved_by_the_others_and_come_back_as_they_were(fleet: Fleet) -> None:
    """I4: dark to hosts that saw them before, reachable by the controller; and the rules of before, byte for byte."""
    web1, web2 = fleet.lab["web1"], fleet.lab["web2"]
    web1.run(["nft", "add table inet mine; add chain inet mine c { type filter hook input priority 0; }"])
    before = ruleset(web1)

    found = fleet.json("isolate", "-t", "web[1-2]", *NOW)

    assert found["counts"] == {"ok": 2}
    for host in found["hosts"]:
        assert host["detail"] == "dark to web3, web4: 4 ports at 2 addresses that answered before are silent"
        times = host["isolation"]
        assert times["witnesses"] == ["web3", "web4"]
        assert 0 < times["armed_ms"] <= times["confirmed_ms"] <= times["proved_ms"] <= times["committed_ms"]
        assert times["applied_us"] > 0
    assert is_dark(web1)
    assert is_dark(web2)
    assert phases(fleet, "web1") == (["committed"], ["committed"])

    back = fleet.json("release", "-t", "web[1-2]", "--reason", "drill")
    assert all(host["detail"].startswith("restored; ") for host in back["hosts"]), back
    assert all(" are seen again by " in host["detail"] for host in back["hosts"]), back
    assert ruleset(web1) == before
    assert phases(fleet, "web1") == ([], [])
    web1.run(["nft", "delete table inet mine"])
    assert json.loads(fleet.fireline("journal", "verify", "--json"))["verified"]


def test_evidence_comes_first_and_then_who_was_connected(fleet: Fleet) -> None:
    """I3: the volatile state is sealed before the host is touched."""
    found = fleet.json("isolate", "-t", "web1", "--reason", "drill")

    (host,) = found["hosts"]
    assert host["outcome"] == "ok", host["detail"]
    assert host["evidence_id"].startswith("ev-")
    assert 0 < host["isolation"]["captured_ms"] <= host["isolation"]["armed_ms"]
    sealed = fleet.json("evidence", "list", "--host", "web1")["evidence"]
    assert {"volatile", "isolation"} <= {one["profile"] for one in sealed}


def test_all_hosts_at_once_are_proved_by_the_controller_itself(fleet: Fleet) -> None:
    """With nobody left to look on, the controller looks at ports that its own way in does not open."""
    found = fleet.json("isolate", "-t", "all", *NOW, "--force", "all are infected")

    assert found["counts"] == {"ok": 4}
    assert {host["detail"][:23] for host in found["hosts"]} == {"dark to this controller"}
    again = fleet.json("isolate", "-t", "web1", *NOW)
    assert again["hosts"][0]["detail"].startswith("isolated already, by order ")
    assert ": dark to this controller: " in again["hosts"][0]["detail"]


def test_a_dead_witness_proves_nothing_and_is_not_needed(fleet: Fleet) -> None:
    """Its place goes to another."""
    fleet.lab["web3"].kill_agent()

    (host,) = fleet.json("isolate", "-t", "web1", *NOW)["hosts"]

    assert host["outcome"] == "ok"
    assert host["isolation"]["witnesses"] == ["web2", "web4"]


def test_a_host_that_is_away_is_isolated_when_it_is_back(fleet: Fleet) -> None:
    """The order waits for it; the daemon carries it out, and its journal says all of it."""
    web1 = fleet.lab["web1"]
    before = len(kinds(fleet, "web1"))
    web1.kill_agent()
    found = fleet.json("isolate", "-t", "web[1-2]", *NOW, "--hold", "1h", status=1)
    assert [host["outcome"] for host in found["hosts"]] == ["unreachable", "ok"]
    (shown,) = fleet.json("isolation", "status", "-t", "web1", status=1)["hosts"]
    assert [one["phase"] for one in shown["records"]] == ["pending"]

    web1.start_agent()

    eventually(lambda: phases(fleet, "web1") == (["committed"], ["committed"]), within_s=30, what="web1 to go dark")
    assert kinds(fleet, "web1")[before:] == ["held", "arming", "committed", "withdrawn"]


def test_the_last_healthy_member_of_a_group_stays_unless_forced(fleet: Fleet) -> None:
    """And the plan says so before."""
    planned = fleet.json("isolate", "-t", "web4", "--plan", status=4)
    assert planned["hurts"] == ["service=cache would lose its last healthy member web4: it has no other"]
    (host,) = planned["hosts"]
    assert host["transaction"].startswith("add table inet fireline_")
    assert host["open"] == [fleet.lab.controller_address]

    refused = fleet.try_fireline("isolate", "-t", "web4", *NOW)

    assert refused.returncode == 4
    assert "--force REASON" in refused.stderr
    assert not is_dark(fleet.lab["web4"])


def test_the_code_for_the_console_is_shown_with_a_reason(fleet: Fleet) -> None:
    """Nothing of it is in the journal or in the daemon's log."""
    fleet.fireline("isolate", "-t", "web1", *NOW)
    refused = fleet.try_fireline("isolation", "code", "web1")
    assert (refused.returncode, "--reason" in refused.stderr) == (2, True)

    (shown,) = fleet.json("isolation", "code", "web1", "--reason", "console")["codes"]

    assert len(shown["code"]) == 19
    assert shown["code"] not in fleet.fireline("journal", "export")
    assert shown["code"] not in (fleet.state / "serve.log").read_text()


def test_a_code_that_is_used_on_the_console_is_on_record(fleet: Fleet) -> None:
    """The host was let back without the controller; its journal says so once the host is heard."""
    web1 = fleet.lab["web1"]
    before = len(kinds(fleet, "web1"))
    fleet.fireline("isolate", "-t", "web1", *NOW)
    (shown,) = fleet.json("isolation", "code", "web1", "--reason", "console")["codes"]

    web1.run([str(BIN / "fireline-agent"), "release", "--config", web1.place(AGENT_CONFIG), "--code", shown["code"]])

    assert not is_dark(web1)
    eventually(lambda: "broken" in kinds(fleet, "web1")[before:], within_s=20, what="the journal to say so")
    assert phases(fleet, "web1") == ([], [])


def test_a_new_controller_is_let_in_by_the_next_daemon(fleet: Fleet) -> None:
    """Its address was added to the settings: an isolated host opens to it before it is needed."""
    other = fleet.lab.controller_address.rpartition(".")[0] + ".253"
    fleet.fireline("isolate", "-t", "web1", *NOW)
    settings = fleet.state / "fireline.toml"
    text = settings.read_text()
    settings.write_text(text + f'controllers = ["{other}"]\n')
    try:
        fleet.stop_daemon()
        fleet.start_daemon()

        eventually(lambda: other in ruleset(fleet.lab["web1"]), within_s=20, what="web1 to let the other one in")
        (shown,) = fleet.json("isolation", "status", "-t", "web1")["hosts"]
        assert set(shown["isolations"][0]["controllers"]) == {other, fleet.lab.controller_address}
    finally:
        settings.write_text(text)
        fleet.stop_daemon()
        fleet.start_daemon()


@pytest.mark.parametrize("moment", ["arming", "armed", "committed"])
def test_a_daemon_that_is_killed_leaves_an_isolation_or_none(fleet: Fleet, moment: str) -> None:
    """I4, I6: never for longer than the lease is it neither; and the next daemon knows which."""
    web1 = fleet.lab["web1"]
    lines = len(kinds(fleet, "web1"))
    reached = {
        "arming": lambda: "arming" in _journaled(fleet, lines),
        "armed": lambda: is_dark(web1),
        "committed": lambda: "committed" in _journaled(fleet, lines),
    }[moment]
    command = started(fleet, "isolate", "-t", "web1", *NOW)
    try:
        eventually(reached, within_s=20, what=moment)
        fleet.kill_daemon()
    finally:
        command.communicate(timeout=30)

    fleet.start_daemon()
    wanted = [((["committed"], ["committed"]))] + [([], [])] * (moment != "committed")
    eventually(lambda: phases(fleet, "web1") in wanted, within_s=LEASE_S + 10, what="an isolation, or none")
    assert is_dark(web1) == (phases(fleet, "web1") == wanted[0])
    assert json.loads(fleet.fireline("journal", "verify", "--json"))["verified"]


def _journaled(fleet: Fleet, after: int) -> list[str]:
    return kinds(fleet, "web1")[after:]


def test_two_operators_at_once_end_in_a_state_that_both_can_read(fleet: Fleet) -> None:
    """One isolates while the other releases: whoever is last wins, and kernel, record and journal agree."""
    for delay_s in (0.0, 0.4, 0.9):
        isolating = started(fleet, "isolate", "-t", "web1", *NOW, "--json")
        later = threading.Event()
        later.wait(delay_s)  # the moment of the other's command
        releasing = started(fleet, "release", "-t", "web1", "--reason", "mistake", "--json")
        told = [_told(isolating), _told(releasing)]

        assert told[1]["outcome"] == "ok", told
        kernel, record = phases(fleet, "web1")
        assert kernel == record, told
        assert (told[0]["outcome"] == "ok") >= bool(kernel), told
        fleet.fireline("release", "-t", "web1", "--reason", "next round")
    assert json.loads(fleet.fireline("journal", "verify", "--json"))["verified"]


def _told(command: "subprocess.Popen[str]") -> dict[str, Any]:
    said, _ = command.communicate(timeout=60)
    (host,) = json.loads(said[said.index("{") :].rpartition("}")[0] + "}")["hosts"]
    assert isinstance(host, dict)
    return host
