"""T0 and T2 on the real machine: programs, file systems and restrictions that the test makes itself."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fireline_agent.capture import conntrack, executables, filesystems, firewall, hidden_processes, processes
from fireline_agent.capture.collector import Context
from fireline_agent.hands import children
from fireline_agent.hands.roots import Roots
from tests.unit.sink import MemorySink

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts and other users")

_SLEEP = Path("/bin/sleep").resolve()
_CLONE_NEWNS = 0x00020000
_MS_PRIVATE = 1 << 18 | 1 << 14  # MS_PRIVATE | MS_REC
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def running(command: list[Any], **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs its program, ended with the block."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, **how) as process:
        try:
            _eventually(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes() != b"")
            yield process
        finally:
            process.kill()


def _eventually(holds: Callable[[], bool], within_s: float = 5) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "did not become true in time"
        time.sleep(0.005)


def _collected(collect: Callable[[Context, MemorySink], None], context: Context | None = None) -> MemorySink:
    sink = MemorySink()
    collect(context or Context(), sink)
    return sink


def _process(sink: MemorySink, pid: int) -> dict[str, Any]:
    [record] = [r for r in sink.artifacts["processes/processes.jsonl"].records() if r["pid"] == pid]
    return dict(record)


def _mount(source: str, target: Path, kind: str, data: str = "", flags: int = 0) -> None:
    done = _libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, data.encode())
    assert done == 0, os.strerror(ctypes.get_errno())


def _in_own_mounts(work: Callable[[], Any], timeout_s: float = 20) -> Any:
    """Do the work in a child with mounts of its own: whatever happens to it, nothing of them stays."""

    def child() -> bytes:
        assert _libc.unshare(_CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        _mount("none", Path("/"), "", flags=_MS_PRIVATE)
        return json.dumps(work()).encode()

    return json.loads(children.output_of(child, timeout_s=timeout_s))


def test_a_real_program_is_told_with_hash_environment_and_files(tmp_path: Path) -> None:
    """What the kernel says of a program of ours is what we started."""
    with (tmp_path / "open").open("w") as file:
        environment = {"APP_PASSWORD": "hunter2", "PLAIN": "yes"}
        with running([_SLEEP, "60"], env=environment, cwd=tmp_path, stdout=file) as process:
            record = _process(_collected(processes.collect), process.pid)

    expected = subprocess.run(["sha256sum", _SLEEP], capture_output=True, check=True).stdout.decode().split()[0]
    assert record["exe_sha256"] == expected
    assert record["cmdline"] == [str(_SLEEP), "60"]
    assert record["cwd"] == str(tmp_path)
    assert record["environment"] == ["APP_PASSWORD=[masked]", "PLAIN=yes"]
    assert record["files"]["1"] == str(tmp_path / "open")
    assert any(mapped["path"] == str(_SLEEP) for mapped in record["maps"]["files"])
    assert record["limits"]["Max open files"][0].isdecimal()
    assert record["uids"] == [os.getuid()] * 4
    assert abs(record["started_at_s"] - time.time()) < 60
    assert record["ppid"] == os.getpid()


def test_a_real_program_with_a_name_of_any_bytes(tmp_path: Path) -> None:
    """A program whose file name holds a newline and bytes that are no text is told on one line, with its bytes."""
    name = b"a\n) \xff\xfe"
    program = os.fsencode(tmp_path) + b"/" + name
    shutil.copy(_SLEEP, os.fsdecode(program))
    with running([program, "60"]) as process:
        sink = _collected(processes.collect)

    record = _process(sink, process.pid)
    assert record["comm_hex"] == name.hex()
    assert record["exe_hex"] == program.hex()
    assert len(sink.artifacts["processes/processes.jsonl"].records()) > 1


def test_processes_that_vanish_in_the_middle() -> None:
    """While hundreds of processes come and go every look ends well, and the one that stays is always there."""
    churn = "while :; do for i in 1 2 3 4 5; do /bin/true & done; wait; done"
    with running([_SLEEP, "60"]) as stays, running(["/bin/sh", "-c", churn]) as shell:
        for _ in range(3):
            sink = _collected(processes.collect)
            assert _process(sink, stays.pid)["comm"] == "sleep"
            assert _process(sink, shell.pid)["comm"] == "sh"
            assert _collected(executables.collect).found("fake-kernel-thread") == []
            assert _collected(hidden_processes.collect).found("hidden-process") == []


def test_a_deleted_program_is_copied_whole(tmp_path: Path) -> None:
    """Bytes that exist on no disk any more are in the evidence, once for two processes that run them."""
    program = tmp_path / "dropper"
    shutil.copy(_SLEEP, program)
    with running([program, "60"]) as first, running([program, "61"]):
        program.unlink()
        sink = _collected(executables.collect)

    [record, other] = [r for r in sink.artifacts["executables/index.jsonl"].records() if str(program) in r["exe"]]
    assert record["artifact"] == other["artifact"]
    assert bytes(sink.artifacts[record["artifact"]].data) == _SLEEP.read_bytes()
    [finding] = [f for f in sink.found("deleted-executable") if str(program) in f.summary]
    assert finding.severity == "critical"
    assert finding.subject == f"pid {first.pid} (dropper) and 1 more"


def test_a_program_in_memory_only_is_copied_whole() -> None:
    """A program that never was a file (memfd) is found and kept."""
    memory = os.memfd_create("flt-loader")
    try:
        os.write(memory, _SLEEP.read_bytes())
        with running([f"/proc/self/fd/{memory}", "60"], pass_fds=[memory]) as process:
            sink = _collected(executables.collect)
    finally:
        os.close(memory)

    [record] = [r for r in sink.artifacts["executables/index.jsonl"].records() if r["pid"] == process.pid]
    assert bytes(sink.artifacts[record["artifact"]].data) == _SLEEP.read_bytes()
    [finding] = [f for f in sink.found("memfd-executable") if f"pid {process.pid} " in f.subject]
    assert (finding.severity, finding.summary) == ("critical", "runs from memory only, /memfd:flt-loader (deleted)")


def test_an_output_limit_costs_the_copy_and_not_the_index(tmp_path: Path) -> None:
    """What is told about a program was written before its bytes run into the limit."""
    program = tmp_path / "dropper"
    shutil.copy(_SLEEP, program)
    sink = MemorySink(limit_bytes=16_384)
    with running([program, "60"]):
        program.unlink()
        with pytest.raises(Exception, match="16384 bytes are written"):
            executables.collect(Context(), sink)

    assert sink.artifacts["executables/index.jsonl"].ended
    assert sink.found("deleted-executable")


def test_a_program_that_plays_a_kernel_thread() -> None:
    """A bracketed title doesn't make a kernel thread."""
    with running(["[kworker/0:9]", "60"], executable=_SLEEP) as process:
        sink = _collected(executables.collect)

    [finding] = sink.found("fake-kernel-thread")
    assert finding.subject == f"pid {process.pid} (sleep)"
    assert finding.summary == f"calls itself [kworker/0:9] but is a program: {_SLEEP}"


def test_a_preloaded_and_a_traced_program() -> None:
    """LD_PRELOAD in the environment and a tracer are told with the process."""
    traced = "import ctypes, time; ctypes.CDLL(None).ptrace(0, 0, 0, 0); print('up', flush=True); time.sleep(60)"
    with (
        running([_SLEEP, "60"], env={"LD_PRELOAD": "/nowhere/flt.so"}) as preloaded,
        running([sys.executable, "-c", traced], stdout=subprocess.PIPE) as child,
    ):
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        sink = _collected(processes.collect)

    [finding] = [f for f in sink.found("ld-preload") if f"pid {preloaded.pid} " in f.subject]
    assert (finding.severity, finding.summary) == (
        "warning",
        "LD_PRELOAD=/nowhere/flt.so puts code into this program",
    )
    [tracer] = [f for f in sink.found("tracer-attached") if f"pid {child.pid} " in f.subject]
    assert tracer.summary == f"process {os.getpid()} traces it: it can read and change all it does"


def test_a_process_that_the_listing_leaves_out_is_found(tmp_path: Path) -> None:
    """A /proc whose listing lacks one process, as a rootkit makes it: the kernel's answer to signal 0 gives it away."""
    with running([_SLEEP, "60"]) as process:
        for entry in Path("/proc").iterdir():
            if entry.name != str(process.pid):
                (tmp_path / entry.name).symlink_to(entry)
        sink = _collected(hidden_processes.collect, Context(roots=Roots(proc=tmp_path)))

    findings = {f.subject: f for f in sink.found("hidden-process")}
    assert findings[f"pid {process.pid}"].severity == "critical"
    assert "kill" in findings[f"pid {process.pid}"].summary
    assert "children" in findings[f"pid {process.pid}"].summary


def test_an_honest_machine_hides_nobody() -> None:
    """Threads, zombies and processes of other namespaces are no hidden processes."""
    thread = "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); time.sleep(60)"
    with running([sys.executable, "-c", thread]), running(["/bin/sh", "-c", "/bin/true & exec sleep 60"]):
        sink = _collected(hidden_processes.collect)

    assert sink.findings == []
    assert sink.artifacts["processes/views.json"].document()["views"] == [
        "cgroup.procs",
        "children",
        "kill",
        "parents",
        "stat",
    ]


@needs_root
def test_a_mount_over_a_real_process_is_told(tmp_path: Path) -> None:
    """A folder laid over /proc/PID hides what the process is; the mount table tells."""
    with running([_SLEEP, "60"]) as process:

        def work() -> list[str]:
            _mount("none", Path(f"/proc/{process.pid}"), "tmpfs")
            return [f.subject for f in _collected(hidden_processes.collect).found("hidden-process")]

        assert f"/proc/{process.pid}" in _in_own_mounts(work)


@needs_root
def test_a_proc_that_shows_only_ones_own(tmp_path: Path) -> None:
    """With hidepid and no privilege the collectors tell their own processes, and that this isn't all."""

    def work() -> dict[str, Any]:
        _mount("none", Path("/srv"), "proc", "hidepid=2")
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        context = Context(roots=Roots(proc=Path("/srv")))
        seen, hidden = _collected(processes.collect, context), _collected(hidden_processes.collect, context)
        return {
            "uids": [r["uids"][0] for r in seen.artifacts["processes/processes.jsonl"].records()],
            "codes": [f.code for f in (*seen.findings, *hidden.findings)],
        }

    told = _in_own_mounts(work)

    assert set(told["uids"]) == {65534}
    assert told["codes"] == ["proc-restricted", "proc-restricted"]


@needs_root
def test_without_privilege_what_is_closed_is_named() -> None:
    """As an ordinary user, processes of others are told as far as they show, with the names of what is closed."""

    def work() -> dict[str, Any]:
        os.setgid(65534)
        os.setuid(65534)
        sink, index = _collected(processes.collect), _collected(executables.collect)
        with pytest.raises(PermissionError, match="connection tracking may not be read: "):
            _collected(conntrack.collect)
        ruleset = _collected(firewall.collect).artifacts["firewall/nftables.jsonl"].records()[0]
        return {
            "root": _process(sink, os.getppid()),
            "facts": sink.artifacts["processes/processes.jsonl"].facts,
            "index": index.artifacts["executables/index.jsonl"].facts,
            "ruleset": ruleset,
        }

    told = _in_own_mounts(work)

    assert told["root"]["comm"]
    assert {"environ", "fd", "maps"} - set(told["root"]["denied"]) <= {"maps"}
    assert told["root"]["environment"] == []
    assert told["facts"]["unreadable"] > 0
    assert told["index"]["unreadable"] > 0
    assert told["ruleset"]["tables"] is None
    assert "not permitted" in told["ruleset"]["lacks"]["nfnetlink"]


@needs_root
@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="needs FUSE in the kernel")
def test_file_systems_that_hang_cost_a_second_together_and_nothing_else(tmp_path: Path) -> None:
    """Two FUSE mounts whose server never answers are told as hanging; every other file system has its figures."""
    stale, full = [tmp_path / "a", tmp_path / "b"], tmp_path / "full"

    def work() -> dict[str, Any]:
        doors = [_stale_fuse(place) for place in stale]
        full.mkdir()
        _mount("none", full, "tmpfs", "size=64k")
        (full / "file").write_bytes(bytes(65_536))
        try:
            start = time.monotonic()
            sink = _collected(filesystems.collect)
            return {
                "took_s": time.monotonic() - start,
                "records": sink.artifacts["host/filesystems.jsonl"].records(),
                "findings": [(f.code, f.subject, f.summary) for f in sink.findings],
            }
        finally:
            for door in doors:
                os.close(door)  # the kernel aborts the connection, and whoever waits for it goes on

    told = _in_own_mounts(work)

    records = {record["point"]: record for record in told["records"]}
    assert told["took_s"] < 1.3
    for place in stale:
        assert records[str(place)]["hangs"] is True
        summary = "flt-stale gives no answer: no answer within 0.9 s"
        assert ["filesystem-hangs", f"{place} (fuse)", summary] in told["findings"]
    assert records["/"]["size_bytes"] > 0
    assert ["filesystem-full", f"{full} (tmpfs)", "100.0 % of its space is used"] in told["findings"]
    silent = {point for point, record in records.items() if record.get("hangs")}
    assert silent == {str(place) for place in stale}


def _stale_fuse(target: Path) -> int:
    """Mount a FUSE file system whose server never says a word, not even to the kernel's greeting."""
    target.mkdir()
    door = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    _mount("flt-stale", target, "fuse", f"fd={door},rootmode=40000,user_id=0,group_id=0")
    return door
