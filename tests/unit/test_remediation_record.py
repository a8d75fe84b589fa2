"""The record of an application: what a crash leaves of it, and what is told from that."""

import os
from pathlib import Path

import pytest

from fireline_agent.remediation.action import Change, Plan
from fireline_agent.remediation.order import APPLY, Order
from fireline_agent.remediation.record import RecordFile, Written, close_cut_short
from fireline_agent.remediation.records import Records, closed
from fireline_wire.v1 import remediation_pb2

ORDER = Order("r-1", APPLY, "disk.clean_logs", {"roots": ["/x"]}, is_undoable=True)
CHANGES = tuple(Change("file", f"file {n}", f"remove {n}", {"n": n, "name": "\udcff"}) for n in range(3))


def _begun(tmp_path: Path) -> tuple[Records, Path, RecordFile]:
    records = Records(tmp_path / "remediations")
    folder = records.create(ORDER)
    record = RecordFile(folder)
    record.planned(Plan("3 files", CHANGES))
    record.starting(0, CHANGES[0])
    record.done(0, {"was": 1})
    record.starting(1, CHANGES[1])
    return records, folder, record


def test_what_is_done_and_what_is_in_doubt_are_told_apart(tmp_path: Path) -> None:
    """Done with what its undo needs, begun and not ended, and failed, which is neither."""
    records, folder, record = _begun(tmp_path)
    record.failed(1, "no")
    record.starting(2, CHANGES[2])

    assert list(records.unfinished()) == [folder]
    written = Written.read(folder)
    assert (written.count, written.order) == (3, ORDER)
    assert {index: (one.change, one.kept) for index, one in written.done.items()} == {0: (CHANGES[0], {"was": 1})}
    assert written.in_doubt == ["file 2"]


def test_a_torn_line_is_dropped_and_the_end_follows_the_last_whole_one(tmp_path: Path) -> None:
    """A crash in the middle of a line costs that line only."""
    records, folder, record = _begun(tmp_path)
    os.write(record._descriptor, b'{"event":"done","ind')

    end = close_cut_short(folder, "interrupted", "cut short")

    assert (end["status"], end["changes_done"], end["change_count"]) == ("interrupted", 1, 3)
    assert (end["in_doubt"], end["can_undo"]) == (["file 1"], True)
    assert Written.read(folder).ending == end
    assert list(records.unfinished()) == []


def test_an_end_is_written_once(tmp_path: Path) -> None:
    """Whoever closes it second gets the first end."""
    _, folder, _ = _begun(tmp_path)

    first = close_cut_short(folder, "interrupted", "first")

    assert close_cut_short(folder, "cancelled", "second") == first


def test_what_was_taken_back_is_not_done_any_more(tmp_path: Path) -> None:
    """So that a second undo does not take it back twice."""
    _, folder, record = _begun(tmp_path)
    record.undone(0, "it is back")

    written = Written.read(folder)

    assert (written.done, written.undone) == ({}, 1)


def test_lines_wait_while_the_disk_is_full(tmp_path: Path) -> None:
    """The work goes on, and what waited stands before what comes after there is room."""
    _, folder, record = _begun(tmp_path)
    real, full = record._descriptor, os.open("/dev/full", os.O_WRONLY)
    record._descriptor = full
    record.done(1, {})
    record.starting(2, CHANGES[2])
    record._descriptor = real
    os.close(full)

    record.done(2, {})

    assert sorted(Written.read(folder).done) == [0, 1, 2]


def test_another_fault_of_the_disk_is_no_full_disk(tmp_path: Path) -> None:
    """It ends the work: nothing may be done off the record."""
    _, _, record = _begun(tmp_path)
    record._descriptor = os.open(tmp_path, os.O_RDONLY)

    with pytest.raises(OSError, match="Bad file descriptor"):
        record.done(1, {})


def test_a_folder_without_an_order_was_never_begun(tmp_path: Path) -> None:
    """It is removed, and nothing is told of it."""
    records = Records(tmp_path / "remediations")
    (records.folder / "ab").mkdir()

    assert list(records.unfinished()) == []
    assert not (records.folder / "ab").exists()


def test_old_records_expire_and_young_ones_stay(tmp_path: Path) -> None:
    """By their last change."""
    records, folder, _ = _begun(tmp_path)

    assert records.expire(older_than_s=60) == 0
    os.utime(folder / "record", (1, 1))
    os.utime(folder, (1, 1))

    assert records.expire(older_than_s=60) == 1
    assert records.find("r-1") is None


def test_a_record_that_is_broken_ends_all_the_same(tmp_path: Path) -> None:
    """Nothing that waits for the end goes down with it; the end names the record and what is not known."""
    _, folder, _ = _begun(tmp_path)
    (folder / "order.json").write_bytes(b"{")

    end = closed(folder, "failed", "it was killed")

    assert end["status"] == "failed"
    assert f"it was killed; its record {folder} can't be read or written" in end["detail"]
    assert end["in_doubt"]


def test_what_is_in_doubt_can_be_told_whatever_its_name(tmp_path: Path) -> None:
    """A file's name that is no UTF-8 has no place in a message: it is shown."""
    records = Records(tmp_path / "remediations")
    folder = records.create(ORDER)
    RecordFile(folder).starting(0, Change("file", "bad \udcff\x1b", "remove it"))

    [subject] = close_cut_short(folder, "interrupted", "cut short")["in_doubt"]

    assert subject == "bad \\xdcff\\x1b"
    assert remediation_pb2.ActionEnded(in_doubt=[subject]).in_doubt == [subject]
