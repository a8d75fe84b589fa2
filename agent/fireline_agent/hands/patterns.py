"""Looks for a pattern of an operator's in blocks of lines, and ends one that explodes.

Python's expressions can take exponential time, and a host pays for it. A subset that can't (as RE2's) is in no library
that every host has; so each block has its time, and an expression that needs more is stopped by a signal, which the
matcher looks for as it goes (Modules/_sre, MAYBE_CHECK_SIGNALS), and named. Only in a process's main thread.
"""

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

MAX_PATTERN: Final = 1000  # characters
_BREAK: Final = 10  # a line's end
_SAMPLE_BYTES: Final = 1 << 13  # of a block, to see which letters are rare in it
_RARE: Final = 300  # bytes for one of the letter, at least: each costs as much as so many bytes of a plain search
BLOCK_TIMEOUT_S: Final = 5.0  # a block of 1 MiB takes a sound expression some hundredths

# What may match a line break, or the end of all rather than of a line: such an expression sees one line at a time.
_CROSSING: Final = re.compile(r"\\[sWDAZnrvfx0-9uUN]|\[\^|\(\?[a-zA-Z]*[sx-]|\(\?<?[=!]")

Find = Callable[[bytearray, int, int], list[int]]


class BadPattern(ValueError):
    """It is no regular expression, or one that explodes; the message says where or on what."""


def text(words: list[str], *, is_case_ignored: bool = False) -> Find:
    """Finds the lines with one of these texts: where they begin, between two places of a buffer.

    In any case means in ASCII's letters.
    """
    raw = [word.encode(errors="surrogateescape") for word in words]

    def find(buffer: bytearray, begin: int, end: int) -> list[int]:
        return _merged([_with(word, buffer, begin, end) for word in raw])

    def find_in_any_case(buffer: bytearray, begin: int, end: int) -> list[int]:
        block = buffer[begin:end].lower()
        found = [_with(word.lower(), block, 0, len(block)) for word in raw]
        return [begin + start for start in _merged(found)]

    return find_in_any_case if is_case_ignored else find


def expression(pattern: str, *, is_case_ignored: bool = False) -> Find:
    """Finds the lines that a regular expression fits, as `grep -E` would: by lines, `^` and `$` at their ends.

    Raises:
        BadPattern: it is none; and from the function returned, it explodes.
    """
    if len(pattern) > MAX_PATTERN:
        raise BadPattern(f"wanted at most {MAX_PATTERN} characters, found {len(pattern)}")
    flags = re.MULTILINE | (re.IGNORECASE if is_case_ignored else 0)
    try:
        compiled = re.compile(pattern.encode(errors="surrogateescape"), flags)
    except (re.error, RecursionError, OverflowError) as error:
        raise BadPattern(f"{pattern[:100]!r} is no regular expression: {error}") from None
    find = _by_line(compiled) if _CROSSING.search(pattern) else _found(compiled)

    def bounded(buffer: bytearray, begin: int, end: int) -> list[int]:
        with _alarm(f"{pattern[:100]!r} took over {BLOCK_TIMEOUT_S:g} s on {(end - begin) >> 10} KiB"):
            return find(buffer, begin, end)

    return bounded


def _with(word: bytes, buffer: bytearray, begin: int, end: int) -> list[int]:
    """Where the lines with a word begin; by way of its rarest letter where that is rare in these lines.

    One letter is found at memory's speed (memchr(3)), a word several times slower.
    """
    sample = buffer[begin : min(end, begin + _SAMPLE_BYTES)]
    count, letter = min((sample.count(letter), letter) for letter in set(word))
    if count * _RARE > len(sample):
        return _lines(lambda place: buffer.find(word, place, end), buffer, begin, end)
    return _by_letter(word, word.index(letter), buffer, begin, end)


def _by_letter(word: bytes, offset: int, buffer: bytearray, begin: int, end: int) -> list[int]:
    """As `_lines`, written out: a call less for each line is a fifth of the time where there are many."""
    find, letter, found = buffer.find, word[offset], []
    at = find(letter, begin + offset, end)
    while at >= 0:
        if buffer.startswith(word, at - offset, end):
            found.append(buffer.rfind(_BREAK, begin, at) + 1 or begin)
            at = find(_BREAK, at, end)
            if at < 0:
                break
            at = find(letter, at + 1 + offset, end)
        else:
            at = find(letter, at + 1, end)
    return found


def _merged(found: list[list[int]]) -> list[int]:
    return found[0] if len(found) == 1 else sorted(set().union(*found))


def _found(compiled: re.Pattern[bytes]) -> Find:
    def find(buffer: bytearray, begin: int, end: int) -> list[int]:
        def after(place: int) -> int:
            found = compiled.search(buffer, place, end)
            return found.start() if found else -1

        return _lines(after, buffer, begin, end)

    return find


def _by_line(compiled: re.Pattern[bytes]) -> Find:
    def find(buffer: bytearray, begin: int, end: int) -> list[int]:
        found, start = [], begin
        for line in bytes(memoryview(buffer)[begin:end]).split(b"\n"):
            if compiled.search(line) and start < end:
                found.append(start)
            start += len(line) + 1
        return found

    return find


def _lines(after: Callable[[int], int], buffer: bytearray, begin: int, end: int) -> list[int]:
    """Where the lines begin that hold a place; each line once."""
    found = []
    place = after(begin)
    while place >= 0:
        found.append(buffer.rfind(b"\n", begin, place) + 1 or begin)
        line_break = buffer.find(b"\n", place, end)
        if line_break < 0 or line_break + 1 >= end:
            break
        place = after(line_break + 1)
    return found


@contextmanager
def _alarm(what: str) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # no signal comes here; whoever started this thread bounds it
        return

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise BadPattern(f"{what}: write it without a repeat inside a repeat")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, BLOCK_TIMEOUT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
