"""Modules, kernel settings and the kernel's log over golden trees; the log of this kernel too."""

from pathlib import Path

import pytest

from fireline_agent.capture import kernel_log, modules, sysctl
from fireline_agent.capture.collector import Absent, Context, OutputLimit
from fireline_agent.hands.roots import Roots
from tests.unit.sink import MemorySink


def write(root: Path, files: dict[str, str | bytes]) -> Context:
    """Make a golden tree and a context that reads it."""
    for place, content in files.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Context(roots=Roots(root=root, proc=root / "proc", sys=root / "sys"))


HONEST: dict[str, str | bytes] = {
    "proc/modules": "ext4 1011712 1 - Live 0x0\nnf_tables 372736 2 nft_ct,nft_chain_nat, Live 0xffffffffc0800000\n",
    "proc/kallsyms": "0000 T _stext\n0000 t ext4_read\t[ext4]\n0000 t nft_do\t[nf_tables]\n0000 t prog\t[bpf]\n",
    "sys/module/ext4/initstate": "live\n",
    "sys/module/nf_tables/initstate": "live\n",
    "sys/module/printk/parameters/time": "Y\n",
}


def test_modules_agree_in_three_views(tmp_path: Path) -> None:
    """Loaded modules appear once with what each view says; built-in ones and JITed programs are no modules."""
    sink = MemorySink()
    modules.collect(write(tmp_path, HONEST), sink)

    records = sink.artifacts["kernel/modules.jsonl"].records()
    assert [record["name"] for record in records] == ["ext4", "nf_tables"]
    assert records[1]["proc_modules"]["used_by"] == ["nft_ct", "nft_chain_nat"]
    assert records[1]["kallsyms"] == {"symbols": 1}
    assert sink.artifacts["kernel/modules.jsonl"].facts == {"views": {"proc_modules": 2, "sysfs": 2, "kallsyms": 2}}
    assert sink.findings == []


@pytest.mark.parametrize(
    ("extra", "code", "summary"),
    [
        ({"sys/module/diamorphine/initstate": "live"}, "module-hidden", "diamorphine shows in {root}/sys/module but"),
        (
            {"proc/kallsyms": "0 t hide\t[reptile]\n"},
            "module-hidden",
            "reptile shows in {root}/proc/kallsyms but not in {root}/proc/modules: something hides it",
        ),
        (
            {"proc/modules": "ext4 1 0 - Live 0x0\nghost 1 0 - Live 0x0 (OE)\n"},
            "module-not-in-sysfs",
            "ghost is loaded but has no folder in",
        ),
        (
            {"proc/modules": "ext4 1 0 - Live 0x0 (POE)\nnf_tables 1 0 - Live 0x0\n"},
            "module-taints",
            "ext4 taints the kernel: built outside the kernel's tree, not signed, proprietary",
        ),
    ],
)
def test_contradictions_between_views_stand_out(
    tmp_path: Path, extra: dict[str, str | bytes], code: str, summary: str
) -> None:
    """A module that one view has and another has not is named with both views."""
    sink = MemorySink()
    modules.collect(write(tmp_path, HONEST | extra), sink)

    assert sink.found(code)[0].summary.startswith(summary.format(root=tmp_path))


def test_a_module_on_its_way_is_no_contradiction(tmp_path: Path) -> None:
    """sysfs knows a module that is just being loaded before the list does."""
    sink = MemorySink()
    modules.collect(write(tmp_path, HONEST | {"sys/module/xfs/initstate": "coming\n"}), sink)

    assert sink.findings == []


def test_a_missing_list_is_one_finding_not_many(tmp_path: Path) -> None:
    """A restricted /proc hides the list; that is said once, and what the other views know is kept."""
    context = write(tmp_path, HONEST)
    (tmp_path / "proc/modules").unlink()
    sink = MemorySink()
    modules.collect(context, sink)

    assert [finding.code for finding in sink.findings] == ["module-list-missing"]
    assert len(sink.artifacts["kernel/modules.jsonl"].records()) == 2


def test_a_kernel_without_modules_is_absent(tmp_path: Path) -> None:
    """No view knows any module: the kernel loads none, which is no failure."""
    with pytest.raises(Absent, match="this kernel loads none"):
        modules.collect(write(tmp_path, {"proc/kallsyms": "0000 T _stext\n"}), MemorySink())


def test_tracing_hooks_are_kept(tmp_path: Path) -> None:
    """The kernel's own list of probed functions is kept where it can be read."""
    sink = MemorySink()
    modules.collect(
        write(tmp_path, HONEST | {"sys/kernel/tracing/enabled_functions": "__x64_sys_getdents64 (1)\n"}), sink
    )

    assert sink.artifacts["kernel/tracing-enabled_functions.txt"].data == b"__x64_sys_getdents64 (1)\n"


SETTINGS: dict[str, str | bytes] = {
    "proc/sys/kernel/core_pattern": "|/usr/lib/systemd/systemd-coredump %P %u\n",
    "proc/sys/kernel/modprobe": "/sbin/modprobe\n",
    "proc/sys/kernel/hotplug": "\n",
    "proc/sys/net/ipv4/tcp_fastopen_key": "00112233-44556677-8899aabb-ccddeeff\n",
    "proc/sys/net/ipv4/conf/eth0.7/forwarding": "1\n",
    "proc/sys/vm/drop_caches": "",
    "proc/cmdline": "quiet audit=0\n",
    "sys/kernel/uevent_helper": "\n",
}


def test_settings_are_read_and_key_material_is_not(tmp_path: Path) -> None:
    """Every readable setting is kept, write-only triggers are listed, keys are masked."""
    context = write(tmp_path, SETTINGS)
    (tmp_path / "proc/sys/vm/drop_caches").chmod(0o200)
    sink = MemorySink()
    sysctl.collect(context, sink)

    artifact = sink.artifacts["kernel/sysctl.jsonl"]
    assert {record["key"]: record["value"] for record in artifact.records()} == {
        "kernel.core_pattern": "|/usr/lib/systemd/systemd-coredump %P %u",
        "kernel.modprobe": "/sbin/modprobe",
        "kernel.hotplug": "",
        "net.ipv4.tcp_fastopen_key": "[masked]",
        "net.ipv4.conf.eth0.7.forwarding": "1",
    }
    assert artifact.facts == {"unreadable": ["vm.drop_caches"], "unreadable_count": 1}
    assert sink.artifacts["kernel/cmdline.txt"].data == b"quiet audit=0\n"
    assert sink.findings == []


@pytest.mark.parametrize(
    ("place", "value", "code", "summary"),
    [
        (
            "proc/sys/kernel/core_pattern",
            b"|/tmp/.x\xff %p",
            "core-pattern-pipe",
            r"every crash runs '/tmp/.x\\xff %p' as",
        ),
        (
            "proc/sys/kernel/modprobe",
            b"/tmp/m",
            "modprobe-path-changed",
            "the kernel runs '/tmp/m' as root to load mod",
        ),
        ("proc/sys/kernel/hotplug", b"/tmp/h", "uevent-helper-set", "the kernel runs '/tmp/h' as root at every device"),
        (
            "sys/kernel/uevent_helper",
            b"/tmp/u",
            "uevent-helper-set",
            "the kernel runs '/tmp/u' as root at every device",
        ),
    ],
)
def test_a_changed_root_helper_stands_out(tmp_path: Path, place: str, value: bytes, code: str, summary: str) -> None:
    """Programs that the kernel itself runs as root are named when they are not the usual ones."""
    sink = MemorySink()
    sysctl.collect(write(tmp_path, SETTINGS | {place: value}), sink)

    assert [(finding.severity, finding.code) for finding in sink.findings] == [("warning", code)]
    assert sink.findings[0].summary.startswith(summary)


def test_an_automount_is_not_set_off(tmp_path: Path) -> None:
    """binfmt_misc is left alone while only its automount point is there: looking in would change the host."""
    files = SETTINGS | {"proc/sys/fs/binfmt_misc/status": "enabled\n"}
    line = b"29 1 0:5 / /proc/sys/fs/binfmt_misc rw - %s none rw\n"
    autofs, mounted = MemorySink(), MemorySink()
    sysctl.collect(write(tmp_path, files | {"proc/self/mountinfo": line % b"autofs"}), autofs)
    both = line % b"autofs" + line % b"binfmt_misc"
    sysctl.collect(write(tmp_path, files | {"proc/self/mountinfo": both}), mounted)

    assert b"binfmt_misc" not in autofs.artifacts["kernel/sysctl.jsonl"].data
    assert b"fs.binfmt_misc.status" in mounted.artifacts["kernel/sysctl.jsonl"].data


def test_no_proc_sys_is_absent(tmp_path: Path) -> None:
    """A restricted /proc has no settings: absent, with the place that was looked at."""
    with pytest.raises(Absent, match=r"/proc/sys is not there"):
        sysctl.collect(write(tmp_path, {}), MemorySink())


LOG = (
    b"6,100,5000000,-;eth0: link up\n SUBSYSTEM=net\n DEVICE=n2\n"
    b"3,101,6000000,-;Out of memory: Killed process 712 (java\\x0aevil) total-vm:1kB\n"
    b"11,102,7000000,-;Killed process 1 (fake) says user space\n"
    b"not a record\n"
)


def test_kernel_log_records_are_parsed(tmp_path: Path) -> None:
    """Fields, continuation lines and escapes come out; a line that is no record is kept as it is."""
    sink = MemorySink()
    kernel_log.collect(write(tmp_path, {"dev/kmsg": LOG}), sink)

    records = sink.artifacts["kernel/log.jsonl"].records()
    assert records[0] == {
        "seq": 100,
        "monotonic_us": 5000000,
        "facility": 0,
        "level": 6,
        "message": "eth0: link up",
        "fields": {"SUBSYSTEM": "net", "DEVICE": "n2"},
    }
    assert records[1]["message"] == "Out of memory: Killed process 712 (java\nevil) total-vm:1kB"
    assert records[3] == {"unparsed": "not a record"}


def test_only_the_kernels_own_lines_stand_out(tmp_path: Path) -> None:
    """An out-of-memory kill is a finding; the same words written by user space are not."""
    sink = MemorySink()
    kernel_log.collect(write(tmp_path, {"dev/kmsg": LOG}), sink)

    assert [(finding.severity, finding.code) for finding in sink.findings] == [("critical", "kernel-oom-kill")]
    assert sink.findings[0].summary == (
        "the kernel killed processes for want of memory (1 line); "
        "the last: Out of memory: Killed process 712 (java\\x0aevil) total-vm:1kB"
    )


def test_signs_seen_before_the_output_limit_are_still_told(tmp_path: Path) -> None:
    """A log that is cut off at the limit loses none of the findings seen before."""
    sink = MemorySink(limit_bytes=400)
    with pytest.raises(OutputLimit):
        kernel_log.collect(write(tmp_path, {"dev/kmsg": LOG}), sink)

    assert sink.found("kernel-oom-kill")


def test_this_kernels_log_ends_without_waiting() -> None:
    """The real device is read to its end and no further; it never blocks for the next message."""
    sink = MemorySink()
    kernel_log.collect(Context(), sink)

    artifact = sink.artifacts["kernel/log.jsonl"]
    assert artifact.method in ("kmsg", "syslog")
    assert all("message" in record or "unparsed" in record or "lost" in record for record in artifact.records())


def test_without_the_device_the_system_call_answers(tmp_path: Path) -> None:
    """Where /dev/kmsg is not there, syslog(2) gives the same ring."""
    sink = MemorySink()
    kernel_log.collect(write(tmp_path, {}), sink)

    assert sink.artifacts["kernel/log.jsonl"].method == "syslog"
    assert any("message" in record for record in sink.artifacts["kernel/log.jsonl"].records())
