"""T0: what the host is, by its clocks, files and file systems."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fireline_agent.capture import agent, clocks, dns, filesystems, memory, system
from fireline_agent.capture.collector import Absent, Context
from tests.unit.fake_proc import BOOT_ID, FakeHost
from tests.unit.sink import MemorySink


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """An empty golden host."""
    return FakeHost(tmp_path)


def test_an_unknown_parameter_is_refused_with_the_nearest_right_one() -> None:
    """A misspelt parameter in a profile fails the collector, by name."""
    with pytest.raises(ValueError, match=r"\Aunknown collector parameter 'hang': did you mean 'hang_s'\?\Z"):
        filesystems.collect(Context(params={"hang": 1}), MemorySink())
    with pytest.raises(ValueError, match=r"unknown collector parameter 'x': this collector takes none"):
        clocks.collect(Context(params={"x": 1}), MemorySink())
    with pytest.raises(ValueError, match=r"'hang_s': wanted a number above 0, at most 60.0, found 0"):
        filesystems.collect(Context(params={"hang_s": 0}), MemorySink())


def test_clocks_are_read_together_with_the_controllers_offset() -> None:
    """The three clocks belong to one moment; the controller's measurement is kept beside them."""
    sink = MemorySink()

    clocks.collect(Context(clock_offset_ns=5_000, clock_round_trip_ns=2_000), sink)

    document = sink.artifacts["host/clocks.json"].document()
    assert document["triple"].keys() >= {"realtime_ns", "monotonic_ns", "boottime_ns"}
    assert document["triple"]["spread_ns"] < 10_000_000
    assert (document["controller_offset_ns"], document["offset_uncertainty_ns"]) == (5_000, 1_000)
    assert sink.findings == []


@pytest.mark.parametrize(
    ("offset_ns", "round_trip_ns", "told"),
    [
        (1_500_000_000, 10_000_000, "the host's clock is 1.500 s ahead of the controller's"),
        (-3_600_000_000_000, 0, "the host's clock is 3600.000 s behind the controller's"),
        (1_000_000_000, 0, None),
        (1_500_000_000, 2_000_000_000, None),
    ],
)
def test_a_clock_that_is_off_is_told(offset_ns: int, round_trip_ns: int, told: str | None) -> None:
    """More than a second counts, but not where the measurement's own doubt explains it."""
    sink = MemorySink()

    clocks.collect(Context(clock_offset_ns=offset_ns, clock_round_trip_ns=round_trip_ns), sink)

    assert [finding.summary for finding in sink.found("clock-offset")] == ([told] if told else [])


def test_the_system_is_told_from_its_files(host: FakeHost) -> None:
    """Boot id, machine id, timezone, lockdown and taint are decoded; what isn't there is named."""
    host.write(host.root / "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    host.write(host.root / "etc/os-release", 'ID=debian\nPRETTY_NAME="Debian 12"\n')
    (host.root / "etc/localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    host.write(host.proc / "sys/kernel/tainted", "4097\n")
    host.write(host.proc / "uptime", "123.45 99.00\n")
    host.write(host.sys / "kernel/security/lockdown", "none [integrity] confidentiality\n")
    host.write(host.sys / "kernel/security/lsm", "lockdown,apparmor")
    sink = MemorySink()

    system.collect(host.context(), sink)

    document = sink.artifacts["host/system.json"].document()
    assert document["boot_id"] == BOOT_ID
    assert document["machine_id"] == "0123456789abcdef0123456789abcdef"
    assert document["timezone"] == "Europe/Berlin"
    assert document["uptime_s"] == 123.45
    assert document["booted_at_s"] == 1_700_000_000
    assert document["lockdown"] == "integrity"
    assert document["security_modules"] == ["lockdown", "apparmor"]
    assert document["os_release"]["PRETTY_NAME"] == "Debian 12"
    assert "command_line" in document["lacks"]
    [finding] = sink.found("kernel-tainted")
    assert (finding.severity, finding.subject) == ("warning", "taint 4097")
    assert finding.summary == "proprietary module was loaded; externally built (out of tree) module was loaded"


def test_the_real_system_has_a_boot_id() -> None:
    """On a real machine nothing that every Linux has is lacking."""
    sink = MemorySink()

    system.collect(Context(), sink)

    document = sink.artifacts["host/system.json"].document()
    assert document["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert document["lacks"] == []


def test_memory_is_told_in_bytes(host: FakeHost) -> None:
    """Memory, swap, load and pressure are parsed; a swap file's name may hold a blank."""
    host.write(host.proc / "meminfo", "MemTotal:  2048 kB\nSwapTotal: 10 kB\nHugePages_Total: 3\n")
    host.write(host.proc / "swaps", "Filename Type Size Used Priority\n/swap\\040file  file  100  40  -2\n")
    host.write(host.proc / "loadavg", "0.50 1.00 2.00 3/456 789\n")
    host.write(host.proc / "pressure/io", "some avg10=1.50 avg60=0.00 avg300=0.00 total=17\n")
    sink = MemorySink()

    memory.collect(host.context(), sink)

    document = sink.artifacts["host/memory.json"].document()
    assert document["memory_bytes"] == {"MemTotal": 2_097_152, "SwapTotal": 10_240, "HugePages_Total": 3}
    assert document["swaps"] == [
        {"path": "/swap\\040file", "kind": "file", "size_bytes": 102_400, "used_bytes": 40_960}
    ]
    assert document["load"]["threads"] == 456
    assert document["pressure"]["io"]["some"]["avg10"] == "1.50"


def test_no_memory_figures_is_absent(host: FakeHost) -> None:
    """Without meminfo the collector says where it looked."""
    with pytest.raises(Absent, match=r"no memory figures: .*/proc/meminfo isn't there or is empty"):
        memory.collect(host.context(), MemorySink())


def test_name_resolution_is_kept_as_it_is_and_explained(host: FakeHost) -> None:
    """Each file is kept byte for byte; servers, search list, hosts and order are told too."""
    host.write(host.root / "etc/resolv.conf", "nameserver 198.18.0.53\nsearch a.example b.example\noptions ndots:2\n")
    host.write(host.root / "etc/hosts", b"127.0.0.1 localhost # own\n198.18.0.9 update.example \xff\n")
    host.write(host.root / "etc/nsswitch.conf", "hosts: files dns # x\n")
    host.write(host.root / "etc/systemd/resolved.conf.d/x.conf", "[Resolve]\nDNS=198.18.0.1\n")
    sink = MemorySink()

    dns.collect(host.context(), sink)

    document = sink.artifacts["network/dns.json"].document()
    assert document["name_servers"] == ["198.18.0.53"]
    assert document["search"] == ["a.example", "b.example"]
    assert document["hosts"][1] == {"address": "198.18.0.9", "names": ["update.example", "\\xff"]}
    assert document["order"] == ["files", "dns"]
    assert "[Resolve]\nDNS=198.18.0.1\n" in document["more"].values()
    assert bytes(sink.artifacts["network/dns/hosts"].data).endswith(b"\xff\n")


def test_no_name_resolution_is_absent(host: FakeHost) -> None:
    """Without any of the files the collector says so."""
    with pytest.raises(Absent, match="no name resolution to be seen"):
        dns.collect(host.context(), MemorySink())


def test_the_agent_tells_its_own_footprint_and_hashes() -> None:
    """The agent's process, interpreter and every file of its package are told with their hashes."""
    sink = MemorySink()

    agent.collect(Context(agent_pid=os.getpid()), sink)

    document = sink.artifacts["host/agent.json"].document()
    expected = subprocess.run(["sha256sum", Path(sys.executable).resolve()], capture_output=True, check=True)
    assert document["interpreter"]["sha256"] == expected.stdout.decode().split()[0]
    assert document["agent"]["exe_sha256"] == document["interpreter"]["sha256"]
    assert document["agent"]["resident_bytes"] > 1 << 20
    files = {
        Path(record["path"]).name: record["sha256"] for record in sink.artifacts["host/agent_files.jsonl"].records()
    }
    assert len(files["collector.py"]) == 64


def test_an_agent_that_cant_be_seen_is_no_failure(host: FakeHost) -> None:
    """Without its own process directory the rest is told all the same."""
    sink = MemorySink()

    agent.collect(host.context(), sink)

    assert sink.artifacts["host/agent.json"].document()["agent"]["lacks"] == f"{host.proc}/0 isn't there"


def test_file_systems_are_told_with_space_and_inodes() -> None:
    """The root file system's figures are those of statvfs; pseudo file systems without space divide by nothing."""
    sink = MemorySink()

    filesystems.collect(Context(), sink)

    records = {record["point"]: record for record in sink.artifacts["host/filesystems.jsonl"].records()}
    real = os.statvfs("/")
    assert records["/"]["size_bytes"] == real.f_blocks * real.f_frsize
    assert records["/"]["inodes"] == real.f_files
    assert all("size_bytes" in record for record in records.values() if record["kind"] in ("proc", "sysfs", "tmpfs"))


def test_a_mount_that_isnt_there_any_more_is_told_and_the_others_kept(host: FakeHost, tmp_path: Path) -> None:
    """A stale line of the mount table costs nothing but its own figures."""
    lines = [f"1 0 0:{n} / {point} rw - tmpfs t{n} rw\n" for n, point in enumerate((tmp_path, tmp_path / "gone"))]
    host.write(host.proc / "self/mountinfo", "".join(lines))
    sink = MemorySink()

    filesystems.collect(host.context(), sink)

    there, gone = sink.artifacts["host/filesystems.jsonl"].records()
    assert there["size_bytes"] > 0
    assert gone["lacks"] == f"[Errno 2] No such file or directory: {os.fsencode(tmp_path / 'gone')!r}"
    assert json.loads(sink.artifacts["host/mounts.jsonl"].data.splitlines()[1])["point"] == str(tmp_path / "gone")


def test_an_automount_point_is_told_and_never_asked(host: FakeHost, tmp_path: Path) -> None:
    """To ask an automount point for its space would make it mount: it stands in the mount table only."""
    host.write(host.proc / "self/mountinfo", f"1 0 0:1 / {tmp_path} rw - autofs systemd-1 rw\n")
    sink = MemorySink()

    filesystems.collect(host.context(), sink)

    assert [record["kind"] for record in sink.artifacts["host/mounts.jsonl"].records()] == ["autofs"]
    assert sink.artifacts["host/filesystems.jsonl"].records() == []
