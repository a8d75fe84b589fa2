"""Backups move to a real other file system: never lost, never half, resumed, and taken back with all that they had."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from fireline_agent.remediation.action import ActionError
from fireline_agent.remediation.disk.move_backups import ACTION
from fireline_agent.remediation.disk.moving import Attributes
from tests.remediation.mounts import alone, tmpfs
from tests.remediation.rehearsal import Rehearsal

_MIB = 1 << 20


def put(path: Path, content: bytes = b"backup") -> Path:
    """A backup of yesterday, with an owner and a mode of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o640)
    os.chown(path, 65534, 65534)
    os.utime(path, (time.time() - 86400,) * 2)
    return path


def moving(folder: Path, **given: object) -> Rehearsal:
    """From `here` to `there`."""
    return Rehearsal(ACTION, {"source": str(folder / "here"), "destination": str(folder / "there"), **given})


def attributes(path: Path) -> tuple[int, ...]:
    """What must be the same on the other side."""
    found = path.stat()
    return found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns


def test_backups_move_and_come_back(tmp_path: Path) -> None:
    """With owner, mode and times, both ways; what does not match stays."""

    def work() -> Any:
        tmpfs(tmp_path / "there", "size=16m")
        path, other = put(tmp_path / "here/a b\n.tar.gz", os.urandom(3 * _MIB)), put(tmp_path / "here/notes.txt")
        content, before = path.read_bytes(), attributes(path)
        run = moving(tmp_path)
        applied = run.apply()
        there = tmp_path / "there" / path.name
        assert applied.verified.is_good, applied.error
        assert (there.read_bytes(), attributes(there), path.exists(), other.exists()) == (content, before, False, True)
        assert [one.name for one in there.parent.iterdir()] == [there.name]
        assert run.undo(applied) == []
        assert (path.read_bytes(), attributes(path), there.exists()) == (content, before, False)
        return "done"

    assert alone(work) == "done"


def test_a_move_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    """A half copy is taken up where it is right and mended where it is not; a whole one is compared only."""

    def work() -> Any:
        tmpfs(tmp_path / "there", "size=16m")
        half, whole = put(tmp_path / "here/half.tgz", os.urandom(4 * _MIB)), put(tmp_path / "here/whole.tgz", b"w" * 99)
        content = half.read_bytes()
        (tmp_path / "there/.half.tgz.fireline-part").write_bytes(content[: 2 * _MIB] + b"wrong")
        (tmp_path / "there/whole.tgz").write_bytes(whole.read_bytes())
        applied = moving(tmp_path).apply()
        assert applied.verified.is_good, applied.error
        assert (tmp_path / "there/half.tgz").read_bytes() == content
        return sorted(path.name for path in tmp_path.rglob("*.*"))

    assert alone(work) == ["half.tgz", "whole.tgz"]


def test_a_file_of_that_name_at_the_destination_is_never_lost(tmp_path: Path) -> None:
    """Another content under the same name stops the move, and both stay."""

    def work() -> Any:
        tmpfs(tmp_path / "there", "size=1m")
        put(tmp_path / "here/a.tgz", b"mine")
        put(tmp_path / "there/a.tgz", b"other")
        applied = moving(tmp_path).apply()
        return [applied.error, (tmp_path / "here/a.tgz").read_text(), (tmp_path / "there/a.tgz").read_text()]

    error, here, there = alone(work)
    assert "something else has the name there" in error
    assert (here, there) == ("mine", "other")


def test_a_destination_that_fills_up_leaves_the_source(tmp_path: Path) -> None:
    """While it is copied somebody else takes the room: nothing half stays, nothing is lost."""

    def work() -> Any:
        tmpfs(tmp_path / "there", "size=4m")
        path = put(tmp_path / "here/a.tgz", os.urandom(3 * _MIB))
        run = moving(tmp_path)
        change = run.plan().changes[0]
        (tmp_path / "there/more").write_bytes(bytes(2 * _MIB))
        assert run.action.do is not None
        with pytest.raises(ActionError, match=r"No space left on device; the source is untouched"):
            run.action.do(run.tools, change, run.params)
        return [path.stat().st_size, sorted(one.name for one in (tmp_path / "there").iterdir())]

    assert alone(work) == [3 * _MIB, ["more"]]


def test_too_little_room_is_told_before(tmp_path: Path) -> None:
    """With what was wanted and found."""

    def work() -> Any:
        tmpfs(tmp_path / "there", "size=1m")
        put(tmp_path / "here/a.tgz", bytes(2 * _MIB))
        with pytest.raises(ActionError, match=r"there: wanted 2\.0 MiB free, found 1\.0 MiB"):
            moving(tmp_path).plan()
        return "refused"

    assert alone(work) == "refused"


def test_the_same_file_system_is_refused_unless_said(tmp_path: Path) -> None:
    """The other disk is not mounted, most likely."""
    put(tmp_path / "here/a.tgz")
    (tmp_path / "there").mkdir()
    with pytest.raises(ActionError, match="is the other disk mounted"):
        moving(tmp_path).plan()

    assert moving(tmp_path, same_filesystem=True).apply().verified.is_good


def test_a_backup_that_is_still_written_stays(tmp_path: Path) -> None:
    """Open in a process, or younger than asked."""
    (tmp_path / "there").mkdir()
    path = put(tmp_path / "here/a.tgz")
    (tmp_path / "here/new.tgz").write_bytes(b"new")
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 5, str(path), 1, 0)])
    try:
        plan = moving(tmp_path, same_filesystem=True).plan()
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)

    assert plan.changes == ()
    assert plan.warnings == (f"a.tgz stays: in use by pid {pid} (sleep)",)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The destination."""
    put(tmp_path / "here/a.tgz")
    with pytest.raises(ActionError, match="there: No such file or directory"):
        moving(tmp_path).plan()


def test_where_owners_are_unknown_a_setuid_program_does_not_become_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On such storage the copy is ours: it keeps the mode without those bits."""

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    with (tmp_path / "copy").open("wb") as file:
        Attributes(0o4755, 65534, 65534, 0, 0).give(file.fileno())

    assert (tmp_path / "copy").stat().st_mode & 0o7777 == 0o755
