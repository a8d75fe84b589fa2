"""How /proc is read, whatever its names hold."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fireline_agent.hands import procfs

_TAIL = b" S 1 1 1 0 -1 4194304 0 0 0 0 7 3 0 0 20 0 1 0 4242 4096 2 0 0\n"


@given(st.binary(max_size=64))
def test_a_name_may_hold_any_byte(name: bytes) -> None:
    """Blanks, brackets and newlines in a process's name don't shift the fields behind it."""
    stat = procfs.parse_stat(b"17 (" + name + b")" + _TAIL)

    assert stat is not None
    assert (stat.comm, stat.ppid, stat.start_ticks) == (name, 1, 4242)


@given(st.binary(max_size=200))
def test_garbage_is_no_process(raw: bytes) -> None:
    """A stat file cut short or empty, as of a process that just went, is told as none."""
    assert procfs.parse_stat(raw.replace(b" ", b"_")) is None


def test_mount_points_are_unescaped() -> None:
    """The kernel's octal escapes are undone, bytes that are no UTF-8 stay, and lines that don't fit are passed over."""
    raw = b"36 35 0:30 / /a\\040b\\012\xff rw shared:1 - fuse.sshfs me@x:/ rw,user_id=0\nnonsense\n"

    [mount] = procfs.mounts(raw)

    assert (mount.point, mount.kind, mount.source, mount.device) == (b"/a b\n\xff", b"fuse.sshfs", b"me@x:/", "0:30")


def test_container_ids_are_found_wherever_the_runtime_puts_them() -> None:
    """Docker on either control-group version, systemd's scopes, Kubernetes: the id is told; other paths have none."""
    id_ = "ab" * 32

    for path in (
        f"12:pids:/docker/{id_}",
        f"0::/system.slice/docker-{id_}.scope",
        f"1:name=systemd:/kubepods/besteffort/pod1/{id_}",
        f"0::/kubepods.slice/cri-containerd-{id_}.scope",
        f"0::/machine.slice/libpod-{id_}.scope/container",
        f"0::/lab/web1/{id_}\n",
    ):
        assert procfs.container_id(path.encode()) == id_, path
    assert procfs.container_id(b"0::/system.slice/ssh.service\n") == ""
    assert procfs.container_id(f"0::/docker/{id_[:-1]}\n".encode()) == ""


def test_a_process_that_is_gone_reads_as_nothing() -> None:
    """Reading a process after its end is no error."""
    process = procfs.opened(Path("/proc"), _ended_pid())

    assert process is None


def _ended_pid() -> int:
    return int(Path("/proc/sys/kernel/pid_max").read_text()) + 1


def test_maps_are_parsed() -> None:
    """A path in maps may hold blanks; a region without a path has an empty one."""
    raw = b"7f0000-7f1000 r-xp 00001000 fe:00 99 /opt/a b.so (deleted)\n7f2000-7f3000 rwxp 00000000 00:00 0 \n"

    file, anonymous = procfs.parse_maps(raw)

    assert (file.path, file.inode, file.end - file.start) == (b"/opt/a b.so (deleted)", 99, 4096)
    assert (anonymous.path, anonymous.permissions) == (b"", "rwxp")
