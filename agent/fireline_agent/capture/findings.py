"""Every code that a finding can have: how grave, from which collectors, and what it means to who reads it.

A reference for people, docs/reference/collectors.md is made of it; a test holds the collectors' own calls to it. Leaves
to others: noting findings (the sink), the sentence about the case at hand (the collectors).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Code:
    """What one code means. Where there are several severities, `meaning` says which is when."""

    severities: tuple[str, ...]
    collectors: tuple[str, ...]
    meaning: str


def _critical(*collectors: str, meaning: str) -> Code:
    return Code(("critical",), collectors, meaning)


def _warning(*collectors: str, meaning: str) -> Code:
    return Code(("warning",), collectors, meaning)


def _notice(*collectors: str, meaning: str) -> Code:
    return Code(("notice",), collectors, meaning)


_HOST: Final = {
    "clock-offset": _warning(
        "clocks", meaning="The host's clock is away from the controller's by more than the measurement explains."
    ),
    "kernel-tainted": Code(
        ("warning", "notice"),
        ("system",),
        "The kernel carries taint flags; a warning where a module was forced in or out, is out of tree or unsigned.",
    ),
    "filesystem-full": _warning("filesystems", meaning="Space or inodes of a file system are nearly used up."),
    "filesystem-hangs": _warning(
        "filesystems", meaning="A file system gives no answer: a dead network share or FUSE server."
    ),
}

_NETWORK: Final = {
    "listener-in-foreign-netns": _warning(
        "sockets",
        meaning="A process listens in a network namespace of no container: ss(8) on the host does not show it.",
    ),
    "packet-socket": _warning("sockets", meaning="A process reads raw frames: a sniffer, a DHCP client or a monitor."),
    "promiscuous-link": _warning("network", meaning="A link takes in frames that are not its own."),
    "xdp-program": _warning("network", meaning="An eBPF program sees every frame before the firewall does."),
}

_PROCESSES: Final = {
    "deleted-executable": Code(
        ("critical", "warning", "notice"),
        ("executables",),
        "A program runs whose file is deleted; its bytes are kept. Critical from a folder for temporary files "
        "or while it listens, a notice where an upgrade put another file in its place.",
    ),
    "memfd-executable": Code(
        ("critical", "notice"),
        ("executables",),
        "A program runs from memory only; the evidence has its bytes. A notice for the container runtime's own copy.",
    ),
    "fake-kernel-thread": Code(
        ("critical", "warning"),
        ("executables",),
        "A program passes itself off as a kernel thread: by its name, or, as a warning, by its parent.",
    ),
    "hidden-process": _critical(
        "hidden_processes", meaning="A process that other views show is missing from the listing of /proc, twice."
    ),
    "ld-preload": Code(
        ("critical", "warning", "notice"),
        ("processes",),
        "A library is put into programs. Critical in /etc/ld.so.preload, a warning in a process's environment, "
        "a notice there in a container.",
    ),
    "tracer-attached": _warning("processes", meaning="A process is traced: its tracer reads and changes all it does."),
    "proc-restricted": _notice(
        "processes", "hidden_processes", meaning="/proc does not show everything to the agent: less was seen."
    ),
}

_INTRUSION: Final = {
    "shell-on-socket": _critical(
        "processes", meaning="A shell or an interpreter has a network connection as its input or output."
    ),
    "suspicious-process": Code(
        ("warning", "notice"),
        ("processes",),
        "A program moves bytes over the network, or is told to by its arguments: a warning for netcat and one-liners, "
        "a notice for wget and curl, and in a container.",
    ),
    "recent-setuid-file": _critical(
        "recent_files", meaning="A program with its owner's rights, or with capabilities, was changed of late."
    ),
    "recent-program-in-temporary-folder": _warning(
        "recent_files", meaning="A program was put into a folder for temporary files."
    ),
    "recent-script-in-web-root": _warning("recent_files", meaning="A script was put where a web server may run it."),
    "recent-startup-file": _warning(
        "recent_files", meaning="What runs or who may log in at the next start or login was changed."
    ),
    "recent-system-program": _notice("recent_files", meaning="A program or library of the system was changed."),
}

_KERNEL: Final = {
    "login-record-wiped": _warning(
        "sessions", meaning="A log of logins holds records of zeros: logins were wiped out of it."
    ),
    "root-session-remote": _notice("sessions", meaning="root is logged in from another machine."),
    "module-hidden": _critical("modules", meaning="A kernel module is missing from /proc/modules but shows elsewhere."),
    "module-list-missing": _warning(
        "modules", meaning="/proc/modules can't be read although other views know modules."
    ),
    "module-not-in-sysfs": _warning("modules", meaning="A loaded module was taken out of /sys/module."),
    "module-taints": _notice("modules", meaning="A module is unsigned, out of tree, proprietary or was forced in."),
    "bpf-kernel-hook": _notice(
        "bpf", meaning="An eBPF program hooks the kernel itself: tracing tools do, rootkits too."
    ),
    "core-pattern-pipe": _warning(
        "sysctl", meaning="Every crash runs a program as root that is no crash handler known to Fireline."
    ),
    "modprobe-path-changed": _warning(
        "sysctl", meaning="The kernel loads modules through another program than modprobe."
    ),
    "uevent-helper-set": _warning("sysctl", meaning="The kernel runs a program as root at every device event."),
    "kernel-oom-kill": _critical("kernel_log", meaning="The kernel killed processes for want of memory."),
    "kernel-bug": _critical("kernel_log", meaning="The kernel itself failed: a bug, an oops or a panic."),
    "kernel-io-error": _critical("kernel_log", meaning="A disk or file system failed."),
    "kernel-hung-task": _warning("kernel_log", meaning="Processes hung in the kernel."),
    "kernel-lockup": _warning("kernel_log", meaning="A processor was stuck."),
    "kernel-module-unsigned": _warning("kernel_log", meaning="A module without a valid signature was loaded."),
    "bpf-writes-memory": _warning(
        "kernel_log", meaning="An eBPF program came in that can write other processes' memory."
    ),
    "kernel-segfault": _notice("kernel_log", meaning="Programs crashed."),
    "kernel-table-full": _notice(
        "kernel_log", meaning="A table of connections or neighbours was full: packets were lost."
    ),
}

_CONTAINERS: Final = {
    "container-crash-looping": _critical("docker_containers", meaning="A container crashes and is started again."),
    "critical-service-down": _critical(
        "docker_containers", meaning="A container that the configuration calls critical is not running."
    ),
    "container-unhealthy": _warning("docker_containers", meaning="A container fails its health check."),
    "container-oom-killed": _warning("docker_containers", meaning="A container was killed for want of memory."),
    "container-dead": _warning("docker_containers", meaning="A container is dead: it could not be removed."),
    "container-risky-settings": Code(
        ("warning", "notice"),
        ("docker_containers",),
        "A container is set so that it can reach the host; a warning where it could become the host's root.",
    ),
    "containers-left-out": _warning(
        "docker_containers", meaning="There are more containers than are looked into: the rest is listed only."
    ),
    "docker-api-exposed": _critical("docker_engine", meaning="The engine says that its API is open to the network."),
    "docker-engine-not-answering": _critical(
        "docker_containers", "docker_engine", meaning="The engine is there and refuses, hangs or answers garbage."
    ),
}

_FILES: Final = {
    "content-kept-in-part": _notice(
        "selected_files",
        meaning="The files did not fit into what the capture may write: all are listed with their hash, of some only "
        "the first and the last part is kept, or nothing.",
    ),
}

_DATABASES: Final = {
    "postgres-not-answering": _critical(
        "postgres_activity", meaning="The server is there and is down, starting, full of connections, or hangs."
    ),
    "postgres-connections-taken": Code(
        ("critical", "warning"),
        ("postgres_activity",),
        "Nine in ten connections of the server are taken; critical where none is left but those for superusers.",
    ),
}

_ANY: Final = {
    "too-many-findings": _warning(meaning="A collector noted more than is kept: the rest is in its artifacts only."),
}

FINDINGS: Final[Mapping[str, Code]] = (
    _HOST | _NETWORK | _PROCESSES | _INTRUSION | _KERNEL | _CONTAINERS | _FILES | _DATABASES | _ANY
)
