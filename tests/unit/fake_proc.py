"""A golden /proc in a folder: as many fake processes as a test needs, holding whatever it wants them to hold."""

import os
from collections.abc import Mapping
from pathlib import Path

from fireline_agent.capture.collector import Context
from fireline_agent.hands.roots import Roots

BOOT_ID = "11111111-2222-3333-4444-555555555555"
_TCP_HEAD = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


class FakeHost:
    """A root, a /proc and a /sys under one folder, and a context that points there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.proc = folder / "proc"
        self.sys = folder / "sys"
        for place in (self.root / "etc", self.proc, self.sys):
            place.mkdir(parents=True)
        self.write(self.proc / "sys/kernel/random/boot_id", f"{BOOT_ID}\n")
        self.write(self.proc / "stat", "cpu 1 2 3\nbtime 1700000000\n")

    def context(self, **params: object) -> Context:
        """A context that reads here, with these collector parameters."""
        return Context(params=params, roots=Roots(root=self.root, proc=self.proc, sys=self.sys))

    @staticmethod
    def write(path: Path, content: str | bytes) -> None:
        """Write a file and the folders above it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def add(
        self,
        pid: int,
        *,
        comm: bytes = b"program",
        ppid: int = 1,
        flags: int = 0,
        start_ticks: int = 1000,
        cmdline: bytes = b"",
        environ: bytes = b"",
        exe: bytes | None = None,
        cgroup: bytes = b"0::/\n",
        status: str = "",
        maps: bytes = b"",
        files: Mapping[int, bytes] | None = None,
        network_namespace: int = 1,
    ) -> Path:
        """Add a process and return its directory."""
        folder = self.proc / str(pid)
        fields = [b"S", b"%d" % ppid, b"1 1 0 -1", b"%d" % flags, b"0 0 0 0 7 3 0 0 20 0 1 0", b"%d" % start_ticks]
        self.write(folder / "stat", b"%d (%s) " % (pid, comm) + b" ".join(fields) + b" 4096 2 0 0\n")
        for name, content in {"comm": comm + b"\n", "cmdline": cmdline, "environ": environ, "cgroup": cgroup}.items():
            self.write(folder / name, content)
        self.write(folder / "status", f"Name:\tprogram\nUid:\t0\t0\t0\t0\n{status}")
        self.write(folder / "maps", maps)
        (folder / "ns").mkdir()
        (folder / "ns/net").symlink_to(f"net:[{network_namespace}]")
        (folder / "task" / str(pid)).mkdir(parents=True)
        (folder / "fd").mkdir()
        for number, target in (files or {}).items():
            (folder / "fd" / str(number)).symlink_to(os.fsdecode(target))
        (folder / "root").symlink_to(self.root)
        if exe is not None:
            (folder / "exe").symlink_to(os.fsdecode(exe))
        return folder

    def tcp_table(self, pid: int, *lines: bytes) -> None:
        """Give a process's network namespace these lines of /proc/net/tcp."""
        self.write(self.proc / str(pid) / "net/tcp", _TCP_HEAD + b"".join(line + b"\n" for line in lines))
