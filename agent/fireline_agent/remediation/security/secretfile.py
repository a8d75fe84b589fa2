"""A secret in a file: the whole of it, or variables of an environment file; read, made anew, put in. Pure.

Of an environment file every other byte stays: comments, order, quotes, line ends. A variable that is a URL keeps all
but its password.

Sources: Compose's env_file format, systemd.exec(5) EnvironmentFile, RFC 3986 section 3.2.1.
"""

import re
import secrets
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import unquote

from fireline_agent.remediation.action import ActionError

# Letters and digits alone need no quoting in a file, a URL or a command: 40 of them are 238 bits.
_LETTERS: Final = string.ascii_letters + string.digits
LETTERS: Final = 40
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,200}\Z")
_ASSIGNMENT: Final = re.compile(rb"(?P<head>[ \t]*(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_.]*)[ \t]*=[ \t]*)")
_VALUE: Final = re.compile(
    rb"(?P<quote>[\"']?)(?P<value>.*?)(?P=quote)(?P<tail>(?:[ \t]+#[^\r\n]*)?[ \t]*\r?\n?)\Z", re.DOTALL
)
_URL: Final = re.compile(
    r"(?P<head>[a-z][a-z0-9+.-]*://[^\s/:@]*:)(?P<password>[^\s/]+)(?P<tail>@.*)\Z", re.IGNORECASE | re.DOTALL
)


def new_secret() -> str:
    """A random secret."""
    return "".join(secrets.choice(_LETTERS) for _ in range(LETTERS))


def require_names(keys: Sequence[str]) -> None:
    """Check that these are names of variables.

    Raises:
        ActionError: one is not.
    """
    for key in keys:
        if not _NAME.match(key):
            raise ActionError(f"keys: wanted names of variables, found {key[:50]!r}", reason="refused")


def current(content: bytes, keys: Sequence[str]) -> str:
    """The secret as it stands: the whole file without its last line end, or the first of these variables.

    Raises:
        ActionError: one of the variables is not there, or the file is empty.
    """
    if not keys:
        found = content.decode(errors="surrogateescape").removesuffix("\n").removesuffix("\r")
    else:
        values = variables(content)
        require_present(values, keys)
        found = _password(values[keys[0]])
    return found


def variables(content: bytes) -> dict[str, str]:
    """The variables of an environment file; of one that stands there twice, the last."""
    return {name.decode(): value.decode(errors="surrogateescape") for name, value in _assignments(content)}


def require_present(values: Mapping[str, str], keys: Sequence[str]) -> None:
    """Check that all of these variables are there; says which are, never what they hold.

    Raises:
        ActionError: one is not.
    """
    lacking = [key for key in keys if key not in values]
    if lacking:
        there = ", ".join(sorted(values)[:50]) or "none"
        raise ActionError(f"the file has no variable {', '.join(lacking)}; it has {there}", reason="not_found")


def with_secrets(content: bytes, fresh: Mapping[str, str]) -> bytes:
    """An environment file with other secrets in these variables; a URL gets another password."""
    return b"".join(_with_line(line, fresh) for line in content.splitlines(keepends=True))


def with_secret(content: bytes, keys: Sequence[str], secret: str) -> bytes:
    """The file with another secret in it: in all of these variables, or as the whole."""
    if keys:
        return with_secrets(content, dict.fromkeys(keys, secret))
    end = b"\n" if content.endswith(b"\n") else b""
    return secret.encode() + end


def _assignments(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in content.splitlines(keepends=True):
        head = _ASSIGNMENT.match(line)
        if head is not None:
            yield head["name"], _parsed(line, head)["value"]


def _with_line(line: bytes, fresh: Mapping[str, str]) -> bytes:
    head = _ASSIGNMENT.match(line)
    secret = fresh.get(head["name"].decode()) if head is not None else None
    if head is None or secret is None:
        return line
    found = _parsed(line, head)
    url = _URL.match(found["value"].decode(errors="surrogateescape"))
    value = f"{url['head']}{secret}{url['tail']}" if url else secret
    quote: bytes = found["quote"]
    return head["head"] + quote + value.encode(errors="surrogateescape") + quote + found["tail"]


def _parsed(line: bytes, head: "re.Match[bytes]") -> "re.Match[bytes]":
    found = _VALUE.match(line, head.end())
    if found is None or (not found["quote"] and found["value"][:1] in (b'"', b"'")):
        name = head["name"].decode()
        raise ActionError(f"variable {name} goes over several lines: this can't be rewritten safely", reason="refused")
    return found


def _password(value: str) -> str:
    url = _URL.match(value)
    return unquote(url["password"]) if url else value
