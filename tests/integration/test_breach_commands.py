"""What a responder types after a break-in: an image in parts, new certificates, and what is refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fleet import Fleet
from tests.integration.test_actions import host_policy
from tests.lab.engine import IMAGE, docker
from tests.remediation.watching import files_with

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]
MIB = 1 << 20


def _export(fleet: Fleet, document: dict[str, Any], file: Path) -> str:
    [host] = document["hosts"]
    fleet.fireline("evidence", "export", host["evidence_id"], "--output", str(file))
    return str(file)


@pytest.mark.slow
def test_an_image_in_two_parts_is_put_together(fleet: Fleet, tmp_path: Path) -> None:
    """Captured, exported, verified, assembled: bit by bit the host's file; a part alone says what lacks."""
    content = b"head" * MIB + bytes(120 * MIB) + b"tail" * 1000
    fleet.lab["web1"].write("/srv-disk.img", content)
    base = ("capture", "-t", "web1", "--profile", "image", "--param", "disk_image.source=/srv-disk.img")
    first = fleet.json(*base, "--param", f"disk_image.length_bytes={64 * MIB}")
    second = fleet.json(*base, "--param", f"disk_image.offset_bytes={64 * MIB}")
    parts = [_export(fleet, document, tmp_path / f"{i}.fireline") for i, document in enumerate((first, second))]

    alone = fleet.try_fireline("evidence", "image", parts[0], "-o", str(tmp_path / "alone.img"))
    both = fleet.fireline("evidence", "image", *parts, "-o", str(tmp_path / "disk.img"))

    assert f"capture on with offset_bytes={64 * MIB}" in alone.stderr
    assert alone.returncode == 1
    assert not (tmp_path / "alone.img").exists()
    assert hashlib.sha256(content).hexdigest() in both
    is_same = (tmp_path / "disk.img").read_bytes() == content
    assert is_same
    assert (tmp_path / "disk.img").stat().st_blocks * 512 < 10 * MIB


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("disk_imag.source=/x", "did you mean 'disk_image'"),
        ("source=/x", "wanted COLLECTOR.NAME=VALUE"),
        ("disk_image.source", "wanted COLLECTOR.NAME=VALUE"),
    ],
)
def test_parameters_that_no_collector_has_are_refused(fleet: Fleet, param: str, message: str) -> None:
    """Before any host is called."""
    done = fleet.try_fireline("capture", "-t", "web1", "--profile", "image", "--param", param)

    assert done.returncode == 2
    assert message in done.stderr


def test_certificates_are_renewed_by_command(fleet: Fleet) -> None:
    """Each host has another certificate at once, answers with it, and the journal has a line of each."""
    before = {h["host"]: h["certificate_serial"] for h in fleet.json("host", "list", "-t", "web[1-2]")["hosts"]}

    document = fleet.json("host", "renew", "-t", "web[1-2]", "--reason", "break-in")

    after = {h["host"]: h["certificate_serial"] for h in fleet.json("host", "list", "-t", "web[1-2]")["hosts"]}
    assert document["counts"] == {"ok": 2}
    assert all("certificate until" in h["detail"] for h in document["hosts"])
    assert not set(before.values()) & set(after.values())
    assert fleet.json("host", "ping", "-t", "web[1-2]")["counts"] == {"ok": 2}


def test_a_secret_is_rotated_by_command_and_is_nowhere_else(fleet: Fleet) -> None:
    """Neither the controller's state and logs, nor the agent's records, nor what is printed has the new one."""
    host = fleet.lab["web1"]
    host.write("/srv/app.env", b"TOKEN=formerToken123\nPORT=80\n")
    folders = [fleet.state, host.path("/var/lib/fireline-agent"), host.path("/srv")]

    arguments = ("-t", "web1", "-p", "file=/srv/app.env", "-p", "keys=TOKEN", "--reason", "break-in", "--yes")
    document = fleet.json("action", "run", "security.rotate_env_file", *arguments)

    assert document["counts"] == {"ok": 1}, document
    token, port = host.path("/srv/app.env").read_text().splitlines()
    new = token.removeprefix("TOKEN=")
    assert (len(new), port) == (40, "PORT=80")
    assert new not in json.dumps(document)
    assert files_with(new, *folders) == [host.path("/srv/app.env")]
    [aside] = files_with("formerToken123", *folders)
    assert aside.parent.name == "aside"
    fleet.fireline("action", "undo", document["operation"], "--reason", "drill")
    assert host.path("/srv/app.env").read_text() == "TOKEN=formerToken123\nPORT=80\n"


def test_an_account_is_disabled_by_command(fleet: Fleet) -> None:
    """A person's account that the host's own useradd made: locked, expired, its processes gone; and let back."""
    host = fleet.lab["web2"]
    host.run(["useradd", "--create-home", "mallory"])
    host.spawn(["setpriv", "--reuid", "mallory", "--clear-groups", "sleep", "600"], unit="session")

    arguments = ("-t", "web2", "-p", "account=mallory", "--reason", "break-in", "--yes")
    document = fleet.json("action", "run", "security.disable_account", *arguments)

    assert document["counts"] == {"ok": 1}, document
    shadow = host.run(["getent", "shadow", "mallory"]).split(":")
    assert (shadow[1][0], shadow[7]) == ("!", "1")
    assert host.run(["pgrep", "-u", "mallory"], check=False) == ""
    fleet.fireline("action", "undo", document["operation"], "--reason", "drill")
    assert host.run(["getent", "shadow", "mallory"]).split(":")[7] == ""
    host.run(["userdel", "--remove", "mallory"], check=False)


@pytest.mark.slow
@pytest.mark.docker
def test_a_service_is_rebuilt_by_command(engine_fleet: Fleet) -> None:
    """What it destroys is sealed first; then data and container are other ones; and all is put back."""
    [host] = engine_fleet.lab
    labels = ["--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=db"]
    docker(host, "volume", "create", "shop_data")
    run = ["run", "-d", "--name", "shop-db-1", *labels, "-v", "shop_data:/data", IMAGE, "sleep", "600"]
    first = docker(host, *run)
    docker(host, "exec", "shop-db-1", "sh", "-c", "echo bad >/data/backdoor")
    host.run(["sh", "-c", "mkdir -p /srv/good && echo yes >/srv/good/good && tar -C /srv/good -czf /srv/good.tgz ."])
    sha256 = host.run(["sha256sum", "/srv/good.tgz"]).split()[0]

    with host_policy(engine_fleet, host, 'actions = ["security.rebuild"]\n'):
        given = {
            "project": "shop",
            "backup": "/srv/good.tgz",
            "backup_sha256": sha256,
            "restore_to": "volume:shop_data",
        }
        params = [word for key, value in given.items() for word in ("-p", f"{key}={value}")]
        arguments = ("-t", host.name, *params, "--reason", "break-in", "--yes")
        document = engine_fleet.json("action", "run", "security.rebuild", *arguments)

        assert document["counts"] == {"ok": 1}, document
        assert docker(host, "exec", "shop-db-1", "ls", "/data") == "good"
        assert docker(host, "inspect", "--format", "{{.Id}}", "shop-db-1") != first
        evidence = engine_fleet.json("evidence", "list", "--host", host.name)["evidence"]
        assert evidence[0]["profile"].startswith("evidence")
        engine_fleet.fireline("action", "undo", document["operation"], "--reason", "drill")
        assert docker(host, "inspect", "--format", "{{.Id}}", "shop-db-1") == first
        assert docker(host, "exec", "shop-db-1", "ls", "/data") == "backdoor"
    docker(host, "rm", "-f", "shop-db-1")
