"""The one rule by which secrets are kept out of evidence: what a name or a value gives away as secret is masked.

Used for process environments and for everything a container engine says. It errs towards masking: a value masked
in vain can be read on the host, a password in sealed evidence can't be taken back. Leaves to others: whether to mask.
"""

import re
from typing import Any, Final

MASK: Final = "[masked]"

# Anywhere in the name, since these run together with other words: PGPASSWORD, AUTHTOKEN, APIKEY, DBPASS.
_RUN_TOGETHER: Final = re.compile(
    r"passw|passphrase|secret|token|credential|apikey|privatekey|accesskey|pass$", re.IGNORECASE
)
# As a word of its own only, since it is also a part of harmless ones: KEYBOARD, AUTHOR, COLORS.
_WORDS: Final = frozenset(
    {"auth", "cookie", "credentials", "creds", "dsn", "jwt", "key", "keys", "pass", "pin", "pwd", "salt"}
)
# Names that hold such a word and are no secret: directories, the agent's socket, Docker's path of a network namespace.
_HARMLESS: Final = frozenset({"OLDPWD", "PWD", "SSH_AUTH_SOCK", "SandboxKey", "XAUTHORITY"})
# POSTGRES_PASSWORD_FILE=/run/secrets/db names the place of a secret; the place is what a responder wants to know.
_PLACES: Final = frozenset({"dir", "file", "path", "sock", "socket"})
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# Secrets that show by themselves, whatever they are called.
_SECRET_VALUE: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-{5}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # JSON Web Token, RFC 7519
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS access key id
    r"|\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|sk_live_)\w{8,}"
)
# scheme://user:password@host, RFC 3986 section 3.2.1. The password may hold an unescaped @: take the last one.
_URL_PASSWORD: Final = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/]+(@)", re.IGNORECASE)

# `name=value`, `name: value`, `"name": "value"` anywhere in a line of text; and what follows the scheme of RFC 7235.
_PAIR: Final = re.compile(r"""(?<![\w.-])([A-Za-z_][\w.-]*)(["'\\]{0,4}\s?[=:]\s?["'\\]{0,4})([^\s"'\\,;&}\])]+)""")
_AUTHORIZATION: Final = re.compile(r"\b(Bearer|Basic|Digest) +[^\s\"',]+", re.IGNORECASE)


def mask(key: str, value: str) -> str:
    """Mask a value that its name or its own shape gives away as secret; an empty value stays empty, which tells much.

    A URL keeps all but its password.
    """
    if not value or key in _HARMLESS:
        return value
    if _is_secret_name(key, value) or _SECRET_VALUE.search(value):
        return MASK
    return _URL_PASSWORD.sub(rf"\g<1>{MASK}\g<2>", value)


def mask_assignments(assignments: list[str]) -> list[str]:
    """Mask the values of `KEY=VALUE` strings, such as an environment; a string without `=` is masked by its shape."""
    return [_mask_assignment(assignment) for assignment in assignments]


def mask_text(text: str) -> str:
    """Mask the values of a secret's name within free text, such as a line of a log, and what shows by itself."""
    text = _AUTHORIZATION.sub(rf"\g<1> {MASK}", text)
    text = _URL_PASSWORD.sub(rf"\g<1>{MASK}\g<2>", text)
    text = _mask_pairs(text)
    return _SECRET_VALUE.sub(MASK, text)


def _mask_pairs(text: str) -> str:
    """In `failed: password: x` what follows a harmless name is a pair itself, so that is looked at as well."""
    shown, at, end = [], 0, 0
    while (pair := _PAIR.search(text, at)) is not None:
        masked = mask(pair[1], pair[3])
        if masked == pair[3]:
            at = pair.start(3)
            continue
        shown += [text[end : pair.start(3)], masked]
        at = end = pair.end()
    return "".join(shown) + text[end:]


def mask_tree(value: Any) -> Any:
    """Mask a JSON value: strings under a secret's name, and the assignments of every list called `Env`."""
    if isinstance(value, dict):
        return {key: _mask_member(str(key), member) for key, member in value.items()}
    if isinstance(value, list):
        return [mask_tree(member) for member in value]
    return value


def _mask_member(key: str, member: Any) -> Any:
    if isinstance(member, str):
        return mask(key, member)
    if key == "Env" and isinstance(member, list):
        return mask_assignments([str(assignment) for assignment in member])
    return mask_tree(member)


def _mask_assignment(assignment: str) -> str:
    key, equals, value = assignment.partition("=")
    return f"{key}={mask(key, value)}" if equals else mask("", assignment)


def _is_secret_name(key: str, value: str) -> bool:
    words = {word.lower() for word in _WORD.findall(key)}
    if "public" in words or (words & _PLACES and value.startswith("/")):
        return False
    return bool(words & _WORDS) or _RUN_TOGETHER.search(key.replace("_", "").replace("-", "")) is not None
