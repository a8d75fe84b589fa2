"""Judges files and processes by what intruders do with them: pure, from what was read to what stands out.

It errs towards telling: a responder looks at the moment of a breach, not every day. Leaves to others: reading and
noting (recent_files, processes).
"""

import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from fireline_agent.hands.printable import printable, shown
from fireline_agent.hands.secrets import MASK, mask_assignments

_SHOWN_LETTERS: Final = 120  # of a command line, in a sentence

_TEMPORARY: Final = (b"/tmp/", b"/var/tmp/", b"/dev/shm/", b"/run/user/", b"/dev/mqueue/")
_WEB_ROOT: Final = re.compile(
    rb"/(?:var/www|srv/(?:www|http|ftp)|usr/share/nginx/html|usr/local/apache2/htdocs|opt/lampp/htdocs|[^/]*htdocs"
    rb"|public_html|wwwroot|webapps)/"
)
_WEB_SCRIPT: Final = re.compile(rb"\.(?:php\d?|phtml|phar|jspx?|aspx?|cgi|pl|py|sh)\Z", re.IGNORECASE)
_STARTUP: Final = re.compile(
    rb"/etc/(?:cron[^/]*/.+|crontab|anacrontab|rc\.local|init\.d/.+|systemd/(?:system|user)/.+|profile|profile\.d/.+"
    rb"|bash\.bashrc|ld\.so\.preload|ld\.so\.conf\.d/.+|pam\.d/.+|sudoers|sudoers\.d/.+|passwd|shadow|group"
    rb"|ssh/sshd_config(?:\.d/.+)?|udev/rules\.d/.+|modules-load\.d/.+|update-motd\.d/.+)\Z"
    rb"|/var/spool/(?:cron|at)/.+\Z"
    rb"|(?:/root|/home/[^/]+)/\.(?:ssh/authorized_keys2?|bashrc|bash_profile|profile|zshrc|config/systemd/user/.+"
    rb"|config/autostart/.+)\Z"
)
_SYSTEM_PROGRAM: Final = re.compile(rb"/(?:usr/)?(?:local/)?s?bin/[^/]+\Z|/(?:usr/)?lib(?:64|exec)?/.*\.so[^/]*\Z")

_SHELLS: Final = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh", "fish", "csh", "tcsh", "busybox"})
_INTERPRETERS: Final = re.compile(r"(?:python|perl|ruby|php|lua|node|awk|gawk|mawk|expect|tclsh)[\d.]*\Z")
_CATS: Final = frozenset({"nc", "ncat", "netcat", "nc.openbsd", "nc.traditional", "socat", "cryptcat"})
_FETCHERS: Final = frozenset({"wget", "curl"})
_SECRET_FOLLOWS: Final = frozenset(
    {"-u", "--user", "-H", "--header", "-d", "--data", "--password", "--post-data", "-b"}
)
# What a shell or an interpreter is told on its command line when it is to let somebody in or fetch something.
_ONE_LINER: Final = re.compile(
    r"/dev/(?:tcp|udp)/|socket\.socket|fsockopen|Socket::INET|TCPSocket|pty\.spawn|os\.dup2"
    r"|base64\s+(?:-d|--decode)[^|]*\|\s*(?:ba|da|z|k)?sh|(?:curl|wget)\b[^|;]*\|\s*(?:sudo\s+)?(?:ba|da|z|k)?sh\b"
    r"|mkfifo\b.*\|\s*(?:nc|ncat|openssl)\b"
)


def judge_file(path: bytes, mode: int, head: bytes, *, has_capabilities: bool) -> Iterator[tuple[str, str, str]]:
    """What stands out of a regular file that was changed of late: (severity, code, sentence).

    Args:
        path: on the host.
        mode: as st_mode.
        head: its first bytes.
        has_capabilities: it carries file capabilities.
    """
    is_program = head.startswith(b"\x7fELF") or (head.startswith(b"#!") and bool(mode & 0o111))
    if mode & (stat.S_ISUID | stat.S_ISGID) and mode & 0o111:
        yield "critical", "recent-setuid-file", f"changed of late, and runs with its owner's rights: mode {mode:04o}"
    elif has_capabilities:
        yield "critical", "recent-setuid-file", "changed of late, and carries file capabilities"
    if path.startswith(_TEMPORARY) and is_program:
        yield "warning", "recent-program-in-temporary-folder", "a program in a folder for temporary files"
    elif _SYSTEM_PROGRAM.search(path) and is_program:
        yield "notice", "recent-system-program", "a program or library of the system was changed: an upgrade, or not"
    if _WEB_ROOT.search(path) and (_WEB_SCRIPT.search(path) or b"<?php" in head):
        yield "warning", "recent-script-in-web-root", "a script that a web server may run for anybody"
    if _STARTUP.search(path):
        yield "warning", "recent-startup-file", "decides what runs, or who may log in, at the next start or login"


def judge_process(
    exe: bytes | None, cmdline: Sequence[str], descriptors: Mapping[int, bytes], sockets: Mapping[bytes, str]
) -> Iterator[tuple[str, str, str]]:
    """What stands out of a process by what it runs and holds: (severity, code, sentence).

    Args:
        exe: the program's file, whatever the process calls itself.
        cmdline: its arguments.
        descriptors: its open files, as /proc/PID/fd shows them.
        sockets: what `socket:[INODE]` links lead to over the network, as `ADDRESS:PORT`, in its network namespace.
    """
    name = _name(exe)
    is_shell = _is_shell(name)
    if not is_shell and name not in _CATS and name not in _FETCHERS:
        return
    told = printable(" ".join(_without_secrets(cmdline)), limit=_SHOWN_LETTERS)
    peer = next((sockets[link] for number, link in descriptors.items() if number <= 2 and link in sockets), "")
    if peer and is_shell:
        yield "critical", "shell-on-socket", f"{name} reads from or writes to a network connection, {peer}: {told}"
    if is_shell:
        if _ONE_LINER.search(" ".join(cmdline)):
            yield (
                "warning",
                "suspicious-process",
                f"is told by its arguments to connect or to run a download: {told}",
            )
    elif name in _CATS:
        yield "warning", "suspicious-process", f"{name} moves bytes between network and programs: {told}"
    elif name in _FETCHERS:
        yield "notice", "suspicious-process", f"{name} fetches or sends something: {told}"


def is_worth_a_look(exe: bytes | None) -> bool:
    """Whether a process's network connections decide what it is: the tables of a namespace are long."""
    return _is_shell(_name(exe))


def _is_shell(name: str) -> bool:
    """A shell, or an interpreter that does what it is told on its command line as well."""
    return name in _SHELLS or _INTERPRETERS.match(name) is not None


def _without_secrets(cmdline: Sequence[str]) -> Iterator[str]:
    """The arguments for a sentence that many will read; all of them stand in the evidence."""
    is_secret = False
    for argument in mask_assignments(list(cmdline)):
        yield MASK if is_secret else argument
        is_secret = argument in _SECRET_FOLLOWS


def _name(exe: bytes | None) -> str:
    return shown((exe or b"").removesuffix(b" (deleted)").rpartition(b"/")[2])
