"""T2 on golden trees: what is told of processes, and what stands out."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fireline_agent.capture import conntrack, executables, firewall, hidden_processes, network, processes, sockets
from fireline_agent.capture.collector import Absent
from fireline_agent.hands.procfs import PF_KTHREAD
from tests.unit.fake_proc import BOOT_ID, FakeHost
from tests.unit.sink import MemoryArtifact, MemorySink

CONTAINER = "cd" * 32
LISTENS = b"   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 777 1 0 100"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """A golden host with an ordinary process 1."""
    fake = FakeHost(tmp_path)
    fake.add(1, comm=b"init", ppid=0)
    return fake


def _records(host: FakeHost, **params: object) -> tuple[dict[int, dict[str, object]], MemorySink]:
    sink = MemorySink()
    processes.collect(host.context(**params), sink)
    return {record["pid"]: record for record in sink.artifacts["processes/processes.jsonl"].records()}, sink


def test_a_process_is_keyed_by_boot_pid_and_start(host: FakeHost) -> None:
    """The key tells two processes of one number apart, also over a reboot."""
    host.add(7, start_ticks=4242)

    records, _ = _records(host)

    assert records[7]["key"] == f"{BOOT_ID}:7:4242"
    assert records[7]["started_at_s"] == 1_700_000_042.42


def test_names_with_newlines_and_bytes_that_are_no_text(host: FakeHost) -> None:
    """Each process stays one line, and the exact bytes of its name, arguments and files are kept."""
    host.add(7, comm=b"a\n) R 1\xff", cmdline=b"/bin/x\0\xfe\0", files={3: b"/tmp/\xfd\n"})

    records, sink = _records(host)

    record = records[7]
    assert len(sink.artifacts["processes/processes.jsonl"].data.splitlines()) == 2
    assert record["comm"] == "a\n) R 1\\xff"
    assert record["comm_hex"] == b"a\n) R 1\xff".hex()
    assert record["cmdline"] == ["/bin/x", "\\xfe"]
    assert record["cmdline_hex"] == b"/bin/x\0\xfe\0".hex()
    assert record["files_hex"] == {"3": b"/tmp/\xfd\n".hex()}


def test_secrets_are_masked_by_default(host: FakeHost) -> None:
    """Values under telling names and passwords in URLs are masked, the rest is kept."""
    environ = (
        b"DB_PASSWORD=hunter2\0API_TOKEN=abc\0aws_secret=x\0SSH_KEY=y\0"
        b"URL=postgres://app:hunter2@db/x\0PATH=/bin\0EMPTY_KEY=\0"
    )
    host.add(7, environ=environ)

    records, sink = _records(host)

    assert records[7]["environment"] == [
        "DB_PASSWORD=[masked]",
        "API_TOKEN=[masked]",
        "aws_secret=[masked]",
        "SSH_KEY=[masked]",
        "URL=postgres://app:[masked]@db/x",
        "PATH=/bin",
        "EMPTY_KEY=",
    ]
    assert b"hunter2" not in sink.artifacts["processes/processes.jsonl"].data
    assert sink.artifacts["processes/processes.jsonl"].facts["secrets_masked"] is True


def test_masking_can_be_turned_off_by_the_order_only_with_a_clear_no(host: FakeHost) -> None:
    """`mask_secrets: false` shows all; anything that is no boolean is refused."""
    host.add(7, environ=b"DB_PASSWORD=hunter2\0")

    records, _ = _records(host, mask_secrets=False)

    assert records[7]["environment"] == ["DB_PASSWORD=hunter2"]
    with pytest.raises(ValueError, match=r"'mask_secrets': wanted true or false, found 'no'"):
        _records(host, mask_secrets="no")


def test_a_process_that_vanished_is_left_out_and_the_others_kept(host: FakeHost) -> None:
    """A directory that is already empty when it is read costs nothing."""
    (host.proc / "8").mkdir()
    host.add(9)

    records, _ = _records(host)

    assert sorted(records) == [1, 9]


def test_what_changes_between_the_passes_is_never_mixed_up(host: FakeHost) -> None:
    """A process that ended, and one whose number another one has by now, keep what the first pass saw, and no more."""
    gone, reused = host.add(7, environ=b"A=1\0"), host.add(8, environ=b"A=1\0", start_ticks=1)

    class ChangingSink(MemorySink):
        """The host goes on while the collector opens its artifact, which is after the first pass."""

        @contextmanager
        def artifact(self, name: str, *, source: str, method: str) -> Iterator[MemoryArtifact]:
            if name == "processes/processes.jsonl":
                shutil.rmtree(gone)
                shutil.rmtree(reused)
                host.add(8, comm=b"other", environ=b"B=2\0", start_ticks=2)
            with super().artifact(name, source=source, method=method) as artifact:
                yield artifact

    sink = ChangingSink()
    processes.collect(host.context(), sink)

    records = {record["pid"]: record for record in sink.artifacts["processes/processes.jsonl"].records()}
    assert [records[pid]["vanished"] for pid in (7, 8)] == [True, True]
    assert (records[8]["comm"], "environment" in records[8]) == ("program", False)
    churn = sink.artifacts["processes/churn.json"].document()
    assert [entry["comm"] for entry in churn["appeared"]] == ["other"]
    assert [entry["key"] for entry in churn["vanished"]] == [f"{BOOT_ID}:7:1000", f"{BOOT_ID}:8:1"]


def test_capabilities_and_maps_are_decoded(host: FakeHost) -> None:
    """Capability sets are named; executable memory without a file is told, the kernel's own is not."""
    maps = (
        b"1000-2000 r-xp 00000000 fe:00 5 /lib/x.so\n2000-3000 rw-p 00000000 fe:00 5 /lib/x.so\n"
        b"4000-6000 rwxp 00000000 00:00 0 \n7000-8000 r-xp 00000000 00:00 0 [vdso]\n"
    )
    host.add(7, status="CapEff:\t0000000000003000\nCapPrm:\t000001ffffffffff\nSeccomp:\t2\n", maps=maps)

    records, _ = _records(host)

    assert records[7]["capabilities"]["effective"] == ["net_admin", "net_raw"]  # type: ignore[index]  # JSON read back
    assert records[7]["capabilities"]["permitted"] == "all"  # type: ignore[index]  # JSON read back
    assert records[7]["maps"] == {
        "files": [{"path": "/lib/x.so", "permissions": "rwxp", "device": "fe:00", "inode": 5}],
        "anonymous_executable": [{"start": "4000", "bytes": 8192, "permissions": "rwxp", "name": ""}],
    }


def test_code_put_into_programs_is_told(host: FakeHost) -> None:
    """LD_PRELOAD is a warning on the host, a notice in a container, and in ld.so.preload it is critical."""
    host.add(7, comm=b"sshd", environ=b"LD_PRELOAD=/tmp/evil.so\0")
    host.add(8, comm=b"redis", environ=b"LD_AUDIT=/a.so\0", cgroup=f"0::/docker/{CONTAINER}\n".encode())
    host.add(9, environ=b"LD_PRELOAD=\0")
    host.write(host.root / "etc/ld.so.preload", "/lib/evil.so\n")

    records, sink = _records(host)

    assert [(f.severity, f.subject, f.summary) for f in sink.found("ld-preload")] == [
        ("warning", "pid 7 (sshd)", "LD_PRELOAD=/tmp/evil.so puts code into this program"),
        ("notice", "pid 8 (redis)", "LD_AUDIT=/a.so puts code into this program"),
        ("critical", f"{host.root}/etc/ld.so.preload", "puts code into every program: /lib/evil.so"),
    ]
    assert records[8]["container"] == CONTAINER


def test_a_restricted_proc_is_said(tmp_path: Path) -> None:
    """Where process 1 can't be seen the listing is called partial, not complete."""
    fake = FakeHost(tmp_path)
    fake.add(7)

    _, sink = _records(fake)

    [finding] = sink.found("proc-restricted")
    assert finding.summary.startswith(f"{fake.proc} is restricted: process 1 can't be seen")


def _executables(host: FakeHost) -> MemorySink:
    sink = MemorySink()
    executables.collect(host.context(), sink)
    return sink


def test_deleted_programs_are_judged_by_place_and_by_what_they_do(host: FakeHost) -> None:
    """From a folder for temporary files or listening: critical; elsewhere a warning."""
    host.add(7, comm=b"x", exe=b"/dev/shm/x (deleted)")
    host.add(8, comm=b"y", exe=b"/opt/y (deleted)")
    host.add(9, comm=b"z", exe=b"/opt/z (deleted)", files={3: b"socket:[777]"})
    host.tcp_table(9, LISTENS)

    sink = _executables(host)

    assert [(f.severity, f.subject, f.summary) for f in sink.found("deleted-executable")] == [
        ("critical", "pid 7 (x)", "runs /dev/shm/x (deleted), from a folder for temporary files"),
        ("warning", "pid 8 (y)", "runs /opt/y (deleted)"),
        ("critical", "pid 9 (z)", "runs /opt/z (deleted) and listens"),
    ]


def test_an_upgraded_program_and_one_called_deleted_are_no_alarm(host: FakeHost) -> None:
    """A program whose path holds its successor is a notice; a file whose name ends in "(deleted)" is nothing.

    Both are judged by the process's own root: in a container the host's path says nothing.
    """
    host.write(host.root / "usr/sbin/nginx", "new")
    host.add(7, comm=b"nginx", exe=b"/usr/sbin/nginx (deleted)", cgroup=f"0::/docker/{CONTAINER}\n".encode())
    host.write(host.root / "opt/odd (deleted)", "here")
    host.add(8, exe=b"/opt/odd (deleted)")

    sink = _executables(host)

    [finding] = sink.findings
    assert (finding.severity, finding.code, finding.subject) == ("notice", "deleted-executable", "pid 7 (nginx)")
    assert finding.summary.endswith("another file has its place: an upgrade without a restart looks like this")


def test_programs_in_memory_are_told_once_for_all_who_run_alike(host: FakeHost) -> None:
    """Many processes of one memfd make one finding; the container runtime's own copy is a notice."""
    for pid in (7, 8, 9):
        host.add(pid, comm=b"m\n", exe=b"/memfd:m (deleted)")
    host.add(10, comm=b"runc", exe=b"/memfd:runc_cloned:/proc/self/exe (deleted)")

    sink = _executables(host)

    assert [(f.severity, f.subject) for f in sink.found("memfd-executable")] == [
        ("critical", "pid 7 (m\\x0a) and 2 more"),
        ("notice", "pid 10 (runc)"),
    ]


def test_fake_kernel_threads_are_told_and_real_ones_not(host: FakeHost) -> None:
    """The kernel's flag tells them apart: a bracketed title or kthreadd as parent is not enough."""
    host.add(2, comm=b"kthreadd", ppid=0, flags=PF_KTHREAD)
    host.add(7, comm=b"kworker/0:1", ppid=2, flags=PF_KTHREAD)
    host.add(8, comm=b"kworker/0:2", exe=b"/opt/evil", cmdline=b"[kworker/0:2]\0")
    host.add(9, comm=b"helper", ppid=2, exe=b"/sbin/modprobe", cmdline=b"/sbin/modprobe\0x\0")
    host.add(10, comm=b"celery", exe=b"/opt/celery", cmdline=b"[celery: worker] -c 2\0")

    sink = _executables(host)

    assert [(f.severity, f.subject, f.summary) for f in sink.found("fake-kernel-thread")] == [
        ("critical", "pid 8 (kworker/0:2)", "calls itself [kworker/0:2] but is a program: /opt/evil"),
        ("warning", "pid 9 (helper)", "is a child of kthreadd but runs a program: /sbin/modprobe"),
    ]


def test_what_other_views_show_is_hidden(host: FakeHost) -> None:
    """A number that a parent's children file, a child's parent or a control group names, but no listing shows."""
    folder = host.add(7, ppid=501)
    host.write(folder / "task/7/children", "502 7\n")
    host.write(host.sys / "fs/cgroup/evil.slice/cgroup.procs", "503\n0\n1\n")
    sink = MemorySink()

    hidden_processes.collect(host.context(), sink)

    assert [(f.severity, f.subject, f.summary) for f in sink.found("hidden-process")] == [
        ("critical", "pid 501", "isn't listed in /proc, but is there by parents"),
        ("critical", "pid 502", "isn't listed in /proc, but is there by children"),
        ("critical", "pid 503", "isn't listed in /proc, but is there by cgroup.procs"),
    ]
    document = sink.artifacts["processes/views.json"].document()
    assert document["looked_twice"] is True
    assert "kill" not in document["views"]


def test_a_mount_over_a_process_is_told(host: FakeHost) -> None:
    """The oldest trick: something mounted over /proc/PID."""
    host.write(host.proc / "self/mountinfo", f"9 8 0:9 / {host.proc}/77 rw - tmpfs none rw\n")
    sink = MemorySink()

    hidden_processes.collect(host.context(), sink)

    [finding] = sink.found("hidden-process")
    assert finding.subject == f"{host.proc}/77"


def test_a_restricted_proc_hides_nobody_maliciously(tmp_path: Path) -> None:
    """Where the kernel itself hides others from us, no process is called hidden."""
    fake = FakeHost(tmp_path)
    fake.add(7, ppid=3)
    sink = MemorySink()

    hidden_processes.collect(fake.context(), sink)

    assert [f.code for f in sink.findings] == ["proc-restricted"]
    assert sink.artifacts["processes/views.json"].document()["hidden"] == [3]


def test_a_namespace_that_cant_be_entered_is_read_through_its_process(host: FakeHost) -> None:
    """The tables of /proc/PID/net serve; a listener outside every container is told, one inside is not."""
    host.add(7, comm=b"nc", files={3: b"socket:[777]"}, network_namespace=2)
    host.tcp_table(7, LISTENS, b"garbage", b"")
    host.add(8, network_namespace=3, cgroup=f"0::/docker/{CONTAINER}\n".encode(), files={3: b"socket:[777]"})
    host.tcp_table(8, LISTENS)
    sink = MemorySink()

    sockets.collect(host.context(), sink)

    records = sink.artifacts["network/sockets.jsonl"].records()
    assert [(r["namespace"], r["local"], r["local_port"], r["state"]) for r in records] == [
        (2, "0.0.0.0", 8080, "LISTEN"),
        (3, "0.0.0.0", 8080, "LISTEN"),
    ]
    [finding] = sink.findings
    assert (finding.code, finding.severity) == ("listener-in-foreign-netns", "warning")
    assert "listens on tcp 0.0.0.0:8080 in a network namespace that belongs to no container" in finding.summary
    namespaces = {r["namespace"]: r for r in sink.artifacts["network/namespaces.jsonl"].records()}
    assert namespaces[1]["is_host"] is True
    assert namespaces[3]["containers"] == [CONTAINER]
    assert namespaces[2]["not_entered"]


def test_namespaces_that_cant_be_entered_are_named(host: FakeHost) -> None:
    """Links, rulesets and flows of a namespace that can't be entered are told as lacking, with the reason."""
    sink = MemorySink()

    network.collect(host.context(), sink)
    firewall.collect(host.context(), sink)
    with pytest.raises(Absent, match="no connection tracking: neither ctnetlink nor /proc/net/nf_conntrack answers"):
        conntrack.collect(host.context(), sink)

    for artifact in ("network/links.jsonl", "firewall/nftables.jsonl", "network/conntrack.jsonl"):
        [record] = sink.artifacts[artifact].records()
        assert record["namespace"] == 1
        assert "No such file or directory" in record["lacks"]
