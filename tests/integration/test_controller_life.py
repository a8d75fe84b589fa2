"""The controller on real hosts: several at once, killed, loaded, and beside hosts that come and go."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fleet import BIN, Fleet
from tests.integration.conftest import need
from tests.integration.test_resume import Following, ballast, volatile
from tests.lab import NETNS, Host, default_backend, eventually

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

# A certificate that lives for 36 s after five minutes of back-dating: due at once, and again at every round.
SHORT = "[certificates]\nagent_lifetime_h = 0.01\n"


READY = '"message": "serving"'


@pytest.fixture(scope="module")
def three() -> Iterator[Fleet]:
    """Three hosts without a daemon."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    with Fleet(["db1", "web1", "web2"], daemon=False) as made:
        yield made


@pytest.fixture
def served(three: Fleet) -> Iterator[Fleet]:
    """The three hosts with a daemon, for one test."""
    three.start_daemon()
    try:
        yield three
    finally:
        three.stop_daemon()


def lines(fleet: Fleet, kind: str) -> list[dict[str, Any]]:
    """The journal's lines of a kind."""
    found = [json.loads(line) for line in fleet.fireline("journal", "export").splitlines()]
    return [line for line in found if line["kind"] == kind]


def operation_of(command: Following) -> str:
    """The operation of a command, once it has started."""
    eventually(lambda: any(e["event"] == "started" for e in command.events), within_s=30, what="the start")
    return str(next(e["operation"] for e in command.events if e["event"] == "started"))


def test_two_operators_at_once_without_a_daemon(three: Fleet) -> None:
    """Two embedded controllers on one state folder: both succeed, and the journal verifies."""
    with Following(three, "capture", "-t", "all") as first, Following(three, "capture", "-t", "all") as second:
        ends = [first.end(), second.end()]

    for outcomes in ends:
        assert {name: o["outcome"] for name, o in outcomes.items()} == dict.fromkeys(("db1", "web1", "web2"), "ok")
    assert three.json("journal", "verify")["verified"]


def test_a_killed_embedded_controller_is_settled_by_the_next_command(three: Fleet) -> None:
    """kill -9 of a command without a daemon: the next one puts the end on record, and a retry gets the same capture."""
    with ballast(three.lab["web1"], 100), volatile(three, "web1") as command:
        operation = operation_of(command)
        command.until("fetching")
        command.process.kill()
        command.process.wait()
        refused = three.try_fireline("host", "list")
        assert f"operations whose controller was stopped are settled: {operation}" in refused.stderr
        document = three.json("capture", "--retry-of", operation)

    assert document["counts"] == {"ok": 1}
    shown = three.json("evidence", "show", document["hosts"][0]["evidence_id"])
    assert shown["statement"]["predicate"]["request_id"] == operation
    assert three.json("journal", "verify")["verified"]


def test_a_retry_while_the_first_still_runs_is_refused(three: Fleet) -> None:
    """Exit 4 and a sentence that says which operation runs and what to do, from another process too."""
    with ballast(three.lab["web2"], 140), volatile(three, "web2") as command:
        operation = operation_of(command)
        done = three.try_fireline("capture", "--retry-of", operation)
        assert done.returncode == 4, done.stderr
        assert f"{operation} still runs (tester's since" in done.stderr
        assert command.end()["web2"]["outcome"] == "ok"


def test_a_daemon_that_starts_leaves_a_live_command_alone(three: Fleet) -> None:
    """A daemon settles what killed controllers left, not what a command in another process is doing."""
    with ballast(three.lab["web2"], 140), volatile(three, "web2") as command:
        command.until("fetching")
        three.start_daemon()
        try:
            assert command.end()["web2"]["outcome"] == "ok"
        finally:
            three.stop_daemon()


def test_a_second_daemon_is_refused_and_a_killed_one_is_replaced(served: Fleet) -> None:
    """The second says so and ends with 5; after kill -9 commands work at once, and a new daemon takes over."""
    second = subprocess.run([BIN / "fireline", "serve", "--state", served.state], capture_output=True, text=True)
    assert second.returncode == 5, second.stderr
    assert "a daemon serves it already; stop that one first" in second.stderr
    assert served.json("host", "ping", "-t", "all")["counts"] == {"ok": 3}

    served.kill_daemon()
    assert (served.state / "control.sock").exists()
    assert served.json("host", "ping", "-t", "all")["counts"] == {"ok": 3}
    served.start_daemon()
    assert served.json("host", "ping", "-t", "all")["counts"] == {"ok": 3}


def test_commands_pass_three_hosts_that_send_140_mebibytes_each(served: Fleet) -> None:
    """I9: beside 420 MiB of evidence a ping of all hosts answers long before, and a cancellation works at once."""
    idle_s = ping_s(served)
    with ExitStack() as stack:
        for host in served.lab:
            stack.enter_context(ballast(host, 140))
        command = stack.enter_context(volatile(served, "all"))
        operation = operation_of(command)
        command.until("fetching")
        loaded_s = ping_s(served)
        assert not any(e["event"] == "finished" for e in command.events), "the captures had ended: nothing was shown"
        began = time.monotonic()
        command.process.send_signal(signal.SIGINT)
        outcomes = command.end(30)
        cancelled_s = time.monotonic() - began
    print(f"ping idle {idle_s:.2f} s, loaded {loaded_s:.2f} s; cancelled in {cancelled_s:.2f} s")
    assert loaded_s < max(10 * idle_s, 5)
    assert cancelled_s < 6
    assert "cancelled" in {o["outcome"] for o in outcomes.values()}, outcomes
    assert served.json("capture", "--retry-of", operation)["counts"].keys() == {"ok"}


def ping_s(fleet: Fleet) -> float:
    """How long the command takes that pings all hosts."""
    began = time.monotonic()
    assert fleet.json("host", "ping", "-t", "all")["counts"] == {"ok": 3}
    return time.monotonic() - began


@pytest.mark.parametrize("is_served", [True, False], ids=["daemon", "embedded"])
def test_a_second_interrupt_leaves_at_once(three: Fleet, is_served: bool) -> None:
    """Ctrl-C twice: exit 130 within a second or so, and the words that work may go on; the end gets on record."""
    if is_served:
        three.start_daemon()
    environment = {**os.environ, "FIRELINE_STATE": str(three.state)}
    command = [str(BIN / "fireline"), "capture", "-t", "all", "--profile", "volatile"]
    try:
        three.lab["web1"].freeze()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
        ) as process:
            said = Said(process)
            said.until("3 hosts")
            process.send_signal(signal.SIGINT)
            said.until("cancelling on the hosts")
            time.sleep(0.3)  # between two presses of a key
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            status = process.wait(20)
            took_s = time.monotonic() - began
            said.thread.join(5)
    finally:
        three.lab["web1"].thaw()
        if is_served:
            three.stop_daemon()
    assert status == 130
    assert took_s < 2.5, took_s
    assert "may go on" in said.text, said.text
    assert three.json("journal", "verify")["verified"]


class Said:
    """What a process writes to stderr."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.text = ""
        self._process = process
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.text += line

    def until(self, words: str) -> None:
        """Wait until it said this."""
        eventually(lambda: words in self.text, within_s=30, what=f"{words!r} in {self.text!r}")


def test_a_host_that_joins_again_is_another_generation(served: Fleet) -> None:
    """A removed host is out of the fleet; joined again it is generation 2, and its former key counts for nothing."""
    host = served.lab["db1"]
    keys = host.path("/var/lib/fireline-agent") / "keys"
    former = {path.name: path.read_bytes() for path in keys.iterdir() if path.is_file()}
    served.fireline("host", "remove", "db1", "--reason", "reinstalled")
    done = served.try_fireline("host", "ping", "-t", "db1")
    assert done.returncode in (2, 3) and "db1" in done.stderr
    host.end_agent()
    shutil.rmtree(keys)

    said = host.agent_log().count(READY)
    served.enrol(host)
    eventually(lambda: host.agent_log().count(READY) > said, within_s=20, what="the agent to serve")

    (record,) = [h for h in served.json("host", "list")["hosts"] if h["host"] == "db1"]
    assert record["generation"] == 2
    assert served.json("host", "ping", "-t", "db1")["counts"] == {"ok": 1}

    present = {path.name: path.read_bytes() for path in keys.iterdir() if path.is_file()}
    serve_with(host, keys, former)
    (outcome,) = served.json("host", "ping", "-t", "db1", status=1)["hosts"]
    assert outcome["reason"] == "tls_wrong_name", outcome

    serve_with(host, keys, present)
    assert served.json("host", "ping", "-t", "db1")["counts"] == {"ok": 1}


def serve_with(host: Host, folder: Path, files: dict[str, bytes]) -> None:
    """Start the agent anew with these keys."""
    host.end_agent()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    said = host.agent_log().count(READY)
    host.start_agent()
    eventually(lambda: host.agent_log().count(READY) > said, within_s=20, what="the agent to serve")


def test_certificates_are_renewed_while_captures_run() -> None:
    """With a life of 36 s every round renews: captures before, during and after are ok, and no agent restarts."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    with Fleet(["web1", "web2"], settings=SHORT) as fleet:
        pids = {host.name: host.agent for host in fleet.lab}
        with ballast(fleet.lab["web1"], 140), volatile(fleet, "all") as command:
            command.until("fetching")
            before = len(lines(fleet, "certificate.renewed"))
            outcomes = command.end()
        assert {o["outcome"] for o in outcomes.values()} == {"ok"}, outcomes
        wanted = before + 2 * len(pids)
        eventually(
            lambda: len(lines(fleet, "certificate.renewed")) >= wanted, within_s=30, what="renewals", every_s=0.5
        )
        assert fleet.json("capture", "-t", "all")["counts"] == {"ok": 2}
        assert {host.name: host.agent for host in fleet.lab} == pids


def test_certificates_are_renewed_while_a_host_is_cut_off() -> None:
    """The controller drives it over the way in that an isolation leaves; both hosts stay in sight meanwhile."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    with Fleet(["web1", "web2"], settings=SHORT) as fleet:
        fleet.fireline("isolate", "-t", "web1", "--now", "--reason", "drill")
        before = len(renewed(fleet, "web1"))
        eventually(lambda: len(renewed(fleet, "web1")) > before, within_s=40, what="a renewal", every_s=0.5)

        assert fleet.json("host", "ping", "-t", "all")["counts"] == {"ok": 2}
        assert lines(fleet, "host.lost") == []
        fleet.fireline("release", "-t", "web1", "--reason", "drill is over")


def renewed(fleet: Fleet, host: str) -> list[dict[str, Any]]:
    """The journal's lines of a host's renewals."""
    return [line for line in lines(fleet, "certificate.renewed") if line["host"] == host]
