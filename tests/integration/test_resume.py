"""What is killed in the middle is taken up again: agent, controller, connection, the operator's patience."""

import json
import os
import signal
import subprocess
import threading
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

import pytest

from tests.fleet import BIN, Fleet
from tests.integration.programs import deleted_program
from tests.lab import Host, eventually

pytestmark = [pytest.mark.netns, pytest.mark.timeout(240)]


def ballast(host: Host, mebibytes: int) -> AbstractContextManager[None]:
    """Something large to capture on the host."""
    return deleted_program(host, f"cp /bin/sleep $0 && head -c {mebibytes}M /dev/urandom >> $0")


class Following:
    """A command that runs while the test breaks something."""

    def __init__(self, fleet: Fleet, *arguments: str) -> None:
        environment = {**os.environ, "FIRELINE_STATE": str(fleet.state)}
        self.process = subprocess.Popen(
            [BIN / "fireline", *arguments, "--jsonl"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def until(self, doing: str) -> None:
        """Wait until a host's progress says this."""
        eventually(lambda: any(doing in e.get("doing", "") for e in self.events), within_s=60, what=doing, every_s=0.01)

    def end(self, within_s: float = 120) -> dict[str, dict[str, Any]]:
        """The outcomes by host, once the command has ended."""
        self.process.wait(within_s)
        self._reader.join(10)
        return {e["host"]: e for e in self.events if e["event"] == "host"}


def volatile(fleet: Fleet, host: str) -> Following:
    """A `volatile` capture under way."""
    return Following(fleet, "capture", "-t", host, "--profile", "volatile")


def test_a_transfer_goes_on_after_the_agent_was_killed(fleet: Fleet) -> None:
    """The agent is killed in mid-transfer and started again: the same command ends ok, little is sent twice."""
    host = fleet.lab["web1"]
    with ballast(host, 200), volatile(fleet, "web1") as command:
        command.until("fetching")
        host.kill_agent()
        host.start_agent()
        outcome = command.end()["web1"]

    assert outcome["outcome"] == "ok", outcome
    assert outcome["resent_bytes"] <= 4 << 20
    assert fleet.json("evidence", "verify", outcome["evidence_id"])["verified"]


def test_a_capture_is_taken_up_after_the_controller_was_killed(fleet: Fleet) -> None:
    """The controller is killed with -9 in mid-transfer; --retry-of gets the same capture, not a second one."""
    with ballast(fleet.lab["web2"], 200), volatile(fleet, "web2") as command:
        command.until("fetching")
        operation = next(e["operation"] for e in command.events if e["event"] == "started")
        fleet.kill_daemon()
        command.end()
        fleet.start_daemon()
        document = fleet.json("capture", "--retry-of", operation)

    (outcome,) = document["hosts"]
    assert outcome["outcome"] == "ok", outcome
    manifest = fleet.json("evidence", "show", outcome["evidence_id"])["statement"]["predicate"]
    assert manifest["request_id"] == operation
    assert fleet.json("journal", "verify")["verified"]


def test_a_cut_wire_heals_and_the_capture_ends_ok(fleet: Fleet) -> None:
    """A host that is cut off for some seconds in mid-transfer is waited for."""
    host = fleet.lab["web3"]
    with ballast(host, 200), volatile(fleet, "web3") as command:
        command.until("fetching")
        host.link(up=False)
        time.sleep(1.5)  # the fault's own length
        host.link(up=True)
        outcome = command.end()["web3"]

    assert outcome["outcome"] == "ok", outcome


def test_ctrl_c_cancels_on_the_hosts(fleet: Fleet) -> None:
    """An interrupt cancels on the host within seconds, says so, exits 130, and the host can be asked again."""
    host = fleet.lab["web4"]
    with ballast(host, 300), volatile(fleet, "web4") as command:
        command.until("collecting")
        began = time.monotonic()
        command.process.send_signal(signal.SIGINT)
        outcomes = command.end()
        status, took_s = command.process.returncode, time.monotonic() - began

    assert status == 130
    assert outcomes["web4"]["outcome"] == "cancelled", outcomes
    assert took_s < 6
    assert fleet.json("host", "ping", "-t", "web4")["counts"] == {"ok": 1}
