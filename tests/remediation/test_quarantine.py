"""security.quarantine_file on real files: moved with all that is theirs, put back, and no trap is followed."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fireline_agent.hands.roots import Roots
from fireline_agent.remediation.action import ActionError, Tools
from fireline_agent.remediation.security.quarantine_file import ACTION, plan
from tests.remediation.rehearsal import Rehearsal

FACTS = {
    "kind": "file", "is_allowed": True, "dev": 1, "ino": 2, "size": 3, "mtime_ns": 4, "links": 1, "sha256": "ab",
    "runs": [],
}  # fmt: skip


def _rehearsal(tmp_path: Path, path: Path, **given: str) -> Rehearsal:
    tools = Tools(roots=Roots(state=tmp_path / "state"), request_id="r-1")
    return Rehearsal(ACTION, {"path": str(path), **given}, tools)


def _file(tmp_path: Path) -> Path:
    path = tmp_path / "srv" / "bad\n\udcff"
    path.parent.mkdir()
    path.write_bytes(b"evil")
    os.setxattr(path, "user.mark", b"\x00\xff")
    path.chmod(0o4751)
    os.chown(path, 12, 34)
    path.chmod(0o4751)
    os.utime(path, ns=(1_000_000_007, 2_000_000_009))
    return path


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _traits(path: Path) -> tuple[object, ...]:
    found = path.stat()
    marks = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, path.read_bytes(), marks


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    """Whatever bytes its name holds: owner, mode with setuid, time, attributes and content are as before."""
    path = _file(tmp_path)
    before = _traits(path)
    rehearsal = _rehearsal(tmp_path, path)

    applied = rehearsal.apply()

    assert applied.verified.is_good, applied.verified.sentence
    assert not path.exists()
    assert (tmp_path / "state/quarantine").stat().st_mode & 0o777 == 0o700
    assert rehearsal.undo(applied) == []
    assert _traits(path) == before
    assert _names(tmp_path / "state/quarantine") == []


def test_a_file_of_another_file_system_comes_back_as_it_was(tmp_path: Path) -> None:
    """It is copied there and back, its hash compared, with owner, mode, time and attributes."""
    other = Path("/dev/shm") / f"fireline-test-{os.getpid()}"
    if other.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.fail("wanted /dev/shm on a file system of its own")
    other.mkdir()
    try:
        path = other / "bad"
        path.write_bytes(b"evil" * 500_000)
        os.chown(path, 12, 34)
        path.chmod(0o4751)
        os.utime(path, ns=(1_000_000_007, 2_000_000_009))
        before = _traits(path)
        rehearsal = _rehearsal(tmp_path, path)
        applied = rehearsal.apply()
        assert applied.verified.is_good, applied.verified.sentence
        assert _names(other) == []
        assert rehearsal.undo(applied) == []
        assert _traits(path) == before
        assert _names(other) == ["bad"]
    finally:
        for left in other.iterdir():
            left.unlink()
        other.rmdir()


def test_what_stands_at_the_path_now_is_never_overwritten(tmp_path: Path) -> None:
    """The undo says so, and both files stay."""
    path = _file(tmp_path)
    rehearsal = _rehearsal(tmp_path, path)
    applied = rehearsal.apply()
    path.write_bytes(b"new")

    (left,) = rehearsal.undo(applied)

    assert "something stands there now" in left
    assert path.read_bytes() == b"new"
    assert len(_names(tmp_path / "state/quarantine")) == 1


def test_what_was_tampered_with_in_quarantine_is_not_put_back(tmp_path: Path) -> None:
    """The hash is looked at again."""
    path = _file(tmp_path)
    rehearsal = _rehearsal(tmp_path, path)
    applied = rehearsal.apply()
    (place,) = (tmp_path / "state/quarantine").iterdir()
    (place / "content").write_bytes(b"worse")

    (left,) = rehearsal.undo(applied)

    assert "not put back" in left
    assert not path.exists()


def _swapped(path: Path) -> None:
    fresh = path.with_name("fresh")
    fresh.write_bytes(b"good")
    fresh.rename(path)


def _written(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"!")


def _linked(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("change", [_swapped, _written, _linked])
def test_another_file_than_the_planned_one_is_left_alone(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Between plan and act it was swapped, written to, or made a link: nothing is moved."""
    path = _file(tmp_path)
    rehearsal = _rehearsal(tmp_path, path)
    planned = rehearsal.plan()
    change(path)

    with pytest.raises(ActionError, match="not the file that was planned"):
        ACTION.do(rehearsal.tools, planned.changes[0], rehearsal.params)  # type: ignore[misc]  # it has one

    assert os.path.lexists(path)
    assert not (tmp_path / "state/quarantine").exists()


def _folder(tmp_path: Path) -> Path:
    return tmp_path


def _pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def _link(tmp_path: Path) -> Path:
    (tmp_path / "link").symlink_to(_file(tmp_path))
    return tmp_path / "link"


def _below_link(tmp_path: Path) -> Path:
    name = _file(tmp_path).name
    (tmp_path / "way").symlink_to(tmp_path / "srv")
    return tmp_path / "way" / name


def _below_file(tmp_path: Path) -> Path:
    return _file(tmp_path) / "x"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (_folder, "wanted a regular file, found a folder"),
        (_pipe, "wanted a regular file, found a pipe"),
        (_link, "wanted a regular file, found a symbolic link"),
        (_below_link, "'way' .* is a symbolic link: name the real path"),
        (_below_file, "is no folder"),
        (lambda tmp_path: tmp_path / "none", "there is no such file"),
    ],
)
def test_what_is_no_plain_file_is_refused(tmp_path: Path, place: Callable[[Path], Path], words: str) -> None:
    """Links, links on the way, folders and pipes: the message says what was found, and nothing hangs."""
    with pytest.raises(ActionError, match=words):
        _rehearsal(tmp_path, place(tmp_path)).plan()


def test_a_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    """The operator said which one is meant."""
    path = _file(tmp_path)

    _rehearsal(tmp_path, path, sha256=hashlib.sha256(b"evil").hexdigest().upper()).plan()
    with pytest.raises(ActionError, match="another file"):
        _rehearsal(tmp_path, path, sha256="00" * 32).plan()


def test_a_plan_warns_of_what_stays() -> None:
    """Other names, and processes that go on running it."""
    facts = {**FACTS, "links": 3, "runs": ["process 7"]}

    warnings = plan(facts, {"path": "/x", "sha256": None}).warnings

    assert warnings == (
        "it has 2 other names on its file system: under those it stays",
        "it is being run and goes on running: process 7",
    )


def test_a_path_that_the_policy_forbids_is_refused() -> None:
    """With the reason by which the controller says denied."""
    with pytest.raises(ActionError) as caught:
        plan({**FACTS, "is_allowed": False}, {"path": "/x", "sha256": None})

    assert caught.value.reason == "denied"
