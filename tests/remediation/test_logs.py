"""Actions on logs against real files: plain, compressed, rotated, damaged, none."""

import bz2
import gzip
import lzma
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from fireline_agent.remediation.action import Action, ActionError, Plan, Tools
from fireline_agent.remediation.logs import errors, response_times, search
from tests.remediation.rehearsal import Rehearsal


def plan(action: Action, *paths: Path | str, **given: Any) -> Plan:
    """What the action finds in these logs."""
    return Rehearsal(action, {"paths": [str(path) for path in paths], **given}).plan()


def test_errors_are_counted_by_hour_over_rotated_and_compressed_parts(tmp_path: Path) -> None:
    """The user's own count was by the minute; all parts of a log count under its name, other logs apart."""
    (tmp_path / "api.log").write_bytes(b"2026-05-01 10:00:01 ERROR a\n2026-05-01 10:59:59 ERROR b ERROR\n2026 INFO\n")
    (tmp_path / "api.log.1").write_bytes(b"2026-05-01 09:00:01 ERROR a\n")
    (tmp_path / "api.log.2.gz").write_bytes(gzip.compress(b"2026-05-01 08:00:01 ERROR a\n"))
    (tmp_path / "api.log-20260430.bz2").write_bytes(bz2.compress(b"2026-05-01 08:00:01 ERROR a\n"))
    (tmp_path / "api.log.3.xz").write_bytes(lzma.compress(b"no time, ERROR\n"))
    (tmp_path / "web.log").write_bytes(b"2026-05-01 10:00:01 ERROR a\n")

    found = plan(errors.ACTION, tmp_path / "*.log")

    api, web = str(tmp_path / "api.log"), str(tmp_path / "web.log")
    assert {(row["hour"], row["source"]): row["count"] for row in found.result["rows"]} == {
        ("2026-05-01T10", api): 2,
        ("2026-05-01T09", api): 1,
        ("2026-05-01T08", api): 2,
        ("", api): 1,
        ("2026-05-01T10", web): 1,
    }
    assert (found.result["worst_hour"], found.result["worst_count"]) == ("2026-05-01T10", 3)
    assert (found.result["total"], found.result["without_time"]) == (7, 1)
    assert found.result["is_complete"] is True


def test_what_was_rotated_can_be_left_out(tmp_path: Path) -> None:
    """Also what was not written to lately."""
    (tmp_path / "api.log").write_bytes(b"ERROR\n")
    (tmp_path / "api.log.1").write_bytes(b"ERROR\n")
    (tmp_path / "old.log").write_bytes(b"ERROR\n")
    os.utime(tmp_path / "old.log", (time.time() - 7200,) * 2)

    assert plan(errors.ACTION, tmp_path / "api.log", rotated=False).result["total"] == 1
    assert plan(errors.ACTION, tmp_path / "*.log", written_within=3600).result["total"] == 2


def test_several_words_in_any_case(tmp_path: Path) -> None:
    """A line counts once, however many of the words it holds."""
    (tmp_path / "a").write_bytes(b"error and FATAL\nFatal\nfine\n")

    assert plan(errors.ACTION, tmp_path / "a", words=["ERROR", "fatal"], ignore_case=True).result["total"] == 2


def test_response_times_by_nearest_rank(tmp_path: Path) -> None:
    """Average and percentiles of what are numbers; the rest is counted and said."""
    lines = [f"2026-05-01 10:00:00 response_time {value}\n" for value in [*range(1, 101), "-"]]
    (tmp_path / "api.log").write_text("".join(lines))

    found = plan(response_times.ACTION, tmp_path / "api.log", value="last")

    assert {name: found.result[name] for name in ("count", "not_numeric", "average", "p50", "p95", "p99")} == {
        "count": 100,
        "not_numeric": 1,
        "average": 50.5,
        "p50": 50,
        "p95": 95,
        "p99": 99,
    }
    assert found.warnings == ("1 values of response_time are no numbers and were left out",)


@pytest.mark.parametrize(("content", "p99"), [(b"", None), (b"nothing\n", None), (b"response_time=7", 7)])
def test_no_value_and_one_value(tmp_path: Path, content: bytes, p99: float | None) -> None:
    """The user's own script divides by zero, and takes the value before the first."""
    (tmp_path / "api.log").write_bytes(content)

    assert plan(response_times.ACTION, tmp_path / "api.log").result["p99"] == p99


def test_search_tells_the_newest_with_their_context(tmp_path: Path) -> None:
    """All are counted, the newest are told in their order, with the lines around them, across the parts' order."""
    (tmp_path / "api.log.1").write_bytes(b"".join(b"old %d pool\n" % n for n in range(50)))
    os.utime(tmp_path / "api.log.1", (1, 1))
    (tmp_path / "api.log").write_bytes(b"first\nthe pool is empty\nlast\n")

    found = plan(search.ACTION, tmp_path / "api.log", text="pool", context=1, most=2)

    assert found.result["matches"] == 51
    assert [row["line"] for row in found.result["rows"]] == ["old 49 pool", "the pool is empty"]
    assert (found.result["rows"][1]["before"], found.result["rows"][1]["after"]) == (["first"], ["last"])
    assert found.result["rows"][1]["offset"] == 6


def test_context_reaches_over_the_edge_of_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines before and after come from the neighbouring blocks."""
    from fireline_agent.hands import log_files

    monkeypatch.setattr(log_files, "BLOCK_BYTES", 64)
    monkeypatch.setattr(log_files, "_SPARE_BYTES", 64)
    lines = [f"line {n:03} {'HIT' if n % 10 == 0 else ''}" for n in range(100)]
    (tmp_path / "a").write_text("\n".join(lines) + "\n")

    rows = plan(search.ACTION, tmp_path / "a", text="HIT", context=2).result["rows"]

    assert len(rows) == 10
    for number, row in zip(range(0, 100, 10), rows, strict=True):
        assert row["line"] == lines[number]
        assert row["before"] == lines[max(0, number - 2) : number]
        assert row["after"] == lines[number + 1 : number + 3]


def test_search_below_a_folder_by_expression(tmp_path: Path) -> None:
    """As grep -r -E: every file below; one that is no file is passed by."""
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/a.txt").write_bytes(b"connection pool exhausted after 31 s\n")
    (tmp_path / "b").write_bytes(b"connection pool ok\n")
    os.mkfifo(tmp_path / "pipe")

    found = plan(search.ACTION, tmp_path, regex="pool .*after [0-9]+ s$")

    assert found.result["counts"] == [{"source": str(tmp_path / "deep/er/a.txt"), "count": 1}]


def test_secrets_in_lines_are_masked(tmp_path: Path) -> None:
    """Passwords in pairs, URLs and headers; terminals are not written to."""
    (tmp_path / "a").write_bytes(
        b"HIT password=hunter2 user=bob\nHIT postgres://u:hunter2@db/x\nHIT Authorization: Bearer hunter2\n"
        b'HIT {"api_token": "hunter2", "n": 1}\nHIT \x1b[31mred\xff\n'
    )

    rows = plan(search.ACTION, tmp_path / "a", text="HIT").result["rows"]

    assert "hunter2" not in str(rows)
    assert rows[0]["line"] == "HIT password=[masked] user=bob"
    assert rows[4]["line"] == "HIT \\x1b[31mred\\xff"


def test_an_answer_is_bounded(tmp_path: Path) -> None:
    """Long lines are cut, and the oldest rows are left out, so that the answer fits."""
    (tmp_path / "a").write_bytes((b"HIT" + b"x" * 5000 + b"\n") * 2000)

    found = plan(search.ACTION, tmp_path / "a", text="HIT", context=5, most=1000)

    assert found.result["matches"] == 2000
    assert len(str(found.result)) < 900_000


def test_a_damaged_log_keeps_none_of_the_others(tmp_path: Path) -> None:
    """What could be read counts; what is wrong with the other is said."""
    whole = gzip.compress(b"2026-05-01 10:00:00 ERROR\n" * 1000)
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "fine").write_bytes(b"ERROR\n")

    found = plan(errors.ACTION, tmp_path / "cut.gz", tmp_path / "fine")

    assert found.result["is_complete"] is False
    assert {row["source"] for row in found.result["rows"]} >= {str(tmp_path / "fine")}
    assert found.warnings == (f"{tmp_path}/cut.gz: Compressed file ended before the end-of-stream marker was reached",)


def test_what_can_not_be_read_is_told_or_passed_by(tmp_path: Path) -> None:
    """A compression that is not known is named; a file of nothing but holes, as lastlog may be, takes no time."""
    (tmp_path / "a.log.1.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    (tmp_path / "b.log").write_bytes(b"ERROR\n")
    with (tmp_path / "lastlog").open("wb") as hollow:
        hollow.truncate(1 << 40)

    found = plan(errors.ACTION, tmp_path, within=2)

    assert found.result["total"] == 1
    assert found.warnings == (
        f"{tmp_path}/a.log.1.zst: is compressed with zstd, which this agent can't read: search it with zstdgrep(1)",
    )


def test_a_log_that_unfolds_for_ever_is_stopped(tmp_path: Path) -> None:
    """A compressed file of 64 GiB of zeros costs the time that was given and no more memory than another."""
    member = gzip.compress(bytes(64 << 20), compresslevel=9)
    (tmp_path / "bomb.gz").write_bytes(member * 1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()

    found = plan(response_times.ACTION, tmp_path / "bomb.gz", within=1, value="last")

    assert time.monotonic() - started < 3
    assert found.result["is_complete"] is False
    assert found.warnings == (f"stopped in {tmp_path}/bomb.gz after 1 s",)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_the_hosts_policy_bounds_what_is_read(tmp_path: Path) -> None:
    """A folder that is not allowed is refused; a link out of an allowed one is passed by."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "secret").write_bytes(b"HIT\n")
    (tmp_path / "logs/a.log").write_bytes(b"HIT\n")
    (tmp_path / "logs/b.log").symlink_to(tmp_path / "secret")
    tools = Tools(allows_reading=lambda path: os.path.realpath(path).startswith(str(tmp_path / "logs")))

    found = Rehearsal(search.ACTION, {"paths": [str(tmp_path / "logs/*.log")], "text": "HIT"}, tools).plan()
    with pytest.raises(ActionError, match="this host's policy does not allow logs below /etc to be read") as denied:
        Rehearsal(search.ACTION, {"paths": ["/etc/*"], "text": "root"}, tools).plan()

    assert found.result["counts"] == [{"source": str(tmp_path / "logs/a.log"), "count": 1}]
    assert denied.value.reason == "denied"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"paths": []}, "no logs are named: give `paths` or `containers`"),
        ({"paths": ["/nowhere/*.log"]}, r"no log is there: looked for /nowhere/\*.log"),
        ({"text": None}, "give either `text` or `regex`"),
        ({"regex": "x"}, "give either `text` or `regex`"),
        ({"text": None, "regex": "(a"}, "'\\(a' is no regular expression"),
    ],
)
def test_what_can_not_be_searched_is_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    """With what to give instead."""
    (tmp_path / "a").touch()

    with pytest.raises(ActionError, match=message):
        Rehearsal(search.ACTION, {"paths": [str(tmp_path / "a")], "text": "x", **given}).plan()
