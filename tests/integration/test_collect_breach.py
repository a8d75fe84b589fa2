"""Recent files and intruders' processes on the real machine, in folders and with processes of the test's own."""

import hashlib
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from fireline_agent.capture import processes, recent_files
from fireline_agent.capture.collector import Context
from fireline_agent.hands import tree
from fireline_agent.hands.roots import Roots
from tests.integration.test_collect_processes import _in_own_mounts, _mount
from tests.unit.sink import MemorySink

DAY_NS = 86_400 * 10**9


def _recent(root: Path, **params: Any) -> tuple[dict[str, dict[str, Any]], MemorySink]:
    sink = MemorySink()
    recent_files.collect(Context(params=params, roots=Roots(root=root)), sink)
    return {r["path"]: r for r in sink.artifacts["files/recent.jsonl"].records()}, sink


def _age(path: Path, days: int) -> None:
    then = time.time_ns() - days * DAY_NS
    os.utime(path, ns=(then, then))


def test_a_recent_file_is_told_whole(tmp_path: Path) -> None:
    """Type, size, all times, owner, mode and hash; and its access time is as it was."""
    file = tmp_path / "srv/a"
    file.parent.mkdir()
    file.write_bytes(b"hello")
    file.chmod(0o640)
    _age(file, 3)
    before = file.stat()

    records, _ = _recent(tmp_path, roots=["/srv"])

    record = records["/srv/a"]
    assert (record["type"], record["size_bytes"], record["mode"]) == ("file", 5, "0640")
    assert record["sha256"] == hashlib.sha256(b"hello").hexdigest()
    assert record["modified_ns"] == before.st_mtime_ns
    assert record["changed_ns"] == before.st_ctime_ns
    assert record["accessed_ns"] == before.st_atime_ns == file.stat().st_atime_ns
    assert abs(record["born_ns"] - time.time_ns()) < 60 * 10**9
    assert (record["uid"], record["links"], record["inode"]) == (before.st_uid, 1, before.st_ino)


def test_only_what_changed_in_the_window(tmp_path: Path) -> None:
    """A file whose content time was set back shows by the time of its inode; one from before the window does not."""
    (tmp_path / "forged").touch()
    _age(tmp_path / "forged", 400)
    time.sleep(0.3)
    (tmp_path / "new").touch()

    all_of_them, _ = _recent(tmp_path, roots=["/"], window_s=60)
    last, _ = _recent(tmp_path, roots=["/"], window_s=0.2)

    assert set(all_of_them) == {"/forged", "/new"}
    assert set(last) == {"/new"}


def test_names_of_any_bytes_links_and_pipes(tmp_path: Path) -> None:
    """Each is one line with its exact bytes; no link is followed, and a pipe does not hold up the walk."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/passwd")
    name = os.fsencode(tmp_path) + b"/a\n\xff"
    Path(os.fsdecode(name)).write_bytes(b"x")

    records, _ = _recent(tmp_path, roots=["/"])

    assert records["/pipe"]["type"] == "pipe"
    assert (records["/link"]["type"], records["/link"]["target"]) == ("link", "/etc/passwd")
    assert records["/a\n\\xff"]["path_hex"] == b"/a\n\xff".hex()


def test_folders_inside_each_other_are_gone_through_once(tmp_path: Path) -> None:
    """`/a`, `/a/b` and a link to it give each file once."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").touch()
    (tmp_path / "c").symlink_to("a/b")
    sink = MemorySink()

    params = {"roots": ["/a/b", "/a", "/c", "/missing"]}
    recent_files.collect(Context(params=params, roots=Roots(root=tmp_path)), sink)

    paths = [r["path"] for r in sink.artifacts["files/recent.jsonl"].records()]
    assert sorted(paths) in (["/a/b", "/a/b/file"], ["/c/file", "/a/b"])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a mount")
def test_another_file_system_is_left_out_and_named(tmp_path: Path) -> None:
    """What is mounted below is not entered."""
    (tmp_path / "mounted").mkdir()

    def look() -> Any:
        _mount("none", tmp_path / "mounted", "tmpfs")
        (tmp_path / "mounted/x").touch()
        (tmp_path / "y").touch()
        records, sink = _recent(tmp_path, roots=["/"])
        return [sorted(records), sink.artifacts["files/recent.jsonl"].facts["other_file_systems"]]

    assert _in_own_mounts(look) == [["/y"], [f"{tmp_path}/mounted"]]


def test_a_tree_that_is_too_deep_is_left_out_there(tmp_path: Path) -> None:
    """Hundreds of folders inside each other cost no descriptors without end, and what was left out is named."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(tree.MAX_DEPTH + 5):
        os.mkdir("d", dir_fd=here)
        there = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)

    records, sink = _recent(tmp_path, roots=["/"])

    assert len(records) == tree.MAX_DEPTH
    assert "it lies more than 200 folders deep" in sink.artifacts["files/recent.jsonl"].facts["unreadable"][0]


def test_findings_of_recent_files(tmp_path: Path) -> None:
    """A setuid program, a program in /tmp, a web shell and a new cron job stand out by their paths on the host."""
    for path, content, mode in (
        ("usr/bin/x", b"\x7fELF", 0o4755),
        ("tmp/.hid/run", b"\x7fELF", 0o600),
        ("var/www/html/a.php", b"<?php", 0o644),
        ("etc/cron.d/x", b"", 0o644),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
        (tmp_path / path).chmod(mode)

    _, sink = _recent(tmp_path)

    assert {(f.code, f.subject) for f in sink.findings} == {
        ("recent-setuid-file", "/usr/bin/x"),
        ("recent-system-program", "/usr/bin/x"),
        ("recent-program-in-temporary-folder", "/tmp/.hid/run"),
        ("recent-script-in-web-root", "/var/www/html/a.php"),
        ("recent-startup-file", "/etc/cron.d/x"),
    }


def test_many_findings_of_one_kind_are_bounded(tmp_path: Path) -> None:
    """The fiftieth says that there are more; all are counted."""
    (tmp_path / "etc/cron.d").mkdir(parents=True)
    for number in range(60):
        (tmp_path / f"etc/cron.d/{number}").touch()

    _, sink = _recent(tmp_path, roots=["/etc"])

    assert len(sink.findings) == 50
    assert "files/recent.jsonl only" in sink.findings[-1].summary
    assert sink.artifacts["files/recent.jsonl"].facts["findings"] == {"recent-startup-file": 60}


def test_a_large_file_is_told_without_a_hash(tmp_path: Path) -> None:
    """What is over `hash_bytes` is not read."""
    (tmp_path / "big").write_bytes(b"x" * 2000)

    records, _ = _recent(tmp_path, roots=["/"], hash_bytes=1999)

    assert (records["/big"]["sha256"], records["/big"]["lacks"]) == (None, "over 1999 bytes, not hashed")


@pytest.mark.parametrize("roots", [[], ["relative"], "x", ["/a\0"], [7]])
def test_roots_that_are_no_folders_are_refused(tmp_path: Path, roots: object) -> None:
    """The message names the parameter."""
    with pytest.raises(ValueError, match="'roots': wanted 1 to 100 absolute paths"):
        _recent(tmp_path, roots=roots)


def test_a_shell_on_a_connection_stands_out() -> None:
    """A real shell whose input and output are a TCP connection is critical, whatever it calls itself."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as end:
        accepted, _ = server.accept()
        with (
            accepted,
            subprocess.Popen(["harmless"], executable="/bin/sh", stdin=end.fileno(), stdout=end.fileno()) as shell,
        ):
            sink = MemorySink()
            processes.collect(Context(), sink)
            shell.kill()
            peer = accepted.getsockname()

    [finding] = [f for f in sink.found("shell-on-socket") if f"pid {shell.pid} " in f.subject]
    assert finding.severity == "critical"
    assert f"127.0.0.1:{peer[1]}" in finding.summary
