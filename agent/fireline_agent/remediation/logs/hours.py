"""The hour that a line of a log was written in, by the line's own words. Pure.

Known are ISO 8601 (with `T` or a space, or slashes), syslog's (RFC 3164, no year), the Common Log Format's, and the
JSON fields `time`, `timestamp`, `ts` and `@timestamp` in ISO 8601. The zone stays the line's own: none is told.
"""

import re
from typing import Final

UNKNOWN: Final = ""
HEAD_BYTES: Final = 14  # `2026-05-01 14:`, and so much of syslog's as tells the hour
_LOOKED_AT: Final = 512  # bytes at the start of a line

_MONTHS: Final = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_ISO: Final = re.compile(rb"(\d{4})[-/](\d\d)[-/](\d\d)[T ](\d\d):")
_SYSLOG: Final = re.compile(rb"(?:<\d{1,3}>)?([A-Z][a-z]{2}) ([ \d]\d) (\d\d):")
_COMMON: Final = re.compile(rb"\[(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):")


def of_head(head: bytes) -> str | None:
    """The hour as `2026-05-01T14`, by a line's first bytes; None where these don't tell."""
    found = _ISO.match(head)
    if found:
        return f"{found[1].decode()}-{found[2].decode()}-{found[3].decode()}T{found[4].decode()}"
    return _of_syslog(head)


def of_line(line: bytes) -> str:
    """The hour, wherever near its start the line has it; UNKNOWN where it has none."""
    line = line[:_LOOKED_AT]
    common = _COMMON.search(line)
    if common and common[2] in _MONTHS:
        month = _MONTHS.index(common[2]) + 1
        return f"{common[3].decode()}-{month:02}-{common[1].decode()}T{common[4].decode()}"
    found = _ISO.search(line)
    return (found and of_head(found[0])) or _of_syslog(line) or UNKNOWN


def _of_syslog(line: bytes) -> str | None:
    """Without a year, since the line has none: `05-01T14`."""
    found = _SYSLOG.match(line)
    if found is None or found[1] not in _MONTHS:
        return None
    return f"{_MONTHS.index(found[1]) + 1:02}-{int(found[2]):02}T{found[3].decode()}"
