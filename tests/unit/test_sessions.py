"""Sessions: binary login records of both layouts, wiped ones, and logind's files beside FIFOs."""

import os
import struct
from pathlib import Path

import pytest

from fireline_agent.capture import sessions
from fireline_agent.capture.collector import Context
from fireline_agent.hands.roots import Roots
from tests.unit.sink import MemorySink

AT = 1_767_225_600  # 2026-01-01T00:00:00Z
NARROW = struct.Struct("<h2xi32s4s32s256shhiii16s20x")
WIDE = struct.Struct("<h2xi32s4s32s256shhqqq16s20x4x")


def login(
    layout: struct.Struct, user: bytes, *, kind: int = 7, host: bytes = b"", address: bytes = b"", at: int = AT
) -> bytes:
    """One record of utmp(5)."""
    return layout.pack(kind, 4242, b"pts/0", b"ts/0", user, host, 0, 0, 9, at, 250_000, address)


def write(root: Path, place: str, content: bytes) -> Path:
    """Put a file into the golden tree."""
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def collect(root: Path) -> MemorySink:
    """Run the collector over the golden tree."""
    sink = MemorySink()
    sessions.collect(Context(roots=Roots(root=root)), sink)
    return sink


@pytest.mark.parametrize("layout", [NARROW, WIDE], ids=["x86", "arm"])
def test_utmp_records_of_both_layouts_are_read(tmp_path: Path, layout: struct.Struct) -> None:
    """The layout is told from the records, and every field comes out."""
    boot = login(layout, b"reboot", kind=2, host=b"6.1.0")
    user = login(layout, b"root", host=b"jump\xff", address=bytes([198, 18, 0, 7]))
    write(tmp_path, "run/utmp", boot + user)

    sink = collect(tmp_path)

    assert [record["kind"] for record in sink.artifacts["sessions/utmp.jsonl"].records()] == ["boot", "user-process"]
    assert sink.artifacts["sessions/utmp.jsonl"].records()[1] == {
        "kind": "user-process",
        "at": "2026-01-01T00:00:00.250000+00:00",
        "user": "root",
        "line": "pts/0",
        "host": "jump\\xff",
        "host_hex": "6a756d70ff",
        "pid": 4242,
        "session": 9,
        "address": "198.18.0.7",
    }
    assert sink.found("root-session-remote")[0].summary == (
        "root is logged in from jump\\xff on pts/0 since 2026-01-01T00:00:00.250000+00:00"
    )


def test_wiped_records_stand_out(tmp_path: Path) -> None:
    """A record of zeros in wtmp is what log wipers leave; a torn last record loses nothing else."""
    write(tmp_path, "var/log/wtmp", login(NARROW, b"eve") + bytes(384) + login(NARROW, b"bob") + b"torn")

    sink = collect(tmp_path)

    assert [record["user"] for record in sink.artifacts["sessions/wtmp.jsonl"].records()] == ["eve", "", "bob"]
    assert sink.artifacts["sessions/wtmp.jsonl"].facts == {
        "file_bytes": 3 * 384 + 4,
        "record_bytes": 384,
        "records": 3,
        "skipped_oldest": 0,
        "torn_bytes": 4,
    }
    assert "1 records of" in sink.found("login-record-wiped")[0].summary


def test_only_the_newest_of_a_huge_btmp_are_kept(tmp_path: Path) -> None:
    """A password attack's millions of records are cut to the newest, and the artifact says how many are left out."""
    count = sessions.MAX_RECORDS + 700
    path = write(tmp_path, "var/log/btmp", b"")
    with path.open("wb") as file:
        for number in range(count):
            file.write(login(NARROW, b"u%d" % number))

    records = collect(tmp_path).artifacts["sessions/btmp.jsonl"]

    assert len(records.records()) == sessions.MAX_RECORDS
    assert records.records()[-1]["user"] == f"u{count - 1}"
    assert records.facts["skipped_oldest"] == 700


def test_garbage_is_told_as_it_is(tmp_path: Path) -> None:
    """Bytes that are no login records come out as unknown kinds and impossible times, never as an error."""
    write(tmp_path, "var/log/wtmp", os.urandom(384 * 5 + 17))
    write(tmp_path, "var/log/lastlog", b"\xff" * 1000)

    sink = collect(tmp_path)

    assert len(sink.artifacts["sessions/wtmp.jsonl"].records()) in (4, 5)
    assert sink.artifacts["sessions/lastlog.jsonl"].records()[0]["at"] == "1969-12-31T23:59:59.000000+00:00"


def test_lastlog_leaps_over_holes(tmp_path: Path) -> None:
    """A uid of four billion makes a sparse file of a terabyte; only the users who logged in are read."""
    path = write(tmp_path, "var/log/lastlog", b"")
    with path.open("wb") as file:
        for uid in (0, 1000, 4_000_000_000):
            file.seek(uid * 292)
            file.write(struct.pack("<i32s256s", AT, b"pts/1", b"198.18.0.9"))

    records = collect(tmp_path).artifacts["sessions/lastlog.jsonl"].records()

    assert records == [
        {"uid": uid, "at": "2026-01-01T00:00:00.000000+00:00", "line": "pts/1", "host": "198.18.0.9"}
        for uid in (0, 1000, 4_000_000_000)
    ]


def test_logind_sessions_are_read_and_fifos_are_not(tmp_path: Path) -> None:
    """The state file is read; opening the FIFO beside it would hang for ever."""
    state = b"# private\nUID=0\nUSER=root\nREMOTE_HOST=198.18.0.9\nLEADER=77\nnonsense\n"
    write(tmp_path, "run/systemd/sessions/c1", state)
    os.mkfifo(tmp_path / "run/systemd/sessions/c1.ref")
    (tmp_path / "run/systemd/sessions/loop").symlink_to("loop")

    sink = collect(tmp_path)

    assert sink.artifacts["sessions/logind-sessions.jsonl"].records() == [
        {"id": "c1", "state": {"UID": "0", "USER": "root", "REMOTE_HOST": "198.18.0.9", "LEADER": "77"}}
    ]


def test_newer_login_databases_are_kept_whole(tmp_path: Path) -> None:
    """Where SQLite took over, the database itself is the evidence."""
    write(tmp_path, "var/lib/wtmpdb/wtmp.db", b"SQLite format 3\0...")

    assert collect(tmp_path).artifacts["sessions/wtmpdb.db"].data == b"SQLite format 3\0..."


def test_a_host_without_any_login_record_yields_nothing(tmp_path: Path) -> None:
    """Containers have no utmp: no artifacts, no error."""
    assert collect(tmp_path).artifacts == {}


def test_unknown_params_are_refused() -> None:
    """A param that the collector does not know is an error that names it."""
    with pytest.raises(ValueError, match="unknown collector parameter 'days'"):
        sessions.collect(Context(params={"days": 3}), MemorySink())
