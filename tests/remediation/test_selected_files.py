"""The collector keeps exactly what the clean-up with the same parameters would remove."""

import hashlib
import io
import os
import tarfile
import time
from pathlib import Path

import pytest

from fireline_agent.capture import selected_files
from fireline_agent.capture.collector import Context
from fireline_agent.capture.packing import fair_share
from fireline_agent.remediation.disk import clean_logs
from tests.remediation.rehearsal import Rehearsal
from tests.unit.sink import MemorySink

_MIB = 1 << 20


def put(path: Path, content: bytes, days: float = 30) -> Path:
    """A file that was last written so many days ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - days * 86400,) * 2)
    return path


def collected(**params: object) -> MemorySink:
    """What the collector wrote."""
    return collected_within(1 << 40, 1 << 30, **params)


def collected_within(output_bytes: int, limit_bytes: int, **params: object) -> MemorySink:
    """What it wrote where it was told a limit of its output, and there is another one to each artifact."""
    sink = MemorySink(limit_bytes)
    selected_files.collect(Context(params, output_bytes=output_bytes), sink)
    return sink


def members(sink: MemorySink) -> dict[str, bytes]:
    """The archive's files by name."""
    raw = io.BytesIO(bytes(sink.artifacts["files/selected.tar"].data))
    with tarfile.open(fileobj=raw, errors="surrogateescape") as archive:
        return {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]  # files only


def test_what_would_be_removed_is_kept(tmp_path: Path) -> None:
    """Content, hash, owner, mode and times; strange names too; what stays is not in it."""
    path = put(tmp_path / os.fsdecode(b"a/x\n\xff.log"), b"evidence\n" * 100)
    put(tmp_path / "a/new.log", b"new", days=0)
    put(tmp_path / "a/data", b"data")
    sink = collected(roots=[str(tmp_path)])
    [record] = [r for r in sink.artifacts["files/selected.jsonl"].records() if "left_alone" not in r]
    plan = Rehearsal(clean_logs.ACTION, {"roots": [str(tmp_path)]}).plan()

    assert members(sink) == {str(path)[1:]: path.read_bytes()}
    assert bytes.fromhex(record["path_hex"]) == os.fsencode(path)
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (record["inode"], record["mtime_ns"]) == (path.stat().st_ino, path.stat().st_mtime_ns)
    assert plan.result["files"] == 1


def test_of_a_huge_file_both_ends_and_the_hash_are_kept(tmp_path: Path) -> None:
    """The hash is of all of it."""
    content = b"first" + bytes(3 * _MIB) + b"last"
    path = put(tmp_path / "huge.log", content)
    sink = collected(roots=[str(tmp_path)], whole_bytes=2 * _MIB)
    [record] = sink.artifacts["files/selected.jsonl"].records()

    assert members(sink) == {
        f"{str(path)[1:]}.first-{_MIB}": content[:_MIB],
        f"{str(path)[1:]}.last-{_MIB}": content[-_MIB:],
    }
    assert record["sha256"] == hashlib.sha256(content).hexdigest()


def test_what_does_not_fit_is_kept_in_fair_parts(tmp_path: Path) -> None:
    """Small files whole, of large ones as much as is left, both ends; the list is whole, and it is said plainly."""
    small = put(tmp_path / "small.log", b"s" * 1000)
    large = [put(tmp_path / f"large-{n}.log", b"a" * _MIB + b"z" * _MIB) for n in range(3)]
    sink = collected_within(_MIB, 1 << 30, roots=[str(tmp_path)])
    kept = members(sink)
    size = sum(len(artifact.data) for artifact in sink.artifacts.values())

    assert kept.pop(str(small)[1:]) == b"s" * 1000
    assert len(kept) == 6
    assert max(map(len, kept.values())) - min(map(len, kept.values())) <= 1
    assert all(set(content) == {ord("a" if ".first-" in name else "z")} for name, content in kept.items())
    assert 0.95 * _MIB < size <= _MIB
    assert [r["sha256"] for r in sink.artifacts["files/selected.jsonl"].records() if r["size_bytes"] > 1000] == [
        hashlib.sha256(large[0].read_bytes()).hexdigest()
    ] * 3
    assert sink.artifacts["files/selected.tar"].facts == {"whole": 1, "in_part": 3, "left_out": 0}
    [finding] = sink.found("content-kept-in-part")
    assert finding.severity == "notice"
    assert finding.summary.startswith("content of 3 files kept in part, of 0 not at all, of 1 whole; the hash of every")


def test_a_disk_that_fills_meanwhile_costs_content_and_no_more(tmp_path: Path) -> None:
    """The list stays whole, the collector does not fail, and says what happened."""
    put(tmp_path / "large.log", bytes(2 * _MIB))
    sink = collected_within(1 << 40, _MIB, roots=[str(tmp_path)])

    assert len(sink.artifacts["files/selected.jsonl"].records()) == 1
    [finding] = sink.found("content-kept-in-part")
    assert finding.summary.startswith("content kept only as far as there was space: ")


@pytest.mark.parametrize(
    ("wanted", "room", "share"),
    [([], 10, 0), ([1, 2, 3], 6, 3), ([1, 2, 3], 100, 3), ([1, 10, 10], 9, 4), ([5, 5], 3, 1), ([5, 5], -1, 0)],
)
def test_what_one_does_not_need_the_others_share(wanted: list[int], room: int, share: int) -> None:
    """Nobody has more than the share, and all together no more than the room."""
    assert fair_share(wanted, room) == share
    assert sum(min(want, share) for want in wanted) <= max(0, room)


def test_temporary_files_may_be_kept_by_name_and_hash_alone(tmp_path: Path) -> None:
    """By the rules of disk.clean_temp."""
    put(tmp_path / "old", b"x")
    os.mkfifo(tmp_path / "pipe")
    sink = collected(roots=[str(tmp_path)], kind="temp", time="mtime", older_than=0, content=False)
    records = sink.artifacts["files/selected.jsonl"].records()

    assert set(sink.artifacts) == {"files/selected.jsonl"}
    assert [r.get("sha256") or r.get("left_alone") for r in records] == [
        hashlib.sha256(b"x").hexdigest(), "a socket, pipe or device",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({}, "'roots': wanted absolute paths"),
        ({"roots": ["var"]}, "'roots': wanted absolute paths"),
        ({"roots": ["/var"], "kind": "all"}, "'kind': wanted logs or temp, found 'all'"),
        ({"roots": ["/var"], "patterns": "*"}, "'patterns': wanted a list of texts"),
        ({"roots": ["/var"], "older_than": -1}, "'older_than': wanted a number above 0"),
        ({"roots": ["/var"], "old": 1}, "unknown collector parameter 'old'"),
    ],
)
def test_parameters_are_checked(params: dict[str, object], why: str) -> None:
    """Before anything is read."""
    with pytest.raises(ValueError, match=why):
        collected(**params)
