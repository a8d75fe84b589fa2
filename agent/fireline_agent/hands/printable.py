"""Makes untrusted text fit for a line on an operator's screen. Leaves to others: artifacts, where text stays exact."""

from typing import Final

MAX_LETTERS: Final = 200


def printable(words: str, *, limit: int = MAX_LETTERS) -> str:
    r"""The first `limit` letters, with line breaks, escape sequences and lone surrogates shown as \xNN."""
    shown = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in words[:limit])
    return shown if len(words) <= limit else f"{shown}…"


def shown(raw: bytes) -> str:
    r"""A host's own name, whatever bytes it holds, as one line: invalid UTF-8 and control characters as \xNN."""
    return printable(raw.decode(errors="backslashreplace"))
