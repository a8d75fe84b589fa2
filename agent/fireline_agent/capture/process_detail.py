"""What the second pass over a process records: credentials, environment, open files, maps, limits.

Leaves to others: which processes there are and in what order they are read (processes).
"""

from functools import lru_cache
from typing import Any, Final

from fireline_agent.hands import procfs, secrets
from fireline_agent.hands.procfs import Process

# linux/capability.h; the bit's number is the place in this list.
_CAPABILITIES: Final = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip
_CAPABILITY_SETS: Final = {
    "inheritable": "CapInh", "permitted": "CapPrm", "effective": "CapEff", "bounding": "CapBnd", "ambient": "CapAmb",
}  # fmt: skip
_ALL_CAPABILITIES: Final = (1 << len(_CAPABILITIES)) - 1


def credentials(status: dict[str, str]) -> dict[str, Any]:
    """Who the process is and what it may do, from its parsed status file."""
    return {
        "uids": _numbers(status.get("Uid")),
        "gids": _numbers(status.get("Gid")),
        "groups": _numbers(status.get("Groups")),
        "pids_in_namespaces": _numbers(status.get("NSpid")),
        "tracer_pid": int(status.get("TracerPid", "0")),
        "seccomp": int(status.get("Seccomp", "0")),
        "no_new_privileges": status.get("NoNewPrivs") == "1",
        "capabilities": {name: _capabilities(status.get(key, "0")) for name, key in _CAPABILITY_SETS.items()},
    }


def environment(process: Process) -> list[tuple[bytes, bytes]]:
    """The environment the program was started with, in its order, doubles included."""
    entries = (process.read("environ") or b"").split(b"\0")
    return [(name, value) for name, found, value in (entry.partition(b"=") for entry in entries) if found]


def shown(entries: list[tuple[bytes, bytes]], *, mask: bool) -> list[str]:
    """The environment as `NAME=value` lines, with secrets masked if wanted."""
    pairs = (
        (name.decode(errors="backslashreplace"), value.decode(errors="backslashreplace")) for name, value in entries
    )
    return [f"{name}={_masked(name, value) if mask else value}" for name, value in pairs]


def files(process: Process) -> dict[str, Any]:
    """Open files by number; the exact bytes too of those whose path is no UTF-8."""
    found = dict(process.descriptors())
    result: dict[str, Any] = {
        "files": {str(number): path.decode(errors="backslashreplace") for number, path in found.items()}
    }
    odd = {str(number): path.hex() for number, path in found.items() if not _is_text(path)}
    return result | ({"files_hex": odd} if odd else {})


def maps(process: Process) -> dict[str, Any]:
    """The files that are mapped, with the union of their permissions, and executable memory that has no file."""
    mapped: dict[bytes, tuple[procfs.Region, set[str]]] = {}
    anonymous = []
    for region in procfs.parse_maps(process.read("maps") or b""):
        if region.path.startswith(b"/"):
            mapped.setdefault(region.path, (region, set()))[1].update(region.permissions)
        elif "x" in region.permissions and not region.path.startswith(b"[v"):  # vdso and vsyscall are the kernel's
            anonymous.append(region)
    return {
        "files": [_mapped(region, permissions) for region, permissions in mapped.values()],
        "anonymous_executable": [
            {
                "start": f"{region.start:x}",
                "bytes": region.end - region.start,
                "permissions": region.permissions,
                "name": region.path.decode(errors="backslashreplace"),
            }
            for region in anonymous
        ],
    }


def limits(process: Process) -> dict[str, list[str]]:
    """Resource limits as [soft, hard], in the kernel's words."""
    lines = (process.read("limits") or b"").decode(errors="replace").splitlines()[1:]
    # Columns of fixed width (fs/proc/base.c): the names have blanks in them.
    return {line[:25].strip(): line[25:68].split() for line in lines}


def figures(raw: bytes | None) -> dict[str, int]:
    """Lines of `name: number`."""
    pairs = (line.partition(":") for line in (raw or b"").decode(errors="replace").splitlines())
    return {name: int(value) for name, _, value in pairs if value.strip().isdecimal()}


@lru_cache(maxsize=4096)  # most of an environment is the same in every process, and the rule has many patterns
def _masked(name: str, value: str) -> str:
    return secrets.mask(name, value)


def _mapped(region: procfs.Region, permissions: set[str]) -> dict[str, Any]:
    return {
        "path": procfs.unescape(region.path).decode(errors="backslashreplace"),
        "permissions": "".join(letter for letter in "rwxsp" if letter in permissions),
        "device": region.device,
        "inode": region.inode,
    }


def _numbers(value: str | None) -> list[int]:
    return [int(word) for word in (value or "").split()]


@lru_cache(maxsize=256)  # a host has a handful of different sets, and every process five of them
def _capabilities(value: str) -> str | list[str]:
    """The names in a set; `all` for every one that there is."""
    bits = int(value, 16)
    # The kernel's last capability may be lower or higher than ours: all that it has counts as all.
    if bits and bits & (bits + 1) == 0 and bits >= _ALL_CAPABILITIES >> 4:
        return "all"
    return [
        _CAPABILITIES[bit] if bit < len(_CAPABILITIES) else str(bit)
        for bit in range(bits.bit_length())
        if bits >> bit & 1
    ]


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
