"""How a host's own names are shown to a person in a finding: whatever bytes they hold, they stay on one line."""

from fireline_agent.capture.printable import printable


def shown(raw: bytes) -> str:
    r"""Bytes as one line of text; invalid UTF-8 and control characters as \xNN, so that no name can fake a line."""
    return printable(raw.decode(errors="backslashreplace"))
