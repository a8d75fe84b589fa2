"""Several operators and one controller: the installed commands, real handshakes, a daemon on a socket and on TCP."""

import asyncio
import json
import os
import pty
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from fireline_controller import pki, presence
from fireline_wire import tls
from fireline_wire.identity import CONTROLLER_DNS
from fireline_wire.status import from_error
from fireline_wire.v1 import control_pb2
from fireline_wire.v1.control_pb2_grpc import ControlStub
from tests.fleet import BIN
from tests.lab import eventually

# A loopback address of this test run's own, so that no port is anybody else's (127.0.0.0/8 is all loopback).
ADDRESS = f"127.{77 + os.getpid() % 100}.{os.getpid() // 256 % 256}.{1 + os.getpid() % 254}:27702"
TWO_PERSONS = '[[rules]]\nactions = ["operator"]\nexpires = "10m"\n'


@dataclass
class Site:
    """A state folder, and its daemon when one runs."""

    state: Path
    daemon: "subprocess.Popen[bytes] | None" = None

    def run(self, *arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
        """A command of somebody on this machine."""
        return subprocess.run(
            [BIN / "fireline", *arguments], capture_output=True, text=True, timeout=60,
            env=os.environ | {"FIRELINE_STATE": str(self.state), "NO_COLOR": "1"} | environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def ok(self, *arguments: str | Path, **environment: str) -> str:
        """Its output, once it has ended well."""
        done = self.run(*arguments, **environment)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def refused(self, status: int, *arguments: str | Path, **environment: str) -> str:
        """What it says when it ends with this status."""
        done = self.run(*arguments, **environment)
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr

    def journal(self, kind: str) -> list[dict[str, Any]]:
        """The journal's lines of a kind."""
        lines = [json.loads(line) for line in self.ok("journal", "export").splitlines()]
        return [line for line in lines if line["kind"] == kind]

    def serve(self) -> None:
        """Start the daemon and wait until it answers."""
        log = (self.state / "serve.log").open("wb")
        with log:
            self.daemon = subprocess.Popen([BIN / "fireline", "serve", "--state", self.state], stdout=log, stderr=log)
        eventually(self._is_serving, within_s=30, what="the daemon to be ready")

    def _is_serving(self) -> bool:
        assert self.daemon is not None
        assert self.daemon.poll() is None, (self.state / "serve.log").read_text()
        return bool(presence.address_of_daemon(self.state))

    def stop(self) -> None:
        """End the daemon."""
        if self.daemon is not None:
            self.daemon.terminate()
            self.daemon.wait(20)
            self.daemon = None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A controller of alice's with the further operators bob and carol, and a daemon."""
    made = Site(tmp_path_factory.mktemp("operators") / "state")
    made.ok("init", "--operator", "alice")
    host, _, _ = ADDRESS.partition(":")
    (made.state / "fireline.toml").write_text(f'[listen]\nenrollment = "{host}:27701"\ncontrol = "{ADDRESS}"\n')
    made.serve()
    try:
        made.ok("operator", "add", "bob")
        made.ok("operator", "add", "carol")
        yield made
    finally:
        made.stop()


@pytest.fixture
def policy(site: Site) -> Iterator[Path]:
    """Where the policy is; there is none before the test nor after it."""
    file = site.state / "policy.toml"
    yield file
    file.unlink(missing_ok=True)


def test_each_operator_acts_under_the_own_name(site: Site) -> None:
    """`--as` and FIRELINE_OPERATOR choose the key; the journal has the name of its certificate."""
    site.ok("incident", "open", "P3", "drill")
    site.ok("--as", "bob", "incident", "open", "P3", "drill")
    site.ok("incident", "open", "P3", "drill", FIRELINE_OPERATOR="carol")
    site.ok("--as", "alice", "incident", "open", "P3", "drill")

    assert [line["actor"] for line in site.journal("incident.opened")[-4:]] == ["alice", "bob", "carol", "alice"]


def test_keys_are_closed_to_others(site: Site) -> None:
    """Files 0600 in a folder 0700."""
    folder = site.state / "keys" / "operators"

    assert folder.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o600}
    assert {"bob.key", "bob.pem"} <= {p.name for p in folder.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--as", "zoe", "host", "list"], 2, "fireline: --as zoe (FIRELINE_OPERATOR): no key of this operator i"),
        (["--as", "../operator", "host", "list"], 2, "fireline: --as ../operator (FIRELINE_OPERATOR): no key of this "),
        (["--as", "bob", "--keys", "k", "host", "list"], 2, "fireline: --keys holds one operator's key: leave --as bo"),
        (["--keys", "no-keys", "host", "list"], 5, "fireline: no-keys/operator.key: can't be read: No such file or di"),
        (["--controller", "127.0.0.1:1", "host", "list"], 5, "fireline: no controller answers at 127.0.0.1:1, or it i"),
        (["operator", "add", "bob"], 4, "fireline: the name bob is taken by an operator; to replace it: fireline oper"),
        (["operator", "add", "alice"], 4, "fireline: the name alice is taken by an operator"),
        (["operator", "add", "Dave!"], 2, "fireline: 'Dave!' is not a name: wanted lower-case letters"),
        (["operator", "add", "zoe", "--out", "/"], 2, "fireline: / exists already; name another with --out"),
        (["operator", "remove", "zoe", "--reason", "r"], 3, "fireline: operator 'zoe' is not known; `fireline opera"),
        (["operator", "remove", "alice", "--reason", "r"], 4, "fireline: alice is the operator that `fireline init` m"),
        (["--as", "bob", "operator", "remove", "bob", "--reason", "r"], 4, "fireline: bob asks for it: another operat"),
        (["approval", "show", "apr-1"], 3, "fireline: request 'apr-1' is not known; `fireline approval list` shows"),
    ],
)  # fmt: skip
def test_a_slip_is_named(site: Site, arguments: list[str], status: int, words: str) -> None:
    """Exit status, the thing, what was wanted, and what to do."""
    said = site.refused(status, *arguments)

    assert said.startswith(words), said
    assert said.count("\n") == 1


def test_a_removed_operator_is_refused_at_once(site: Site, tmp_path: Path) -> None:
    """By the daemon that runs, with a copy of the key too, and by every later controller; alone by the certificate."""
    site.ok("operator", "add", "rob")
    copy = tmp_path / "copied-keys"
    copy.mkdir()
    for source, name in (("operators/rob.key", "operator.key"), ("operators/rob.pem", "operator.pem"), ("ca.pem",) * 2):
        shutil.copy(site.state / "keys" / source, copy / name)
    site.ok("--keys", copy, "host", "list")

    site.ok("operator", "remove", "rob", "--reason", "left the team")

    assert "of spiffe://fireline/operator/rob is revoked" in site.refused(4, "--keys", copy, "host", "list")
    remote = site.refused(4, "--controller", ADDRESS, "--keys", copy, "host", "list")
    assert "of spiffe://fireline/operator/rob is revoked" in remote
    assert list((site.state / "keys" / "operators").glob("rob*")) == []
    assert "rob" not in [o["operator"] for o in json.loads(site.ok("operator", "list", "--json"))["operators"]]
    site.stop()
    try:
        assert "is revoked" in site.refused(4, "--keys", copy, "host", "list")
    finally:
        site.serve()


def test_a_name_can_be_given_again(site: Site) -> None:
    """With another key; the former one stays refused."""
    site.ok("operator", "add", "sam")
    key = (site.state / "keys/operators/sam.key").read_bytes()
    site.ok("operator", "remove", "sam", "--reason", "lost the laptop")
    site.ok("operator", "add", "sam")

    site.ok("--as", "sam", "host", "list")
    assert (site.state / "keys/operators/sam.key").read_bytes() != key


async def test_a_removed_operators_live_call_is_cut(site: Site) -> None:
    """A call under way ends with the reason, within a moment."""
    site.ok("operator", "add", "tom")
    keys = site.state / "keys"
    files = (keys / "operators/tom.key", keys / "operators/tom.pem", keys / "ca.pem")
    credentials = tls.channel_credentials(tls.Credentials(*(f.read_bytes() for f in files)))
    entered = asyncio.Event()

    async def parts() -> AsyncIterator[control_pb2.FilePart]:
        yield control_pb2.FilePart(data=(keys / "ca.pem").read_bytes())
        entered.set()
        await asyncio.sleep(60)

    options = [("grpc.ssl_target_name_override", CONTROLLER_DNS)]
    async with grpc.aio.secure_channel(ADDRESS, credentials, options=options) as channel:
        call = ControlStub(channel).ImportEvidence(parts(), timeout=30)
        await asyncio.wait_for(entered.wait(), 10)
        await asyncio.to_thread(site.ok, "operator", "remove", "tom", "--reason", "left")
        with pytest.raises(grpc.aio.AioRpcError) as cut:
            await asyncio.wait_for(call, 10)

    refusal = from_error(cut.value)
    assert refusal is not None
    assert refusal.reason == "certificate_revoked"


def test_an_operator_elsewhere_needs_only_the_key_folder(site: Site, tmp_path: Path) -> None:
    """The controller keeps no copy of the key; address and folder are all that the other machine has."""
    dave = tmp_path / "dave"
    site.ok("operator", "add", "dave", "--out", dave)
    elsewhere = {
        "FIRELINE_STATE": str(tmp_path / "nothing"),
        "FIRELINE_CONTROLLER": ADDRESS,
        "FIRELINE_KEYS": str(dave),
    }

    site.ok("incident", "open", "P3", "from afar", **elsewhere)

    assert sorted(p.name for p in dave.iterdir()) == ["ca.pem", "operator.key", "operator.pem"]
    assert {p.stat().st_mode & 0o777 for p in (dave, *dave.iterdir())} == {0o700, 0o600}
    assert not list(site.state.rglob("dave*"))
    assert site.journal("incident.opened")[-1]["actor"] == "dave"
    wanted = "fireline: the controller is elsewhere: say --out FOLDER, where the key shall be written\n"
    assert site.refused(2, "operator", "add", "erin", **elsewhere) == wanted


def test_a_key_folder_that_can_not_work_is_named(site: Site, tmp_path: Path) -> None:
    """Expired, with what to do, where a handshake would only fail; and what is no certificate."""
    authority = pki.load(site.state / "keys")
    key, signing_request = pki.new_request()
    old = authority.issue_operator(signing_request, name="ivy", now=datetime.now(UTC) - timedelta(days=91))
    expired, broken = tmp_path / "expired", tmp_path / "broken"
    pki.hand_over(expired, key, authority.chain_of(old), authority.ca_pem)
    pki.hand_over(broken, key, b"garbage", authority.ca_pem)

    said = site.refused(4, "--controller", ADDRESS, "--keys", expired, "host", "list")
    assert said == (
        f"fireline: {expired}/operator.pem: expired {old.not_after:%Y-%m-%d %H:%M:%S} UTC; a new one:"
        " fireline operator add ivy --out FOLDER\n"
    )
    assert "no certificate chain in PEM" in site.refused(5, "--keys", broken, "host", "list")


def test_strangers_are_no_operators(site: Site, tmp_path: Path) -> None:
    """Another authority's operator does not get through the handshake; the journal's key is no operator's."""
    other = Site(tmp_path / "other")
    other.ok("init", "--operator", "mallory")
    keys = tmp_path / "journal"
    keys.mkdir()
    for source, name in (("controller.key", "operator.key"), ("controller.pem", "operator.pem"), ("ca.pem", "ca.pem")):
        shutil.copy(site.state / "keys" / source, keys / name)

    stranger = site.refused(5, "--controller", ADDRESS, "--keys", other.state / "keys", "host", "list")
    assert stranger.startswith(f"fireline: no controller answers at {ADDRESS}, or it is not the one that made these ke")
    assert "called what only the role operator may call" in site.refused(
        4, "--controller", ADDRESS, "--keys", keys, "host", "list"
    )


def test_two_persons_from_the_command_line(site: Site, policy: Path) -> None:
    """Refused with all that is to be done next; seen and approved by another; passed once."""
    policy.write_text(TWO_PERSONS)
    said = site.refused(4, "operator", "add", "erin", "--reason", "new colleague")
    request = said.partition("approval approve ")[2].partition(";")[0]
    assert said.startswith("fireline: add operator erin: needs 1 approval by any other operator until "), said
    assert site.refused(4, "approval", "approve", request).startswith(f"fireline: {request}: alice asked for it")

    shown = site.ok("--as", "bob", "approval", "show", request)
    for words in ("add operator erin", "new colleague", "add: erin", "alice", "1 approval by any other operator"):
        assert words in shown
    site.ok("--as", "bob", "approval", "approve", request, "--reason", "seen")
    site.ok("operator", "add", "erin", "--reason", "new colleague")

    document = json.loads(site.ok("approval", "list", "--json"))["approvals"][0]
    assert (document["approval"], document["standing"], document["used_by"]) == (request, "spent", "operator add erin")
    assert [(v["operator"], v["approves"], v["reason"]) for v in document["votes"]] == [("bob", True, "seen")]
    site.refused(4, "operator", "add", "fay")
    kinds = [line["kind"] for line in map(json.loads, site.ok("journal", "export").splitlines())]
    assert kinds[-4:-1] == ["approval.approved", "operator.added", "approval.spent"]
    assert json.loads(site.ok("journal", "verify", "--json"))["verified"]


def test_a_denial_from_the_command_line(site: Site, policy: Path) -> None:
    """Exit 4 for the requester, with whose word it was."""
    policy.write_text(TWO_PERSONS)
    said = site.refused(4, "operator", "remove", "carol", "--reason", "left")
    request = said.partition("approval approve ")[2].partition(";")[0]

    site.ok("--as", "bob", "approval", "deny", request, "--reason", "I stay")

    assert f"remove operator carol: bob denied it ({request}): I stay" in site.refused(
        4, "operator", "remove", "carol", "--reason", "left"
    )


def test_broken_glass_is_red_on_a_terminal(site: Site, policy: Path) -> None:
    """It passes, and nobody at the terminal can overlook it; without a terminal the line has no colour."""
    policy.write_text(TWO_PERSONS + "break_glass = true\n")
    plain = site.run("operator", "add", "gus", "--break-glass", "bob is on a plane")
    terminal, line = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"FIRELINE_STATE": str(site.state)}
    command = [str(BIN / "fireline"), "operator", "add", "hal", "--break-glass", "so is carol"]
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=line, stdin=subprocess.DEVNULL, timeout=60, env=environment
    )
    os.close(line)
    shown = os.read(terminal, 4096).decode()
    os.close(terminal)

    assert plain.returncode == 0
    assert plain.stderr.startswith(
        "glass broken by alice: add operator gus, against the policy (1 approval by any other operator): bob is on"
    )
    assert done.returncode == 0
    assert shown.startswith("\x1b[1;31mglass broken by alice: add operator hal, against the policy")
    assert len(site.journal("policy.broken_glass")) == 2


def test_a_daemon_does_not_start_on_a_wrong_policy(tmp_path: Path) -> None:
    """The mistake is found before an incident; exit 2 with the key."""
    fresh = Site(tmp_path / "state")
    fresh.ok("init", "--operator", "alice")
    (fresh.state / "policy.toml").write_text("[[rules]]\nactions = ['isolate']\naprovals = 2\n")

    said = fresh.refused(2, "serve")

    assert said.splitlines()[-1].endswith("policy.toml: rules[1].aprovals: unknown key; did you mean 'approvals'?")


def test_an_address_for_operators_that_is_taken_is_named(site: Site, tmp_path: Path) -> None:
    """Exit 2 with the setting; two controllers never share a port."""
    fresh = Site(tmp_path / "state")
    fresh.ok("init", "--operator", "alice")
    host, _, _ = ADDRESS.partition(":")

    said = fresh.refused(2, "serve", FIRELINE_LISTEN_CONTROL=ADDRESS, FIRELINE_LISTEN_ENROLLMENT=f"{host}:27703")

    wanted = f"fireline: listen.control: can't listen at {ADDRESS}: taken, or not of this machine"
    assert said.splitlines()[-1] == wanted


def test_an_approver_at_a_terminal_sees_it_and_is_asked(site: Site, policy: Path) -> None:
    """What would be done is on the screen before the question; anything but yes approves nothing."""
    policy.write_text(TWO_PERSONS)
    said = site.refused(4, "operator", "add", "jo")
    request = said.partition("approval approve ")[2].partition(";")[0]
    terminal, line = pty.openpty()
    environment = os.environ | {"FIRELINE_STATE": str(site.state), "NO_COLOR": "1"}
    command = [str(BIN / "fireline"), "--as", "bob", "approval", "approve", request]
    with subprocess.Popen(
        command, stdin=line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as asked:
        os.write(terminal, b"y\n")
        shown, complaint = asked.communicate(timeout=60)
    os.close(line)
    os.close(terminal)

    assert asked.returncode == 4
    assert complaint.endswith("fireline: not approved\n")
    assert shown.index("add operator jo") < shown.index("Approve this? Type yes:")
    assert json.loads(site.ok("approval", "show", request, "--json"))["votes"] == []
