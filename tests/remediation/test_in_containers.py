"""PostgreSQL and logs inside containers of a real Docker Engine."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fireline_agent.hands.roots import Roots
from fireline_agent.remediation.action import Action, ActionError, Plan, Tools
from fireline_agent.remediation.logs import errors, response_times, search
from fireline_agent.remediation.postgres import activity, check, terminate
from tests.engine import LiveEngine, eventually, live_engine, missing_tools
from tests.fakes import postgres
from tests.remediation.rehearsal import Rehearsal

pytestmark = [
    pytest.mark.docker,
    pytest.mark.postgres,
    pytest.mark.skipif(bool(missing_tools()), reason=f"no engine of our own here: lacks {', '.join(missing_tools())}"),
    pytest.mark.timeout(120),
]

# The machine's own PostgreSQL, seen from a container: no image of one is needed.
_BINDS = {path: {"bind": path, "mode": "ro"} for path in ("/usr", "/lib", "/lib64", "/etc") if Path(path).exists()}
_SERVE = """
set -e
mkdir -p /tmp/pg /var/run/postgresql
/usr/bin/chown postgres /tmp/pg /var/run/postgresql
as() { /usr/sbin/runuser -u postgres -- "$@"; }
as {programs}/initdb -D /tmp/pg -A trust -U shop --no-sync >/dev/null
exec /usr/sbin/runuser -u postgres -- {programs}/postgres -D /tmp/pg -c listen_addresses= -c shared_buffers=16MB
"""
_STUCK = """
until /usr/bin/psql -X -U shop -d postgres -c 'select 1' >/dev/null 2>&1; do sleep 0.1; done
(echo 'begin; select 1;'; sleep 1000) | PGAPPNAME=stuck /usr/bin/psql -X -U shop -d postgres
"""
_LINES = """
echo '2026-05-01 10:00:00 ERROR request response_time=7'
echo '{"level":"info","response_time": 9}'
printf 'half a line, '
echo 'something else' >&2
sleep 0.2
echo 'and the pool is empty'
busybox head -c 40000 /dev/zero | busybox tr '\\0' x; echo ' the end of a long line'
sleep 1000
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[LiveEngine]:
    """An engine with a database that has a session idle in a transaction, and containers that write logs."""
    programs = postgres.binaries()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed here")
    with live_engine() as live:
        labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "db"}
        create = {"labels": labels, "environment": {"POSTGRES_USER": "shop", "POSTGRES_PASSWORD": "hunter2"}}
        live.run("shop-db-1", _SERVE.replace("{programs}", str(programs)), binds=_BINDS, create=create)
        execution = live.client.exec_create("shop-db-1", ["sh", "-c", _STUCK])
        live.client.exec_start(execution["Id"], detach=True)
        live.run("web", _LINES, create={"labels": {"com.docker.compose.service": "web"}})
        live.run("local", _LINES, log_config={"Type": "local"})
        eventually(lambda: is_stuck(live), within_s=30, what="a session is idle in its transaction")
        eventually(lambda: b"long line" in live.client.logs("local"), within_s=10, what="lines are written")
        yield live


def is_stuck(live: LiveEngine) -> bool:
    """The server is up, with the session."""
    return bool(rehearse(live, check.ACTION).result["idle_in_transaction"] == 1)


def rehearse(live: LiveEngine, action: Action, **given: Any) -> Plan:
    """What the action finds."""
    return rehearsal(live, action, **given).plan()


def rehearsal(live: LiveEngine, action: Action, **given: Any) -> Rehearsal:
    """The action, on this engine's host."""
    named = {"service": "db"} if action.spec.needs else {}
    return Rehearsal(action, {**named, **given}, Tools(roots=Roots(docker_socket=live.socket)))


def test_a_server_in_a_container_is_asked_through_the_engine(engine: LiveEngine) -> None:
    """As the role that its image made the superuser, found by its Compose service."""
    found = rehearse(engine, check.ACTION)

    assert found.summary.startswith("container shop-db-1: up, primary, ")
    assert found.result["idle_in_transaction"] == 1


def test_a_session_in_a_container_is_ended(engine: LiveEngine) -> None:
    """By plan, and looked at after."""
    applied = rehearsal(engine, terminate.ACTION, older_than=0).apply()

    assert [(done.change.data["state"], done.kept["how"]) for done in applied.done] == [
        ("idle in transaction", "it was ended")
    ]
    assert applied.verified.is_good


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ("nobody", "no running container or Compose service 'nobody'; running: "),
        ("web", "container web: no psql in there"),
    ],
)
def test_a_container_without_a_server_is_told(engine: LiveEngine, service: str, message: str) -> None:
    """Unsupported, with what is there."""
    with pytest.raises(ActionError, match=message) as refused:
        rehearse(engine, activity.ACTION, service=service)

    assert refused.value.reason == "unsupported"


@pytest.mark.parametrize(
    ("container", "is_file_seen", "longest"),
    [("web", True, r"Z x{40000} the end of a long line$"), ("web", False, "x the end"), ("local", True, "x the end")],
)
def test_logs_of_containers_are_read_whatever_their_driver(
    engine: LiveEngine, container: str, is_file_seen: bool, longest: str
) -> None:
    """From Docker's file, or through the engine; lines written in halves are whole again."""
    root = engine_root(engine) if is_file_seen else Path("/nowhere")
    tools = Tools(roots=Roots(root=root, docker_socket=engine.socket))

    def found(action: Action, **given: Any) -> dict[str, Any]:
        return dict(Rehearsal(action, {"containers": [container], **given}, tools).plan().result)

    assert [row["line"].partition("Z ")[2] for row in found(search.ACTION, text="half a line")["rows"]] == [
        "half a line, and the pool is empty"
    ]
    assert found(search.ACTION, regex=longest)["matches"] == 1
    times, counted = found(response_times.ACTION), found(errors.ACTION)
    assert (times["count"], times["average"]) == (2, 8)
    assert (counted["total"], counted["without_time"]) == (1, 0)
    assert [row["source"] for row in counted["rows"]] == [f"container {container}"]


def engine_root(live: LiveEngine) -> Path:
    """The engine's own view of the file system, where its files are."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            argv = (process / "cmdline").read_bytes().split(b"\0")
            if argv[0] == b"dockerd" and f"unix://{live.socket}".encode() in argv:
                return process / "root"
    raise AssertionError("the engine's process is not there")
