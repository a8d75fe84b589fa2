"""Accounts and SSH keys in a root of the test's own: real usermod, real processes, real keys."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fireline_agent.hands.roots import Roots
from fireline_agent.remediation.action import ActionError, Tools
from fireline_agent.remediation.security import disable_account, rotate_authorized_keys, rotate_ssh_host_keys
from tests.remediation.rehearsal import Rehearsal

UID = 61_234
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for accounts")


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    """A host's root with accounts of its own: bob, with a home, made by the real useradd."""
    root = tmp_path / "root"
    for folder in ("etc/ssh", "home", "var/spool/mail", "etc/skel"):
        (root / folder).mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n")
    (root / "etc/shadow").write_text("root:*:19000:0:99999:7:::\nwww-data:*:19000:0:99999:7:::\n")
    (root / "etc/group").write_text("root:x:0:\nwww-data:x:33:\nsudo:x:27:\n")
    (root / "etc/gshadow").write_text("root:*::\nwww-data:*::\nsudo:*::\n")
    shutil.copy("/etc/login.defs", root / "etc/login.defs")
    subprocess.run(
        ["useradd", "--root", root, "--uid", str(UID), "--create-home", "--groups", "sudo", "bob"], check=True
    )
    subprocess.run(["chpasswd", "--root", root, "--encrypted"], input=b"bob:$6$x$abc\n", check=True)
    return Tools(Roots(root=root, state=tmp_path / "state"))


@pytest.fixture
def session() -> Iterator[subprocess.Popen[bytes]]:
    """A process of bob's."""
    with subprocess.Popen(["/bin/sleep", "600"], user=UID, group=UID, extra_groups=[]) as process:
        yield process
        process.kill()


def _shadow(tools: Tools, name: str = "bob") -> list[str]:
    rows = [line.split(":") for line in (tools.roots.root / "etc/shadow").read_text().splitlines()]
    return next(row for row in rows if row[0] == name)


def test_an_account_is_disabled_and_let_back(tools: Tools, session: subprocess.Popen[bytes]) -> None:
    """Locked, expired, its processes ended; the undo restores the line of shadow as it was."""
    before = _shadow(tools)
    rehearsal = Rehearsal(disable_account.ACTION, {"account": "bob"}, tools)

    applied = rehearsal.apply()

    assert applied.verified.is_good, applied.verified.sentence
    assert session.wait(timeout=5) == -9
    assert _shadow(tools)[1] == "!$6$x$abc"
    assert _shadow(tools)[7] == "1"
    assert rehearsal.undo(applied) == []
    assert _shadow(tools) == before


def test_a_lock_that_was_there_before_stays(tools: Tools) -> None:
    """The undo takes back what was done, not what an administrator did before."""
    subprocess.run(["usermod", "--root", tools.roots.root, "--lock", "--expiredate", "2030-01-01", "bob"], check=True)
    before = _shadow(tools)
    rehearsal = Rehearsal(disable_account.ACTION, {"account": "bob"}, tools)

    rehearsal.undo(rehearsal.apply())

    assert _shadow(tools) == before


def test_sessions_may_go_on(tools: Tools, session: subprocess.Popen[bytes]) -> None:
    """Without `end_sessions` nothing is ended, and the plan says so."""
    rehearsal = Rehearsal(disable_account.ACTION, {"account": "bob", "end_sessions": False}, tools)
    plan = rehearsal.plan()

    applied = rehearsal.apply(plan)

    assert applied.verified.is_good
    assert session.poll() is None
    assert "1 processes go on as bob" in plan.warnings[-1]


def test_a_session_that_forks_faster_than_it_is_killed_ends(tools: Tools) -> None:
    """Two looks must find nothing."""
    script = "while :; do (sleep 600 &) ; sleep 0.001; done"
    with subprocess.Popen(["/bin/sh", "-c", script], user=UID, group=UID, extra_groups=[]) as shell:
        time.sleep(0.1)  # so that there is a crowd
        applied = Rehearsal(disable_account.ACTION, {"account": "bob"}, tools).apply()
        shell.wait(timeout=5)

    assert applied.verified.is_good, applied.verified.sentence


@pytest.mark.parametrize(
    ("account", "reason", "message"),
    [
        ("root", "refused", "root is root"),
        ("www-data", "refused", "a service's account"),
        ("bib", "not_found", "did you mean 'bob'"),
        ("-x", "refused", "no name of an account"),
        ("a\nb", "refused", "no name of an account"),
    ],
)
def test_who_is_not_disabled(tools: Tools, account: str, reason: str, message: str) -> None:
    """Nothing is touched, and the message says which and why."""
    with pytest.raises(ActionError, match=message) as refused:
        Rehearsal(disable_account.ACTION, {"account": account}, tools).plan()
    assert refused.value.reason == reason


def test_an_account_that_became_another_is_left_alone(tools: Tools) -> None:
    """Between plan and application the name was given to another uid."""
    rehearsal = Rehearsal(disable_account.ACTION, {"account": "bob"}, tools)
    [change, *_] = rehearsal.plan().changes
    path = tools.roots.root / "etc/passwd"
    path.write_text(path.read_text().replace(str(UID), "61235"))

    with pytest.raises(ActionError, match="not the one that was planned"):
        disable_account.do(tools, change, rehearsal.params)


def _key(folder: Path, name: str) -> str:
    folder.mkdir(exist_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
    subprocess.run(command, check=True)
    return (folder / f"{name}.pub").read_text().strip()


def _authorized(tools: Tools) -> Path:
    path = tools.roots.root / "home/bob/.ssh/authorized_keys"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    os.chown(path.parent, UID, UID)
    return path


def test_exactly_the_given_keys_may_log_in(tools: Tools, tmp_path: Path) -> None:
    """The intruder's key and options go, from the second file too; the old files come back by the undo."""
    ours, theirs = _key(tmp_path / "k", "ours"), _key(tmp_path / "k", "theirs")
    path = _authorized(tools)
    before = f'# mine\n{ours}\nfrom="*" {theirs}\n'
    path.write_text(before)
    path.with_name("authorized_keys2").write_text(theirs)
    path.chmod(0o644)
    rehearsal = Rehearsal(rotate_authorized_keys.ACTION, {"account": "bob", "keys": [ours]}, tools)

    applied = rehearsal.apply()

    assert applied.verified.is_good, applied.verified.sentence
    assert path.read_text() == f"{ours}\n"
    assert path.with_name("authorized_keys2").read_text() == ""
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (UID, 0o600)
    assert [row["comment"] for row in applied.plan.result["leaving"]] == ["theirs", "theirs"]
    assert rehearsal.undo(applied) == []
    assert path.read_text() == before


def test_keys_for_an_account_that_had_none(tools: Tools, tmp_path: Path) -> None:
    """The folder is made for the account alone."""
    ours = _key(tmp_path / "k", "ours")

    applied = Rehearsal(rotate_authorized_keys.ACTION, {"account": "bob", "keys": [ours]}, tools).apply()

    assert applied.verified.is_good, applied.verified.sentence
    folder = tools.roots.root / "home/bob/.ssh"
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (UID, 0o700)


@pytest.mark.parametrize("trap", ["file", "folder"])
def test_a_link_in_a_home_leads_nowhere(tools: Tools, tmp_path: Path, trap: str) -> None:
    """An intruder who made .ssh or the file a link to /etc/shadow or /root does not have it written."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "authorized_keys").write_text("precious")
    path = _authorized(tools)
    if trap == "file":
        path.symlink_to(victim / "authorized_keys")
    else:
        path.parent.rmdir()
        path.parent.symlink_to(victim)

    with pytest.raises(ActionError, match="symbolic link"):
        Rehearsal(rotate_authorized_keys.ACTION, {"account": "bob", "keys": [_key(tmp_path / "k", "a")]}, tools).apply()
    assert (victim / "authorized_keys").read_text() == "precious"


def test_the_hosts_policy_has_the_last_word(tools: Tools, tmp_path: Path) -> None:
    """What the host does not let actions write is denied."""
    strict = replace(tools, allows_path=lambda path: not path.startswith("/home"))

    with pytest.raises(ActionError, match="policy") as refused:
        Rehearsal(rotate_authorized_keys.ACTION, {"account": "bob", "keys": []}, strict).plan()
    assert refused.value.reason == "denied"


def _fingerprint(path: Path) -> str:
    shown = subprocess.run(["ssh-keygen", "-l", "-f", path], capture_output=True, text=True, check=True)
    return shown.stdout.split()[1]


def test_host_keys_are_made_anew_and_come_back(tools: Tools) -> None:
    """Each kind that is there, readable by OpenSSH, private for root alone; the undo brings the former fingerprints."""
    folder = tools.roots.root / "etc/ssh"
    for kind in ("ed25519", "ecdsa", "rsa"):
        path = folder / f"ssh_host_{kind}_key"
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "root@web1", "-f", path], check=True)
    (folder / "ssh_host_rsa_key-cert.pub").write_text("a certificate")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    former = {path.name: _fingerprint(path) for path in folder.glob("*_key")}
    rehearsal = Rehearsal(rotate_ssh_host_keys.ACTION, {}, tools)

    applied = rehearsal.apply()

    assert applied.verified.is_good, applied.verified.sentence
    assert "ssh_host_rsa_key-cert.pub; certificates fit no new key" in applied.plan.warnings[1]
    now = {path.name: _fingerprint(path) for path in folder.glob("*_key")}
    assert set(now) == set(former)
    assert not set(now.values()) & set(former.values())
    assert sorted(row["fingerprint"] for row in applied.result["keys"]) == sorted(now.values())
    for path in folder.glob("*_key"):
        derived = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True).stdout
        assert derived.split()[:2] == path.with_suffix(".pub").read_text().split()[:2]
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.with_suffix(".pub").read_text().split()[2] == "root@web1"
    assert rehearsal.undo(applied) == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_host_without_keys_says_where_it_looked(tools: Tools) -> None:
    """No sshd: nothing to rotate."""
    with pytest.raises(ActionError, match="/etc/ssh has no ssh_host_") as refused:
        Rehearsal(rotate_ssh_host_keys.ACTION, {}, tools).plan()
    assert refused.value.reason == "not_found"
