"""Takes the values out of a statement, so that its text can be shown: they may be passwords and people's data.

Follows the server's own lexer (PostgreSQL documentation, "Lexical Structure"), with standard_conforming_strings on, its
default. A text that was cut off in the middle of a literal is masked to its end.
"""

import re
from typing import Final

MASK: Final = "?"

_TOKEN: Final = re.compile(
    r"""
    (?P<kept> "(?:[^"]|"")*(?:"|\Z) | \$\d+ | [A-Za-z_\x80-\uffff][\w$]*(?![\w$']) )
    | (?P<value>
        (?:\b[eE])'(?:[^'\\]|\\.|'')*(?:'|\\?\Z)
      | (?:\b[bBnNxX])?'(?:[^']|'')*(?:'|\Z)
      | \$(?P<tag>[A-Za-z_]\w*|)\$.*?(?:\$(?P=tag)\$|\Z)
      | \d[\w.]*
      )
    | (?P<comment> --[^\n]* | /\*(?:(?!/\*|\*/).)*\*/ | /\*.*\Z )
    """,
    re.VERBOSE | re.DOTALL,
)


def masked(statement: str) -> str:
    """The statement with every literal as `?`, without its comments, on one line."""
    return " ".join(_TOKEN.sub(_shown, statement).split())


def _shown(found: re.Match[str]) -> str:
    if found["kept"] is not None:
        return found["kept"]
    return MASK if found["value"] is not None else " "
