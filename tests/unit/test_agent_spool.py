"""The spool stays within its limits and forgets what nobody fetched."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fireline_agent.capture.order import Order
from fireline_agent.capture.spool import Piece, Spool, read_piece
from fireline_agent.errors import RefusedError
from tests.integration.agent.captures import collector, order
from tests.remediation.mounts import alone, fill, tmpfs


def _order(request_id: str) -> Order:
    return order(collector("well"), request_id=request_id)


def _spool(folder: Path, *, limit_bytes: int = 1 << 30, reserve_bytes: int = 0, aside_bytes: int = 0) -> Spool:
    return Spool(folder / "spool", limit_bytes=limit_bytes, reserve_bytes=reserve_bytes, aside_bytes=aside_bytes)


def test_an_order_survives_its_way_to_the_disk(tmp_path: Path) -> None:
    """Worker, sealer and a restarted agent read what was ordered."""
    spool = _spool(tmp_path)
    spool.create(_order("r1"))

    ((_, found),) = spool.unsealed()

    assert found == _order("r1")


def test_the_room_is_what_limit_and_reserve_leave(tmp_path: Path) -> None:
    """Bytes that captures hold count against the limit; free space is left alone."""
    spool = _spool(tmp_path, limit_bytes=5 << 20)
    folder = spool.create(_order("r1"))
    (folder.files / "000-00000").write_bytes(b"x" * (3 << 20))

    assert (1 << 20) < spool.room_bytes() < (2 << 20)
    assert _spool(tmp_path, reserve_bytes=1 << 60).room_bytes() == 0
    with pytest.raises(RefusedError, match="nothing can be collected; forget old captures or free space") as error:
        spool.require_room(100)
    assert error.value.reason == "disk_full"


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_has_room_for_one_more_capture_and_again_after_it(tmp_path: Path) -> None:
    """Not one byte is free: what was set aside is given up, and held again once the capture is fetched."""

    def on_full_disk() -> object:
        disk = tmpfs(tmp_path / "disk", "size=64m")
        spool = _spool(disk, reserve_bytes=16 << 20, aside_bytes=16 << 20)
        fill(disk)
        seen = []
        for request_id in ("r1", "r2"):
            room = spool.room_bytes()
            folder = spool.create(replace(_order(request_id), budget_bytes=room))
            (folder.files / "000-00000").write_bytes(bytes(room))
            seen.append((room, spool.room_bytes(), spool.forget(request_id), spool.free_bytes()))
        return seen

    first, second = alone(on_full_disk)

    assert first == second == [14 << 20, first[1], True, 0]
    assert first[1] < 2 << 20


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_bytes_are_set_aside_only_where_others_have_plenty(tmp_path: Path) -> None:
    """Above the reserve, and at once when there is room for it; the setting of today counts."""

    def on_small_disk() -> object:
        disk = tmpfs(tmp_path / "disk", "size=64m")
        aside = disk / "spool.aside"
        _spool(disk, reserve_bytes=60 << 20, aside_bytes=16 << 20)
        seen: list[object] = [aside.exists()]
        spool = _spool(disk, reserve_bytes=16 << 20, aside_bytes=16 << 20)
        seen += [aside.stat().st_size, spool.room_bytes()]
        _spool(disk, reserve_bytes=16 << 20, aside_bytes=0)
        return [*seen, aside.exists()]

    assert alone(on_small_disk) == [False, 16 << 20, 32 << 20, False]


def test_sealed_captures_expire_and_unsealed_ones_never(tmp_path: Path) -> None:
    """Only what could have been fetched is deleted."""
    spool = _spool(tmp_path)
    sealed, unsealed = spool.create(_order("r1")), spool.create(_order("r2"))
    sealed.sealed.write_text("{}")
    old = time.time() - 100
    os.utime(sealed.sealed, (old, old))

    assert spool.expire(older_than_s=200) == []
    assert spool.expire(older_than_s=50) == [sealed.path.name]
    assert (spool.find("r1"), spool.find("r2")) == (None, unsealed)


def test_half_made_and_half_deleted_captures_are_swept(tmp_path: Path) -> None:
    """A crash between two steps leaves a name with a dot, and nothing else looks at those."""
    spool = _spool(tmp_path)
    (tmp_path / "spool/.half/files").mkdir(parents=True)

    assert spool.unsealed() == []
    assert list((tmp_path / "spool").iterdir()) == []


def test_forgetting_twice_is_no_error(tmp_path: Path) -> None:
    """The second time there is nothing to delete."""
    spool = _spool(tmp_path)
    spool.create(_order("r1"))

    assert spool.forget("r1")
    assert not spool.forget("r1")


def test_a_file_that_shrank_is_an_error_and_no_short_chunk(tmp_path: Path) -> None:
    """A reader must not take the rest of a cut file for the whole."""
    (tmp_path / "file").write_bytes(b"x" * 10)

    with pytest.raises(OSError, match="ends 5 bytes before the end that was sealed"):
        list(read_piece(Piece(tmp_path / "file", 0, 15)))
