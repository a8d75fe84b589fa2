"""Secrets of containers rotated, and a project rebuilt, on a real Docker Engine."""

import ctypes
import hashlib
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fireline_agent.hands import children
from fireline_agent.hands.roots import Roots
from fireline_agent.remediation.action import ActionError, Tools
from fireline_agent.remediation.security import rebuild, rotate_env_file, rotate_postgres_role
from tests.engine import IMAGE, LiveEngine, live_engine, missing_tools
from tests.remediation.rehearsal import Rehearsal
from tests.remediation.test_security_secrets import a_database
from tests.remediation.watching import processes_watched

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(bool(missing_tools()), reason=f"needs {', '.join(missing_tools())}"),
]
OLD = "formerPassword123"
SLEEP = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
_CLONE_NEWNS = 0x00020000


@pytest.fixture(scope="module")
def engine() -> Iterator[LiveEngine]:
    """An engine of the tests' own."""
    with live_engine() as found:
        yield found


@pytest.fixture(autouse=True)
def empty(engine: LiveEngine) -> Iterator[None]:
    """No containers, networks or volumes stay."""
    yield
    for container in engine.client.containers(all=True):
        engine.client.remove_container(container["Id"], force=True)
    engine.client.prune_networks()
    for volume in engine.client.volumes()["Volumes"] or []:
        engine.client.remove_volume(volume["Name"])


@pytest.fixture
def tools(tmp_path: Path, engine: LiveEngine) -> Tools:
    """The engine, a root for files and the agent's own folder."""
    (tmp_path / "root/srv").mkdir(parents=True)
    roots = Roots(root=tmp_path / "root", state=tmp_path / "state", docker_socket=engine.socket)
    return Tools(roots, request_id="r-1")


def _inspect(engine: LiveEngine, name: str) -> dict[str, Any]:
    return dict(engine.client.inspect_container(name))


def _output(engine: LiveEngine, name: str, script: str) -> str:
    run = engine.client.exec_create(name, ["sh", "-c", script])
    return str(engine.client.exec_start(run["Id"]).decode())


# --- dependents of a secret ---


def test_a_container_with_the_secret_in_its_environment_is_made_anew(engine: LiveEngine, tools: Tools) -> None:
    """Alone and inside a URL; who has it from a file is restarted, in the order named."""
    path = tools.roots.root / "srv/app.env"
    path.write_text(f"DB_PASSWORD={OLD}\n")
    given = {"environment": {"DB_PASSWORD": OLD, "URL": f"postgres://a:{OLD}@db/a", "PLAIN": "1"}}
    engine.run("web", SLEEP, create=given)
    before = engine.run("worker", SLEEP)
    started = _inspect(engine, "worker")["State"]["StartedAt"]
    dependents = ["container:worker", "container:web"]
    given_params = {"file": "/srv/app.env", "keys": ["DB_PASSWORD"], "dependents": dependents}
    rehearsal = Rehearsal(rotate_env_file.ACTION, given_params, tools)

    with processes_watched() as watch:
        applied = rehearsal.apply()

    assert applied.verified.is_good, applied.verified.sentence
    new = path.read_text().strip().removeprefix("DB_PASSWORD=")
    web, worker = _inspect(engine, "web"), _inspect(engine, "worker")
    assert {f"DB_PASSWORD={new}", f"URL=postgres://a:{new}@db/a", "PLAIN=1"} <= set(web["Config"]["Env"])
    assert OLD not in json.dumps(web["Config"]["Env"])
    assert worker["Id"] == before
    assert worker["State"]["StartedAt"] > started
    assert worker["State"]["StartedAt"] < web["State"]["StartedAt"]
    # Its own processes have it in their environment, which only they and root can read.
    assert not watch.has_on_command_line(new)
    assert rehearsal.undo(applied) == []
    assert path.read_text() == f"DB_PASSWORD={OLD}\n"
    assert f"DB_PASSWORD={OLD}" in _inspect(engine, "web")["Config"]["Env"]
    assert _inspect(engine, "web")["State"]["Running"]


def test_a_container_that_does_not_come_up_with_it_is_put_back(engine: LiveEngine, tools: Tools) -> None:
    """One that dies with the new secret: the former container runs again, and the application says it failed."""
    path = tools.roots.root / "srv/app.env"
    path.write_text(f"TOKEN={OLD}\n")
    script = f'[ "$TOKEN" = {OLD} ] || exit 3; {SLEEP}'.replace(OLD, OLD[:-3] + "'123'")
    old = engine.run("web", script, create={"environment": {"TOKEN": OLD}})
    params = {"file": "/srv/app.env", "keys": ["TOKEN"], "dependents": ["container:web"]}

    applied = Rehearsal(rotate_env_file.ACTION, params, tools).apply()

    assert "the former container was put back" in applied.error
    assert _inspect(engine, "web")["Id"] == old
    assert _inspect(engine, "web")["State"]["Running"]


@pytest.mark.parametrize(
    ("dependents", "message"),
    [
        (["container:gone"], "there is no container gone"),
        (["gone"], "wanted container:NAME or service:UNIT"),
        (["container:../x"], "wanted container:NAME"),
    ],
)
def test_dependents_that_are_not_there_are_refused_first(tools: Tools, dependents: list[str], message: str) -> None:
    """In the plan, before any secret is another."""
    path = tools.roots.root / "srv/app.env"
    path.write_text("TOKEN=abcdef\n")
    given = {"file": "/srv/app.env", "keys": ["TOKEN"], "dependents": dependents}

    with pytest.raises(ActionError, match=message):
        Rehearsal(rotate_env_file.ACTION, given, tools).plan()


# --- rebuild ---


def _archive(path: Path, files: dict[str, bytes], *extra: tarfile.TarInfo) -> str:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uid = len(content), 0o640, 70
            archive.addfile(member, io.BytesIO(content))
        for member in extra:
            archive.addfile(member)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _shop(engine: LiveEngine) -> dict[str, str]:
    """Two services in an intruder's hands: `db` with a volume, `web` that needs it and has traffic."""
    client = engine.client
    client.create_volume("shop_data")
    for network in ("shop_back", "shop_edge"):
        client.create_network(network)
    labels = {"com.docker.compose.project": "shop"}
    made = {}
    for service, needs in (("db", ""), ("web", "db:service_healthy:false")):
        own = {"com.docker.compose.service": service, "com.docker.compose.depends_on": needs}
        settings = {"binds": ["shop_data:/data"]} if service == "db" else {}
        check = {"test": ["CMD-SHELL", "[ -f /data/good ] || [ -d /data/old ]"], "interval": 200_000_000}
        health = {"healthcheck": check} if service == "db" else {}
        made[service] = engine.run(
            f"shop-{service}-1",
            SLEEP,
            create={"labels": labels | own, **health},
            network_mode="shop_edge" if service == "web" else "shop_back",
            **settings,
        )
    client.connect_container_to_network(made["web"], "shop_back", aliases=["web"])
    _output(engine, "shop-db-1", "mkdir /data/old; echo bad >/data/old/x")
    _output(engine, "shop-web-1", "echo backdoor >/tmp/backdoor")
    return made


def _clean_image(engine: LiveEngine) -> str:
    """Another image with the same programs, by its id."""
    spare = engine.client.create_container(IMAGE, ["true"], name="spare")
    made = engine.client.commit(spare["Id"], repository="shop/web", changes='LABEL clean="yes"')
    engine.client.remove_container(spare["Id"])
    return str(made["Id"])


def _where_the_engine_is(engine: LiveEngine, work: Callable[[], Any]) -> Any:
    """Do the work in the engine's own mounts, as an agent on its host is; it answers with JSON values."""
    pids = [p for p in Path("/proc").iterdir() if p.name.isdecimal() and _is_engine(p, engine)]
    descriptor = os.open(pids[0] / "ns/mnt", os.O_RDONLY)

    def child() -> bytes:
        assert ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        return json.dumps(work()).encode()

    try:
        return json.loads(children.output_of(child, timeout_s=50))
    finally:
        os.close(descriptor)


def _is_engine(process: Path, engine: LiveEngine) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[0] == b"dockerd" and f"unix://{engine.socket}".encode() in words


def test_a_project_is_rebuilt_and_put_back(engine: LiveEngine, tools: Tools) -> None:
    """Clean image, restored data with its owner, the database before the web, traffic last; and all of it undone."""
    made, image = _shop(engine), _clean_image(engine)
    backup = tools.roots.root / "srv/backup.tgz"
    sha256 = _archive(backup, {"./good": b"yes", "sub/file": b"x"})
    given = {
        "project": "shop",
        "images": [f"web={image}"],
        "backup": "/srv/backup.tgz",
        "backup_sha256": sha256,
        "restore_to": "volume:shop_data",
        "traffic": "shop_edge",
    }
    rehearsal = Rehearsal(rebuild.ACTION, given, tools)

    def work() -> Any:
        applied = rehearsal.apply()
        seen = {
            "good": applied.verified.is_good,
            "sentence": applied.verified.sentence,
            "does": [c.does for c in applied.plan.changes],
            "data": _output(engine, "shop-db-1", "ls /data; cat /data/good; busybox stat -c %u /data/good"),
            "web": _inspect(engine, "shop-web-1"),
            "db": _inspect(engine, "shop-db-1"),
        }
        return [seen, rehearsal.undo(applied)]

    seen, left = _where_the_engine_is(engine, work)

    assert seen["good"], seen["sentence"]
    assert [words.split()[0] for words in seen["does"]] == ["unpack", "stop", "stop", "put", "make", "make", "docker"]
    assert seen["data"].split() == ["good", "sub", "yes70"]
    assert seen["web"]["Image"] == image
    assert seen["web"]["Id"] != made["web"]
    assert set(seen["web"]["NetworkSettings"]["Networks"]) == {"shop_back", "shop_edge"}
    assert seen["db"]["State"]["Health"]["Status"] == "healthy"
    assert seen["db"]["State"]["StartedAt"] < seen["web"]["State"]["StartedAt"]
    assert left == []
    assert _inspect(engine, "shop-web-1")["Id"] == made["web"]
    assert _inspect(engine, "shop-db-1")["Id"] == made["db"]
    assert _output(engine, "shop-db-1", "cat /data/old/x") == "bad\n"
    assert _output(engine, "shop-web-1", "cat /tmp/backdoor") == "backdoor\n"


def test_a_backup_that_can_not_be_trusted_stops_nothing(engine: LiveEngine, tools: Tools) -> None:
    """Another hash, names and links that lead out, devices, half an archive: told while everything still runs."""
    made = _shop(engine)
    link, device = tarfile.TarInfo("sub/link"), tarfile.TarInfo("device")
    link.type, link.linkname, device.type = tarfile.SYMTYPE, "../../x", tarfile.CHRTYPE
    through, behind = tarfile.TarInfo("in"), tarfile.TarInfo("in/x")
    through.type, through.linkname = tarfile.SYMTYPE, "good"
    extras = {
        "leads out of the archive": [tarfile.TarInfo("a/../../../etc/x")],
        "the link 'sub/link' leads out": [link],
        "is a device or a pipe": [device],
        "lies behind a link": [through, behind],
        "wanted SHA-256 0000": [],
        "no whole tar archive": [],
    }
    rehearsals = []
    for number, (message, extra) in enumerate(extras.items()):
        backup = tools.roots.root / f"srv/{number}.tgz"
        sha256 = _archive(backup, {"good": b"yes"}, *extra)
        if message.startswith("no whole"):
            backup.write_bytes(backup.read_bytes()[:-20])
            sha256 = hashlib.sha256(backup.read_bytes()).hexdigest()
        wanted = "0" * 64 if message.startswith("wanted") else sha256
        given = {"project": "shop", "backup": f"/srv/{number}.tgz", "backup_sha256": wanted}
        rehearsals.append(Rehearsal(rebuild.ACTION, {**given, "restore_to": "volume:shop_data"}, tools))

    def work() -> Any:
        applied = [rehearsal.apply() for rehearsal in rehearsals]
        folders = [path.name for path in _volume(engine).iterdir()]
        return [[a.error for a in applied], [len(a.done) for a in applied], folders]

    errors, counts, folders = _where_the_engine_is(engine, work)

    assert all(message in error for message, error in zip(extras, errors, strict=True)), errors
    assert (set(counts), folders) == ({0}, ["_data"])
    assert all(_inspect(engine, f"shop-{s}-1")["State"]["Running"] for s in made)


def _volume(engine: LiveEngine) -> Path:
    return Path(engine.client.inspect_volume("shop_data")["Mountpoint"]).parent


def test_a_rebuild_that_can_not_be_is_refused_in_the_plan(engine: LiveEngine, tools: Tools) -> None:
    """Each message names what was wanted; nothing is stopped."""
    _shop(engine)
    image, no = _clean_image(engine), {"backup": "/srv/no.tgz", "backup_sha256": "0" * 64}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"images": ["web=shop/web:latest"]}, "a tag may be moved"),
        ({"images": [f"web=sha256:{'0' * 64}"]}, "not on this host, and nothing is pulled"),
        ({"images": [f"cache={image}"]}, "no service cache is here"),
        ({"traffic": "nowhere"}, "no network nowhere"),
        ({**no, "restore_to": "volume:shop_data"}, "is not there"),
        ({"backup": "/srv/no.tgz", "restore_to": "volume:shop_data"}, "wanted the backup's SHA-256"),
        ({**no, "restore_to": "/etc"}, "wanted volume:NAME"),
        ({**no, "restore_to": "volume:x"}, "there is no volume x"),
    ]

    def refusal(changes: dict[str, Any]) -> str:
        try:
            Rehearsal(rebuild.ACTION, {"project": "shop", **changes}, tools).plan()
        except ActionError as error:
            return str(error)
        return ""

    found = _where_the_engine_is(engine, lambda: [refusal(changes) for changes, _ in cases])

    assert all(message in said for (_, message), said in zip(cases, found, strict=True)), found


@pytest.mark.slow
def test_what_does_not_come_up_gets_no_traffic(engine: LiveEngine, tools: Tools) -> None:
    """A database without its data is not healthy: the web is not started, and the undo brings the former ones back."""
    made = _shop(engine)
    backup = tools.roots.root / "srv/backup.tgz"
    sha256 = _archive(backup, {"useless": b""})
    given = {
        "project": "shop",
        "backup": "/srv/backup.tgz",
        "backup_sha256": sha256,
        "restore_to": "volume:shop_data",
        "traffic": "shop_edge",
        "wait": 3,
    }
    rehearsal = Rehearsal(rebuild.ACTION, given, tools)

    def work() -> Any:
        applied = rehearsal.apply()
        names = [c["Names"][0] for c in engine.client.containers()]
        return [applied.error, names, rehearsal.undo(applied)]

    error, running, left = _where_the_engine_is(engine, work)

    assert "no traffic reaches it" in error
    assert running == []
    assert left == []
    until = time.monotonic() + 5
    while not all(_inspect(engine, f"shop-{s}-1")["State"]["Running"] for s in made) and time.monotonic() < until:
        time.sleep(0.1)
    assert {s: _inspect(engine, f"shop-{s}-1")["Id"] for s in made} == made


@pytest.mark.postgres
def test_the_role_of_a_server_in_a_container_is_rotated(engine: LiveEngine, tools: Tools) -> None:
    """The server's socket is found in the container's root, and asked as its owner; no client runs in the container."""
    path = tools.roots.root / "srv/app.env"
    path.write_text(f"DB_PASSWORD={OLD}\n")
    with tempfile.TemporaryDirectory(prefix="fireline-pg-") as base:
        Path(base).chmod(0o755)
        with a_database(Path(base) / "s", "scram-sha-256") as database:
            engine.run("db", SLEEP, binds=[f"{database.folder}:/srv/pg"])
            place = {"container": "db", "socket": "/srv/pg", "port": database.port, "superuser": "fireline"}
            given = {"role": "app", "file": "/srv/app.env", "keys": ["DB_PASSWORD"], **place}
            rehearsal = Rehearsal(rotate_postgres_role.ACTION, given, tools)

            def work() -> Any:
                applied = rehearsal.apply()
                return [applied.verified.is_good, applied.verified.sentence]

            is_good, sentence = _where_the_engine_is(engine, work)
            new = path.read_text().strip().removeprefix("DB_PASSWORD=")

            assert is_good, sentence
            assert (database.lets_in(new), database.lets_in(OLD)) == (True, False)
