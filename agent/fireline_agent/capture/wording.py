"""How a host's own names are shown to a person in a finding: whatever they hold, they stay on one line."""


def shown(raw: bytes) -> str:
    r"""Bytes as one line of text; invalid UTF-8 and control characters as \xNN, so that no name can fake a line."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in raw.decode(errors="backslashreplace")
    )
