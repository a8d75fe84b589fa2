"""A runbook's bytes as plain values, with the line and column of every one of them. YAML 1.2's core, and less of it.

Refused, because people are bitten by them: anchors and aliases, tags, keys given twice, `yes` for true, `1:30` for 90.
Leaves to others: which keys there are and what they mean (shapes), and whether the whole makes sense (checking).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from fireline_controller.model import ConfigError

MAX_BYTES: Final = 256 << 10  # a runbook is some pages of text; this protects against a wrong path
MAX_PROBLEMS: Final = 100  # of one file: nobody reads more, and a hostile file could make a million
MAX_DEPTH: Final = 20  # a step in a parallel step has 8

Path = tuple[str | int, ...]

_TAG: Final = "tag:yaml.org,2002:"
# What YAML 1.1 makes of a scalar without a tag; which of them it is, `_plain` decides.
_PLAIN_TAGS: Final = frozenset({"str", "int", "float", "bool", "null", "timestamp", "merge", "value"})
_WHOLE: Final = re.compile(r"-?\d{1,18}\Z")
_NUMBER: Final = re.compile(r"-?\d{1,18}\.\d{1,18}\Z")
_WORDS: Final = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True, order=True)
class Problem:
    """Something in a file that is wrong. Lines and columns count from 1; the message says what to write instead."""

    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.message}"


class RunbookError(ConfigError):
    """A file is no runbook, or a wrong one; the message has a line for each problem: `file:line:column: …`."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(f"{file}:{problem}" for problem in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class _Spot:
    """Where a value stands: its key, and its node; the file's own value has no key."""

    node: yaml.Node
    key: yaml.Node | None = None


@dataclass(frozen=True)
class Document:
    """The values of a file, and where they stand: `("steps", 0, "timeout")` is a place."""

    text: str
    value: Any
    spots: Mapping[Path, _Spot]

    def place(self, path: Path, *, is_key: bool = False) -> tuple[int, int]:
        """Line and column of a value, or of its key; of the nearest thing around it where it is not in the file."""
        while path not in self.spots:
            path = path[:-1]
        spot = self.spots[path]
        mark = (spot.key or spot.node if is_key else spot.node).start_mark
        return mark.line + 1, mark.column + 1

    def within(self, path: Path, line: int, column: int) -> tuple[int, int]:
        """Line and column in the file of a place in a text, where text and file agree; else of the text's beginning."""
        start = self.place(path)
        spot = self.spots.get(path)
        node = spot.node if spot else None
        if not isinstance(node, yaml.ScalarNode):
            return start
        if node.style == "|":
            return self._in_block(node, line, column)
        raw = self.text[node.start_mark.index : node.end_mark.index]
        mark = 1 if node.style in ("'", '"') else 0
        is_same = raw[mark : len(raw) - mark] == node.value and line == 1
        return (start[0], start[1] + mark + column - 1) if is_same else start

    def _in_block(self, node: yaml.ScalarNode, line: int, column: int) -> tuple[int, int]:
        lines = self.text[node.start_mark.index : node.end_mark.index].split("\n")[1:]
        indent = min((len(text) - len(text.lstrip(" ")) for text in lines if text.strip()), default=0)
        return node.start_mark.line + 1 + line, indent + column


class _Loader(yaml.SafeLoader):
    """Goes no deeper than a runbook does: each level costs more than the one before."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """See yaml.composer."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # the stubs leave its type out
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH}: no runbook is", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


@dataclass
class _Reader:
    spots: dict[Path, _Spot] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    def value(self, node: yaml.Node, path: Path, key: yaml.Node | None = None) -> Any:
        """The node as a plain value; where it can't be one, a problem is noted and it is None."""
        self.spots[path] = _Spot(node, key)
        if id(node) in self.seen:
            return self._refuse(node, "an alias (*name) is not taken here: write the value out")
        self.seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, path)
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> Any:
        if node.tag != f"{_TAG}map":
            return self._refuse(node, f"the tag {_shown(node.tag)} is not taken: leave it out")
        found: dict[str, Any] = {}
        for key, member in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._refuse(key, "wanted a word as a key, found a list or a mapping")
            elif key.value in found:
                self._refuse(key, f"{_shown(key.value)} is given twice: keep one")
            else:
                found[key.value] = self.value(member, (*path, key.value), key)
        return found

    def _sequence(self, node: yaml.SequenceNode, path: Path) -> Any:
        if node.tag != f"{_TAG}seq":
            return self._refuse(node, f"the tag {_shown(node.tag)} is not taken: leave it out")
        return [self.value(member, (*path, index)) for index, member in enumerate(node.value)]

    def _scalar(self, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode) or node.tag.removeprefix(_TAG) not in _PLAIN_TAGS:
            return self._refuse(node, f"the tag {_shown(node.tag)} is not taken: leave it out")
        return node.value if node.style else _plain(node.value)

    def _refuse(self, node: yaml.Node, message: str) -> None:
        self.problems.append(Problem(node.start_mark.line + 1, node.start_mark.column + 1, message))


def parse(raw: bytes) -> tuple[Document | None, tuple[Problem, ...]]:
    """The values of a file and what is wrong with its form; no values where nothing can be made of it."""
    if len(raw) > MAX_BYTES:
        return None, (Problem(1, 1, f"wanted at most {MAX_BYTES} bytes: this is no runbook"),)
    try:
        text = raw.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return None, (Problem(line, column, f"wanted UTF-8 text, found the byte 0x{raw[error.start]:02x}"),)
    return _read(text)


def _read(text: str) -> tuple[Document | None, tuple[Problem, ...]]:
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        return None, (_not_yaml(error, text),)
    if node is None:
        return None, (Problem(1, 1, "the file is empty: begin with `apiVersion: fireline/v1`"),)
    reader = _Reader()
    value = reader.value(node, ())
    return Document(text, value, reader.spots), tuple(reader.problems[:MAX_PROBLEMS])


def _not_yaml(error: yaml.YAMLError, text: str) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        return Problem(line, column, f"no YAML: {what}")
    before = text[: getattr(error, "position", 0)]
    return Problem(
        before.count("\n") + 1,
        len(before) - before.rfind("\n"),
        "no YAML: a character that text can't hold; remove it",
    )


def _plain(text: str) -> Any:
    """A scalar without quotes: true, false, null, a number, or the text itself, dates too."""
    if text.lower() in _WORDS and text in {text.lower(), text.capitalize(), text.upper()}:
        return _WORDS[text.lower()]
    if _WHOLE.match(text):
        return int(text)
    return float(text) if _NUMBER.match(text) else text


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
