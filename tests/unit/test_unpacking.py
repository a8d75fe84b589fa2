"""What a hostile archive of a backup may not do; unpacking is done by root."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fireline_agent.hands import unpacking

Add = Callable[[tarfile.TarFile], None]


def _folder(archive: tarfile.TarFile, name: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(member)


def _link(archive: tarfile.TarFile, name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.uid, member.mode = kind, target, 61_234, 0o777
    archive.addfile(member)


def _file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _file_over_a_link(archive: tarfile.TarFile) -> None:
    _link(archive, "file", "a/b/top/../victim")
    _file(archive, "file", b"evil")


def _folder_over_a_link(archive: tarfile.TarFile) -> None:
    _link(archive, "folder", "a/b/top/..")
    _folder(archive, "folder")


def _hard_link_through_a_link(archive: tarfile.TarFile) -> None:
    _link(archive, "out", "a/b/top/..")
    _link(archive, "file", "out/victim", tarfile.LNKTYPE)


def _hard_link_to_a_link(archive: tarfile.TarFile) -> None:
    _link(archive, "out", "a/b/top/../victim")
    _link(archive, "file", "out", tarfile.LNKTYPE)


def _hard_link_up_behind_a_link(archive: tarfile.TarFile) -> None:
    _link(archive, "file", "a/b/top/../victim", tarfile.LNKTYPE)


@pytest.mark.parametrize(
    ("add", "words"),
    [
        (_file_over_a_link, "'file' lies behind a link, or in the place of one"),
        (_folder_over_a_link, "'folder' lies behind a link, or in the place of one"),
        (_hard_link_through_a_link, "the hard link 'file' goes through a symbolic one"),
        (_hard_link_to_a_link, "the hard link 'file' goes through a symbolic one"),
        (_hard_link_up_behind_a_link, "the hard link 'file' goes through a symbolic one"),
    ],
)
def test_nothing_outside_is_touched_through_a_link_that_seems_to_stay_inside(
    tmp_path: Path, add: Add, words: str
) -> None:
    """`a/b/top/..` looks like a folder of the archive, and is the folder above it: `a/b/top` is a link to the root."""
    victim = tmp_path / "victim"
    victim.write_text("good")
    before = victim.stat()
    with tarfile.open(tmp_path / "backup.tar", "w") as archive:
        _folder(archive, "a")
        _folder(archive, "a/b")
        _link(archive, "a/b/top", "../..")
        add(archive)

    with pytest.raises(unpacking.BadArchive, match=words):
        unpacking.unpack(str(tmp_path / "backup.tar"), tmp_path / "fresh", wanted_sha256="0" * 64)

    after = victim.stat()
    assert victim.read_text() == "good"
    assert (after.st_uid, after.st_mode, after.st_nlink) == (before.st_uid, before.st_mode, 1)
    assert not (tmp_path / "fresh").exists()
