"""What the security actions decide from facts alone: secrets in files, verifiers, accounts, keys."""

from pathlib import Path
from typing import Any

import pytest

from fireline_agent.hands import accounts, scram
from fireline_agent.remediation.action import ActionError
from fireline_agent.remediation.security import anew, disable_account, rotate_authorized_keys, secretfile
from tests.unit.fake_proc import FakeHost

ENV = b"""# database
export DB_PASSWORD="old one"  # keep me
PLAIN=abc\r
URL=postgres://app:old%40one@db:5432/x?y=1
DB_PASSWORD_FILE=/run/x
EMPTY=
PLAIN=last
"""
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFpB3pMbu4CqTl0vRr3sLw8yQ4pQJmBc1m2JvVtX0pYx ops@example"


def test_only_the_named_variables_change() -> None:
    """Comments, quotes, line ends, order and every other variable stay byte by byte."""
    found = secretfile.with_secrets(ENV, {"DB_PASSWORD": "NEW1", "PLAIN": "NEW2", "URL": "NEW3"})

    assert found == (
        ENV.replace(b'"old one"', b'"NEW1"')
        .replace(b"abc\r", b"NEW2\r")
        .replace(b"PLAIN=last", b"PLAIN=NEW2")
        .replace(b"old%40one@", b"NEW3@")
    )


@pytest.mark.parametrize(
    ("keys", "secret"), [(["DB_PASSWORD"], "old one"), (["PLAIN"], "last"), (["URL"], "old@one"), (["EMPTY"], "")]
)
def test_the_present_secret_is_read(keys: list[str], secret: str) -> None:
    """Without quotes; of a URL the password, decoded; of a variable that stands there twice the last."""
    assert secretfile.current(ENV, keys) == secret


@pytest.mark.parametrize(("content", "new"), [(b"old\n", b"NEW\n"), (b"old", b"NEW"), (b"old\r\n", b"NEW\n")])
def test_a_file_that_is_the_secret(content: bytes, new: bytes) -> None:
    """The line end is no part of it."""
    assert secretfile.current(content, []) == "old"
    assert secretfile.with_secret(content, [], "NEW") == new


def test_a_variable_that_lacks_is_named_without_any_value() -> None:
    """The message lists the names there are."""
    with pytest.raises(ActionError, match="no variable TOKEN; it has DB_PASSWORD, DB_PASSWORD_FILE") as refused:
        secretfile.current(ENV, ["TOKEN"])
    assert "old one" not in str(refused.value)


def test_a_value_over_several_lines_is_refused() -> None:
    """To put another value into half of one would break the file."""
    with pytest.raises(ActionError, match="KEY goes over several lines"):
        secretfile.with_secrets(b'KEY="a\nb"\n', {"KEY": "x"})


def test_new_secrets_need_no_quoting_and_differ() -> None:
    """40 letters and digits."""
    made = {secretfile.new_secret() for _ in range(100)}

    assert len(made) == 100
    assert all(len(one) == 40 and one.isalnum() and one.isascii() for one in made)


def test_a_verifier_is_of_its_password_only() -> None:
    """By the example that RFC 7677 gives for SCRAM-SHA-256: user, pencil."""
    salt = b"\x5b\x6d\x99\x68\x9d\x12\x35\x8e\xec\xa0\x4b\x14\x12\x36\xfa\x81"
    nonce = "rOprNGfwEbeRWgbNEkqO"
    server_first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"

    final = scram.client_final("pencil", f"n=user,r={nonce}", server_first, nonce)

    assert final.endswith("p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    kept = scram.verifier("pencil", salt)
    assert scram.fits("pencil", kept)
    assert not scram.fits("pen", kept)
    assert not scram.fits("pencil", "md5" + "0" * 32)


@pytest.mark.parametrize("server_first", ["", "r=other,s=AA==,i=1", "r=nonce,s=AA==,i=99999999", "e=x"])
def test_an_exchange_that_is_none_ends(server_first: str) -> None:
    """A server that takes another's nonce or wants endless rounds gets no proof."""
    with pytest.raises(scram.BadExchange):
        scram.client_final("x", "n=,r=nonce", server_first, "nonce")


def test_what_a_container_was_made_with_is_found_and_exchanged() -> None:
    """As a variable, in a URL, in the command; a short secret only as a whole value: it may be a part of any word."""
    config = {"Env": ["A=longSecret1", "URL=x://u:longSecret1@h", "B=abc"], "Cmd": ["run", "--pass=longSecret1"]}

    assert anew.has_any({"Config": config}, ["longSecret1"])
    assert anew.has_any({"Config": {"Env": ["B=abc"]}}, ["abc"])
    assert not anew.has_any({"Config": {"Env": ["B=abcd", "PATH=/abc"], "Cmd": None}}, ["abc"])
    assert anew.exchanged(config["Env"] + config["Cmd"], [("longSecret1", "N"), ("abc", "M")]) == [
        "A=N",
        "URL=x://u:N@h",
        "B=M",
        "run",
        "--pass=N",
    ]


def _account(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "uid": 1001,
        "is_system": False,
        "is_locked": False,
        "has_password": True,
        "expires_day": "",
        "groups": [],
        "processes": [],
    }
    return base | changes


@pytest.mark.parametrize(
    ("facts", "params", "message"),
    [
        ({"uid": 0, "is_system": True}, {"even_if_system": True}, "is root"),
        ({"uid": 33, "is_system": True}, {}, "say even_if_system=yes"),
        ({}, {"spare": ["bob"]}, "one of those to be spared"),
    ],
)
def test_accounts_that_are_not_disabled(facts: dict[str, Any], params: dict[str, Any], message: str) -> None:
    """Root never, services only when it is said, operators' accounts not."""
    checked = disable_account.ACTION.spec.check({"account": "bob", **params})

    with pytest.raises(ActionError, match=message) as refused:
        disable_account.plan(_account(**facts), checked)
    assert refused.value.reason == "refused"


def test_a_plan_does_not_hang_on_what_runs_now() -> None:
    """An intruder's processes come and go: the plan is the same, and says how many there are."""
    params = disable_account.ACTION.spec.check({"account": "bob"})
    one = disable_account.plan(_account(processes=[[7, 1, "sh"]]), params)
    two = disable_account.plan(_account(processes=[[8, 2, "nc"], [9, 3, "sh"]], groups=["sudo"]), params)

    assert one.sha256("x", params) == two.sha256("x", params)
    assert (one.summary, two.summary) == ("disable bob, 1 process of it", "disable bob, 2 processes of it")
    assert two.warnings == ("bob is in sudo: whoever used it may have become root",)


def test_an_account_that_is_disabled_needs_nothing() -> None:
    """Planned twice, the second plan has no changes."""
    facts = _account(is_locked=True, expires_day="1")

    assert disable_account.plan(facts, disable_account.ACTION.spec.check({"account": "bob"})).changes == ()


@pytest.mark.parametrize(
    "line",
    [
        "ssh-ed25519",
        "ssh-ed25519 notbase64!",
        "ssh-rsa " + KEY.split()[1],
        'command="/bin/sh" ' + KEY,
        KEY + "\nssh-ed25519 x",
        "ssh-dss AAAA x",
    ],
)
def test_lines_that_are_no_plain_keys_are_refused(line: str) -> None:
    """Neither options, nor a second line, nor a key that is of another kind than it says."""
    params = rotate_authorized_keys.ACTION.spec.check({"account": "bob", "keys": [line]})
    files: list[dict[str, Any]] = [
        {"path": p, "identity": "", "lines": []} for p in ("/home/bob/.ssh/a", "/home/bob/.ssh/b")
    ]
    facts = {"uid": 1, "gid": 1, "folder": "/home/bob/.ssh", "is_allowed": True, "files": files}

    with pytest.raises(ActionError, match="wanted `KIND BASE64 COMMENT`"):
        rotate_authorized_keys.plan(facts, params)


@pytest.mark.parametrize(
    ("cgroup", "is_ended"),
    [
        ("/system.slice/docker-{id}.scope", False),
        ("/docker/{id}", False),
        ("/user.slice/user-61234.slice/user@61234.service/docker-{id}.scope", True),
        ("/user.slice/user-61234.slice/session-1.scope", True),
    ],
)
def test_a_users_own_group_is_no_container(tmp_path: Path, cgroup: str, is_ended: bool) -> None:
    """A user may give groups below his own any name, and would be spared by that of a container."""
    host = FakeHost(tmp_path)
    folder = host.add(70, cgroup=f"0::{cgroup.format(id='ab' * 32)}\n".encode())
    (folder / "status").write_text("Name:\tx\nUid:\t61234\t61234\t61234\t61234\n")

    assert [pid for pid, _, _ in accounts.processes_of(61_234, host.proc)] == ([70] if is_ended else [])
