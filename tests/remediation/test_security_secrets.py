"""Secrets rotated for real: PostgreSQL 15, redis-server, and files; what leaks nowhere, and what an attack can't do."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fireline_agent.hands import postgres_wire, redis_wire, rewrite
from fireline_agent.hands.roots import Roots
from fireline_agent.remediation.action import ActionError, Tools
from fireline_agent.remediation.applying import Applied
from fireline_agent.remediation.security import rotate_env_file, rotate_postgres_role, rotate_redis, rotation
from tests.fakes.postgres import PostgresServer, binaries
from tests.remediation.rehearsal import Rehearsal
from tests.remediation.watching import files_with, processes_watched

OLD = "formerPassword123"


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    """A root below which the secrets' files lie, and the agent's own folder."""
    (tmp_path / "root/srv").mkdir(parents=True)
    return Tools(Roots(root=tmp_path / "root", state=tmp_path / "state"), request_id="r-1")


def _file(tools: Tools, content: str, name: str = "app.env") -> Path:
    path = tools.roots.root / "srv" / name
    path.write_text(content)
    path.chmod(0o640)
    return path


def _words(rehearsal: Rehearsal, applied: Applied) -> str:
    """All that is recorded, shown or answered of an application."""
    documents = [applied.plan.to_document(), [asdict(c) for c in applied.plan.changes], asdict(applied.verified)]
    kept = [dict(done.kept) for done in applied.done]
    return json.dumps([documents, kept, applied.error, dict(applied.result), str(rehearsal.record.events)], default=str)


def test_the_watch_sees_what_it_looks_for() -> None:
    """A secret on a command line and one in an environment are seen: the tests below would fail by them."""
    command = ["/bin/sh", "-c", "sleep 5 # onTheLine"]
    with processes_watched() as watch, subprocess.Popen(command, env={"X": "inTheEnvironment"}) as shell:
        until = time.monotonic() + 5
        while not (watch.has("onTheLine") and watch.has("inTheEnvironment")) and time.monotonic() < until:
            time.sleep(0.01)
        shell.kill()

    assert watch.has("onTheLine")
    assert watch.has("inTheEnvironment")


# --- files ---


def test_each_variable_gets_a_secret_of_its_own(tools: Tools) -> None:
    """Owner, mode and everything else of the file stay; the undo brings it back byte by byte."""
    before = "# app\nTOKEN=abc\nSIGNING_KEY='def'\nPORT=80\n"
    path = _file(tools, before)
    os.chown(path, 61_234, 61_235)
    rehearsal = Rehearsal(rotate_env_file.ACTION, {"file": "/srv/app.env", "keys": ["TOKEN", "SIGNING_KEY"]}, tools)

    applied = rehearsal.apply()

    assert applied.verified.is_good, applied.verified.sentence
    first, token, key, port = path.read_text().splitlines()
    assert (first, port) == ("# app", "PORT=80")
    token, key = token.removeprefix("TOKEN="), key.removeprefix("SIGNING_KEY='").removesuffix("'")
    assert len({token, key, "abc", "def"}) == 4
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (61_234, 61_235, 0o640)
    assert list(path.parent.iterdir()) == [path]
    words = _words(rehearsal, applied)
    assert not any(secret in words for secret in (token, key, "abc", "'def'"))
    assert rehearsal.undo(applied) == []
    assert path.read_text() == before


def test_a_file_that_was_changed_meanwhile_is_left_alone(tools: Tools) -> None:
    """Between plan and application somebody wrote to it: nothing is overwritten."""
    path = _file(tools, "TOKEN=abc\n")
    rehearsal = Rehearsal(rotate_env_file.ACTION, {"file": "/srv/app.env", "keys": ["TOKEN"]}, tools)
    [change] = rehearsal.plan().changes
    path.write_text("TOKEN=another\n")

    with pytest.raises(ActionError, match="was changed since this was planned"):
        rotate_env_file.do(tools, change, rehearsal.params)
    assert path.read_text() == "TOKEN=another\n"


def test_a_file_that_is_swapped_at_the_last_moment_is_left_alone(tools: Tools) -> None:
    """Not even what comes between the last look and the rename is lost."""
    path = _file(tools, "TOKEN=abc\n")
    held = rewrite.read(str(path))

    with rewrite.staged(str(path), b"new", held) as staged:
        path.unlink()
        path.symlink_to("/etc/passwd")
        with pytest.raises(OSError, match="was changed meanwhile"):
            staged.take_place()
    assert path.is_symlink()
    assert list(path.parent.iterdir()) == [path]


def test_the_secret_that_a_server_has_is_not_lost_with_its_file(tools: Tools) -> None:
    """Where the file is written to while the server is told, the new one stays beside it, and the error says where."""
    path = _file(tools, "TOKEN=abc\n")
    change = Rehearsal(rotate_env_file.ACTION, {"file": "/srv/app.env", "keys": ["TOKEN"]}, tools).plan().changes[0]

    def told(_old: bytes, _new: bytes) -> None:
        path.write_text("TOKEN=other\n")

    with pytest.raises(ActionError, match=r"the secret that is in force lies in /srv/\.fireline-new-") as failed:
        rotation.exchange(tools, change, lambda _old: b"TOKEN=new\n", between=told)

    [left] = rotation.leftovers(tools, "/srv/app.env")
    assert left in str(failed.value)
    assert (tools.roots.root / left.lstrip("/")).read_text() == "TOKEN=new\n"
    assert path.read_text() == "TOKEN=other\n"


@pytest.mark.parametrize(
    ("name", "keys", "reason", "message"),
    [
        ("/srv/link", [], "refused", "is a symbolic link: name the real path"),
        ("/srv/folder", [], "refused", "wanted a regular file"),
        ("/srv/missing", [], "not_found", "there is no such file"),
        ("/srv/empty", [], "refused", "holds no secret"),
        ("/srv/app.env", ["NOPE"], "not_found", "has no variable NOPE; it has TOKEN"),
        ("/srv/app.env", ["A B"], "refused", "wanted names of variables"),
        ("/down/app.env", [], "refused", "'down' in .* is a symbolic link"),
    ],
)
def test_files_that_are_not_rewritten(tools: Tools, name: str, keys: list[str], reason: str, message: str) -> None:
    """Links, folders and files that lack what was named are refused before anything happens."""
    srv = _file(tools, "TOKEN=abc\n").parent
    (srv / "link").symlink_to(srv / "app.env")
    (srv / "folder").mkdir()
    (srv / "empty").touch()
    (tools.roots.root / "down").symlink_to(srv)

    with pytest.raises(ActionError, match=message) as refused:
        Rehearsal(rotate_env_file.ACTION, {"file": name, "keys": keys}, tools).plan()
    assert refused.value.reason == reason


def test_a_full_disk_is_told_before_anything_is_changed(tools: Tools, tmp_path: Path) -> None:
    """What can't be put aside for the undo is not changed."""
    path = _file(tools, "TOKEN=abc\n")
    (tmp_path / "state").write_text("no folder")  # as good as a full one: nothing can be made in it

    applied = Rehearsal(rotate_env_file.ACTION, {"file": "/srv/app.env", "keys": ["TOKEN"]}, tools).apply()

    assert "can't be put aside for the undo" in applied.error
    assert path.read_text() == "TOKEN=abc\n"


def test_a_host_without_systemd_says_so(tools: Tools) -> None:
    """A dependent service that nobody can start again is refused in the plan."""
    _file(tools, "TOKEN=abc\n")

    with pytest.raises(ActionError, match="systemd is not this host's service manager") as refused:
        given = {"file": "/srv/app.env", "keys": ["TOKEN"], "dependents": ["service:app"]}
        Rehearsal(rotate_env_file.ACTION, given, tools).plan()
    assert refused.value.reason == "unsupported"


def _killed_in_the_middle(work: Callable[[], Any]) -> None:
    """Do the work in a process that is killed as the file is about to take its place: the server has heard already."""
    pid = os.fork()
    if pid == 0:
        setattr(rewrite.Staged, "take_place", lambda _self: os.kill(os.getpid(), signal.SIGKILL))  # noqa: B010 -- frozen
        work()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


# --- PostgreSQL ---


@dataclass
class Database:
    """A real server that asks for passwords over the network, and its log."""

    server: PostgresServer
    folder: Path
    port: int

    def superuser(self, statement: str) -> list[Any]:
        """Run a statement as its owner."""
        with psycopg.connect(f"host={self.folder} port={self.port} user=fireline dbname=postgres") as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def connect(self, password: str) -> "psycopg.Connection[Any]":
        """Log in as the application does."""
        address = f"host=127.0.0.1 port={self.port} user=app dbname=app connect_timeout=5"
        return psycopg.connect(address, password=password)

    def lets_in(self, password: str) -> bool:
        """Whether a login succeeds."""
        try:
            self.connect(password).close()
        except psycopg.OperationalError as error:
            assert "password authentication failed" in str(error)
            return False
        return True


@contextmanager
def a_database(folder: Path, hba: str) -> Iterator[Database]:
    """A server in a folder that is not there yet; `hba`: how it lets somebody in over the network."""
    programs = binaries()
    assert programs is not None
    owner = "postgres" if os.geteuid() == 0 else None
    folder.mkdir()
    if owner:
        shutil.chown(folder, owner)
    with socket.create_server(("127.0.0.1", 0)) as spare:
        port = spare.getsockname()[1]
    server = PostgresServer(programs, folder, owner, "")
    server.run("initdb", "-D", str(folder / "data"), "-U", "fireline", "--no-sync", "-A", "trust")
    (folder / "data/pg_hba.conf").write_text(f"local all all trust\nhost all all 127.0.0.1/32 {hba}\n")
    options = (
        f"-k {folder} -c listen_addresses=127.0.0.1 -c port={port} -c fsync=off -c shared_buffers=16MB "
        "-c log_statement=all -c log_min_duration_statement=0 -c log_connections=on"
    )
    data = str(folder / "data")
    server.run("pg_ctl", "start", "-w", "-D", data, "-l", str(folder / "log"), "-o", options)
    try:
        database = Database(server, folder, port)
        database.superuser(f"CREATE ROLE app LOGIN PASSWORD '{OLD}'")
        with psycopg.connect(f"host={folder} port={port} user=fireline dbname=postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE app OWNER app")
        yield database
    finally:
        server.run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", data)


@pytest.fixture(scope="module")
def server() -> Iterator[Database]:
    """A server with the role `app`."""
    if binaries() is None:
        pytest.skip("needs PostgreSQL's server binaries")
    # Not below pytest's own folder, which only root may enter.
    with tempfile.TemporaryDirectory(prefix="fireline-pg-") as base:
        Path(base).chmod(0o755)
        with a_database(Path(base) / "s", "scram-sha-256") as found:
            yield found


@pytest.fixture
def database(server: Database) -> Database:
    """The same, and the role has its first password."""
    server.superuser(f"ALTER ROLE app PASSWORD '{OLD}'")
    return server


def _given(database: Database, **more: Any) -> dict[str, Any]:
    place = {"socket": str(database.folder), "port": database.port, "superuser": "fireline"}
    return {"role": "app", "file": "/srv/app.env", "keys": ["DB_PASSWORD", "DATABASE_URL"], **place, **more}


@pytest.mark.postgres
def test_a_roles_password_is_another_everywhere_and_leaks_nowhere(tools: Tools, database: Database) -> None:
    """The new one is let in, the former not, open sessions end; no log or process had it; and the way back."""
    tools = _without_root(tools)
    before = f"DB_PASSWORD={OLD}\nDATABASE_URL=postgres://app:{OLD}@db/app\n"
    path = _file(tools, before)
    rehearsal = Rehearsal(rotate_postgres_role.ACTION, _given(database, file=str(path)), tools)
    intruder = database.connect(OLD)

    with processes_watched() as watch:
        applied = rehearsal.apply()

    assert applied.verified.is_good, applied.verified.sentence
    assert applied.result["login"] == "accepted"
    new = path.read_text().splitlines()[0].removeprefix("DB_PASSWORD=")
    assert path.read_text() == before.replace(OLD, new)
    assert (database.lets_in(new), database.lets_in(OLD)) == (True, False)
    with pytest.raises(psycopg.OperationalError):
        intruder.execute("SELECT 1")
    [[verifier]] = database.superuser("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'")
    log = (database.folder / "log").read_text()
    words = _words(rehearsal, applied)
    assert watch.looks > 3
    for secret in (new, verifier):
        assert secret not in log
        assert secret not in words
        assert not watch.has(secret)
    assert files_with(new, path.parent.parent.parent / "state", path.parent) == [path]
    assert rehearsal.undo(applied) == []
    assert path.read_text() == before
    assert (database.lets_in(OLD), database.lets_in(new)) == (True, False)


@pytest.mark.postgres
def test_a_role_without_a_database_of_its_name_is_tried_all_the_same(tools: Tools, database: Database) -> None:
    """The server says that the database is not there to those only whom it has let in."""
    tools = _without_root(tools)
    path = _file(tools, f"DB_PASSWORD={OLD}\nDATABASE_URL=postgres://app:{OLD}@db/app\n")

    given = _given(database, file=str(path)) | {"database": "none"}

    applied = Rehearsal(rotate_postgres_role.ACTION, given, tools).apply()

    assert applied.verified.is_good, applied.verified.sentence
    assert applied.result["login"] == "accepted"


def _without_root(tools: Tools) -> Tools:
    """The server's socket is where it is: the whole machine is the root, and the file is named in full."""
    root = tools.roots.root
    (root / "srv").mkdir(exist_ok=True)
    return replace(tools, roots=replace(tools.roots, root=Path("/")), allows_path=lambda _path: True)


@pytest.mark.postgres
def test_a_file_that_can_not_be_written_leaves_the_role_alone(
    tools: Tools, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file is on the disk before the server hears of it: no space is told while the old password holds."""
    path = tools.roots.root / "srv/app.env"
    path.write_text(f"DB_PASSWORD={OLD}\n")
    given = _given(database, file=str(path), keys=["DB_PASSWORD"])
    rehearsal = Rehearsal(rotate_postgres_role.ACTION, given, _without_root(tools))
    plan = rehearsal.plan()
    real = os.fsync

    def full(descriptor: int) -> None:
        if ".fireline-new-" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    applied = rehearsal.apply(plan)

    assert "No space left" in applied.error
    assert database.lets_in(OLD)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.postgres
def test_a_rotation_that_was_killed_in_the_middle_is_made_good_by_the_next(tools: Tools, database: Database) -> None:
    """The server has a password that the file has not: the next rotation says what was left, and both agree again."""
    path = tools.roots.root / "srv/app.env"
    path.write_text(f"DB_PASSWORD={OLD}\n")
    given = _given(database, file=str(path), keys=["DB_PASSWORD"])
    _killed_in_the_middle(Rehearsal(rotate_postgres_role.ACTION, given, _without_root(tools)).apply)
    assert not database.lets_in(OLD)

    again = Rehearsal(rotate_postgres_role.ACTION, given, replace(_without_root(tools), request_id="r-2"))
    plan = again.plan()
    applied = again.apply(plan)

    assert any("killed in the middle and left" in warning for warning in plan.warnings)
    assert applied.verified.is_good, applied.verified.sentence
    assert database.lets_in(path.read_text().strip().removeprefix("DB_PASSWORD="))


@pytest.mark.postgres
def test_a_server_inside_another_root_is_reached(database: Database) -> None:
    """As one in a container is: the socket is found from that root, by nobody's link out of it."""
    place = postgres_wire.Socket("/", database.port, str(database.folder))

    assert postgres_wire.execute(place, ["SELECT 1, NULL, 'a'"], user="fireline") == [[["1", None, "a"]]]


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"role": "nobody_here"}, "not_found", "no role nobody_here"),
        ({"role": "pg_monitor"}, "refused", "can't log in"),
        ({"superuser": "stranger"}, "failed", 'role "stranger" does not exist'),
        ({"port": 1}, "unsupported", "No such file"),
        ({"role": "a'; DROP ROLE app; --"}, "not_found", "no role a'"),
    ],
)
def test_roles_that_are_not_rotated(
    tools: Tools, database: Database, changes: dict[str, Any], reason: str, message: str
) -> None:
    """Each message names what was looked for; a role's name is never a statement."""
    path = tools.roots.root / "srv/app.env"
    path.write_text(f"DB_PASSWORD={OLD}\n")
    given = _given(database, file=str(path), keys=["DB_PASSWORD"], **changes)

    with pytest.raises(ActionError, match=message) as refused:
        Rehearsal(rotate_postgres_role.ACTION, given, _without_root(tools)).plan()
    assert refused.value.reason == reason
    assert database.lets_in(OLD)


# --- Redis ---


@dataclass
class Redis:
    """A real server with a file of settings."""

    port: int
    config: Path
    process: "subprocess.Popen[bytes]"
    argv: list[str]

    def lets_in(self, password: str, user: str = "default") -> bool:
        """Whether a login succeeds."""
        return redis_wire.may_log_in("127.0.0.1", self.port, user=user, password=password)

    def restart(self) -> None:
        """End it and start it from its file."""
        self.process.terminate()
        self.process.wait(timeout=10)
        self.process = _started(self.argv, self.port)


def _started(argv: list[str], port: int) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < until, "redis-server does not listen"
            time.sleep(0.02)
        else:
            return process


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A server with the password of the tests, and one further user."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs redis-server")
    with socket.create_server(("127.0.0.1", 0)) as spare:
        port = spare.getsockname()[1]
    config = tmp_path / "redis.conf"
    config.write_text(
        f'bind 127.0.0.1\nport {port}\ndir {tmp_path}\nsave ""\nrequirepass {OLD}\nuser worker on >{OLD}w ~* +@all\n'
        "slowlog-log-slower-than 0\n"
    )
    argv = [program, str(config)]
    found = Redis(port, config, _started(argv, port), argv)
    yield found
    found.process.kill()
    found.process.wait(timeout=10)


def test_redis_keeps_its_password_where_the_new_one_can_not_be_told_to_all(tools: Tools, redis: Redis) -> None:
    """A user who may change passwords and end no connections: the password in the file is the one in force still."""
    with redis_wire.connect("127.0.0.1", redis.port) as session:
        session.log_in("default", OLD)
        session.ask("ACL", "SETUSER", "worker", "-client|kill")
    path = _file(tools, f"{OLD}w")
    given = {"file": "/srv/app.env", "user": "worker", "port": redis.port}

    applied = Rehearsal(rotate_redis.ACTION, given, tools).apply()

    assert "may not change passwords" in applied.error
    assert path.read_text() == f"{OLD}w"
    assert redis_wire.may_log_in("127.0.0.1", redis.port, user="worker", password=f"{OLD}w")


def test_a_command_that_redis_does_not_know_repeats_no_secret(redis: Redis) -> None:
    """The server's own words hold all arguments, where CONFIG or AUTH was renamed for instance."""
    with redis_wire.connect("127.0.0.1", redis.port) as session:
        session.log_in("default", OLD)

        with pytest.raises(redis_wire.RedisError, match="unknown command") as refused:
            session.ask("RENAMED", "SET", "requirepass", "newSecret")

    assert "newSecret" not in str(refused.value)


def test_a_redis_password_is_another_everywhere_and_leaks_nowhere(tools: Tools, redis: Redis) -> None:
    """New taken, former refused, after a restart too; who was connected is out; no process, log or record has it."""
    path = _file(tools, f"REDIS_URL=redis://:{OLD}@cache:6379/0\n")
    given = {"file": "/srv/app.env", "keys": ["REDIS_URL"], "port": redis.port}
    rehearsal = Rehearsal(rotate_redis.ACTION, given, tools)
    with redis_wire.connect("127.0.0.1", redis.port) as intruder:
        intruder.log_in("default", OLD)

        with processes_watched() as watch:
            applied = rehearsal.apply()

        with pytest.raises((redis_wire.RedisError, OSError)):
            intruder.ask("PING")
    assert applied.verified.is_good, applied.verified.sentence
    new = path.read_text().removeprefix("REDIS_URL=redis://:").partition("@")[0]
    assert path.read_text() == f"REDIS_URL=redis://:{new}@cache:6379/0\n"
    assert not watch.has(new)
    assert new not in _words(rehearsal, applied)
    with redis_wire.connect("127.0.0.1", redis.port) as session:
        session.log_in("default", new)
        assert new not in str(session.ask("SLOWLOG", "GET", "100"))
    redis.restart()
    assert (redis.lets_in(new), redis.lets_in(OLD)) == (True, False)
    assert rehearsal.undo(applied) == []
    assert (redis.lets_in(OLD), redis.lets_in(new)) == (True, False)


def test_a_redis_rotation_that_was_killed_in_the_middle_says_where_the_password_is(tools: Tools, redis: Redis) -> None:
    """The server has the new one, which waits beside the file: moved over it, all agrees again."""
    path = _file(tools, f"{OLD}\n", "secret")
    given = {"file": "/srv/secret", "port": redis.port}
    _killed_in_the_middle(Rehearsal(rotate_redis.ACTION, given, tools).apply)

    with pytest.raises(ActionError, match="move it over /srv/secret and plan again") as refused:
        Rehearsal(rotate_redis.ACTION, given, tools).plan()

    [left] = [p for p in path.parent.iterdir() if p != path]
    assert f"/srv/{left.name}" in str(refused.value)
    left.rename(path)
    again = Rehearsal(rotate_redis.ACTION, given, replace(tools, request_id="r-2"))
    assert again.apply().verified.is_good


def test_a_further_user_of_redis(tools: Tools, redis: Redis) -> None:
    """By its ACL and as a hash: the password itself does not even reach the server's settings."""
    path = _file(tools, f"{OLD}w\n", "redis_password")
    given = {"file": "/srv/redis_password", "port": redis.port, "user": "worker"}

    applied = Rehearsal(rotate_redis.ACTION, given, tools).apply()

    assert applied.verified.is_good, applied.verified.sentence
    new = path.read_text().strip()
    assert (redis.lets_in(new, "worker"), redis.lets_in(f"{OLD}w", "worker")) == (True, False)
    assert redis.lets_in(OLD)
    assert new not in redis.config.read_text()


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [("wrong\n", {}, "with the password in the file"), (f"{OLD}\n", {"port": 1}, "Connection refused")],
)
def test_a_redis_that_lets_nobody_in(
    tools: Tools, redis: Redis, content: str, changes: dict[str, Any], message: str
) -> None:
    """Planned with a stale file or a wrong port: told, and nothing changed."""
    _file(tools, content, "secret")

    with pytest.raises(ActionError, match=message):
        Rehearsal(rotate_redis.ACTION, {"file": "/srv/secret", "port": redis.port, **changes}, tools).plan()
    assert redis.lets_in(OLD)
