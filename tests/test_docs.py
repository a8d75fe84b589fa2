"""The documents agree with the code: commands, links, quoted command lines and settings."""

import importlib.util
import re
import shlex
import tomllib
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

import pytest

from fireline_agent.config import Config
from fireline_agent.main import build_parser
from fireline_agent.policy import Policy
from fireline_controller import config, policy, profiles
from fireline_controller.model import Outcome
from fireline_controller.runbooks import checking, loading
from fireline_wire.actions import catalogue

ROOT = Path(__file__).parents[1]
WRITTEN = sorted([ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
# As much as a list of commands shows of a summary on a terminal of 80 columns.
SUMMARY_CHARACTERS = 64
# Words that stand for others in a line that shows a form.
PLACEHOLDERS = {"[OPTIONS]", "COMMAND"}


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = _generator()
COMMANDS = dict(GENERATOR.controller_commands())
AGENT_COMMANDS = GENERATOR.agent_commands()


@dataclass(frozen=True)
class Usage:
    """What the command line of one command may hold. `options`: name -> whether a value follows."""

    options: dict[str, bool]
    needs_arguments: int
    takes_arguments: int
    needs_options: frozenset[str]


def _usages() -> dict[tuple[str, ...], Usage]:
    found = {}
    for path, command in COMMANDS.items():
        options = [p for p in command.params if p.param_type_name == "option"]
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        found[path] = Usage(
            {name: not o.is_flag for o in options for name in o.opts} | {"--help": False},
            sum(a.required for a in arguments),
            100 if any(a.nargs == -1 for a in arguments) else len(arguments),
            frozenset(o.opts[0] for o in options if o.required),
        )
    parsers: dict[tuple[str, ...], ArgumentParser] = {("fireline-agent",): build_parser()}
    parsers |= {("fireline-agent", name): parser for name, (_, parser) in AGENT_COMMANDS.items()}
    for path, parser in parsers.items():
        actions = [a for a in parser._actions if a.option_strings]
        found[path] = Usage(
            {name: a.nargs != 0 for a in actions for name in a.option_strings},
            0, 0, frozenset(a.option_strings[0] for a in actions if a.required),
        )  # fmt: skip
    return found


USAGES = _usages()


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Command lines that a text quotes, and whether they stand as a whole line to be typed."""
    for line in text.splitlines():
        shown = re.match(r"(?: {4,}|\t)(?:.*[$#] )?(fireline(?:-agent)? .*)", line)
        if shown and "──" not in line:
            yield from ((part, True) for part in re.split(r"\s(?:&&|;|\|)\s", shown[1]))
    for span in re.findall(r"`(fireline(?:-agent)? [^`]+)`", re.sub(r"\s+", " ", text)):
        yield span, False


def _quoted() -> list[tuple[str, str, bool]]:
    return [
        (path.relative_to(ROOT).as_posix(), line, is_whole)
        for path in WRITTEN
        for line, is_whole in sorted(set(_lines(path.read_text())))
    ]


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    return [word for word in lexer if word != "&"]


def _mistake(line: str, *, is_whole: bool) -> str:
    """What of a quoted command line the commands don't know; empty where all is well."""
    words = _words(line)
    path: tuple[str, ...] = (words.pop(0),)
    while words and (of_all := USAGES[path].options.get(words[0])) is not None and path == ("fireline",):
        del words[: 1 + of_all]  # what every command takes stands before it, each with its value
    while words and (*path, words[0]) in USAGES:
        path = (*path, words.pop(0))
    usage, name = USAGES[path], " ".join(path)
    given, arguments = _taken(words, usage)
    if unknown := sorted(given - set(usage.options)):
        return f"{name} has no option {unknown[0]}"
    if arguments > usage.takes_arguments:
        return f"{name} takes {usage.takes_arguments} arguments, found {arguments}"
    if not is_whole or "--help" in given or "[OPTIONS]" in words:
        return ""
    if arguments < usage.needs_arguments:
        return f"{name} needs {usage.needs_arguments} arguments, found {arguments}"
    missing = sorted(usage.needs_options - given)
    return f"{name} needs {missing[0]}" if missing else ""


def _taken(words: list[str], usage: Usage) -> tuple[set[str], int]:
    """The options in the words, and how many arguments are left beside them and their values."""
    given: set[str] = set()
    arguments = 0
    left = iter(words)
    for word in left:
        name, equals, _ = word.partition("=")
        if word.startswith("-"):
            given.add(name)
            if usage.options.get(name) and not equals:
                next(left, None)
        elif word not in PLACEHOLDERS:
            arguments += 1
    return given, arguments


def test_the_reference_is_fresh() -> None:
    """Every generated page is what the code would make of it now: `make docs` was not forgotten."""
    for path, text in GENERATOR.pages().items():
        assert path.read_text() == text, f"{path.name}: run make docs"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_controller_command_has_help_and_is_in_the_reference(path: tuple[str, ...]) -> None:
    """Each command says what it does in a sentence that its list shows whole, has examples, and is documented."""
    command = COMMANDS[path]
    summary = GENERATOR.summary(command.help)

    assert summary, f"{' '.join(path)} has no description"
    assert len(path) == 1 or len(summary) <= SUMMARY_CHARACTERS, f"{summary!r} is cut in the list of commands"
    assert hasattr(command, "commands") or "Example" in command.help
    assert f"## {' '.join(path)}\n" in (ROOT / "docs/reference/fireline.md").read_text()


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_says_what_it_takes(path: tuple[str, ...]) -> None:
    """Options and arguments have a description and a word for their value."""
    for param in COMMANDS[path].params:
        assert param.help, f"{' '.join(path)}: {param.name} has no description"
        assert param.metavar or getattr(param, "is_flag", False), f"{' '.join(path)}: {param.name} has no metavar"


@pytest.mark.parametrize("name", AGENT_COMMANDS)
def test_an_agent_command_has_help_and_is_in_the_reference(name: str) -> None:
    """Each command of the agent has a summary, a description, and a place in the reference."""
    summary, parser = AGENT_COMMANDS[name]

    assert summary
    assert parser.description
    assert f"## fireline-agent {name}\n" in (ROOT / "docs/reference/fireline-agent.md").read_text()


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(path: Path) -> None:
    """Every link inside the repository names a file or folder that is there, and a heading where it names one."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        place = (path.parent / name) if name else path
        assert place.exists(), f"{target}: no such file"
        if heading:
            headings = re.findall(r"^#+ (.*)$", place.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^a-z0-9_-]", "", h.lower().replace(" ", "-")) for h in headings}, target


@pytest.mark.parametrize("page, line, is_whole", _quoted())
def test_a_quoted_command_line_is_one_that_the_commands_take(page: str, line: str, is_whole: bool) -> None:
    """What README and docs tell people to type exists: command, options, number of arguments."""
    assert _mistake(line, is_whole=is_whole) == "", page


@pytest.mark.parametrize(
    "line, mistake",
    [
        ("fireline host remove web1", "fireline host remove needs --reason"),
        ("fireline capture --target all --profil initial", "fireline capture has no option --profil"),
        ("fireline incident open P1", "fireline incident open needs 2 arguments, found 1"),
        ("fireline hosts list", "fireline takes 0 arguments, found 2"),
        ("fireline-agent join --host web1", "fireline-agent join has no option --host"),
    ],
)
def test_a_wrong_command_line_would_be_found(line: str, mistake: str) -> None:
    """The check above is no rubber stamp."""
    assert _mistake(line, is_whole=True) == mistake


def _blocks(page: str, first: str) -> list[str]:
    """The indented blocks of a page that have a line that begins so."""
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", (ROOT / page).read_text(), re.MULTILINE)
    texts = [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in blocks]
    return [text for text in texts if re.search(f"^{re.escape(first)}", text, re.MULTILINE)]


def test_the_profile_in_the_docs_loads(tmp_path: Path) -> None:
    """The example of a profile is one that the loader takes."""
    [text] = _blocks("docs/how-to/profiles.md", "name: network")
    (tmp_path / "network.yaml").write_text(text)

    assert profiles.load("network", folders=[tmp_path]).name == "network"


def test_the_runbook_in_the_docs_is_right() -> None:
    """The example of a runbook is one that `check` takes."""
    [text] = _blocks("docs/runbooks.md", "apiVersion:")

    assert checking.check(text.encode(), loading.known(()), file="restart-shop.yaml").name == "restart-shop"


def test_settings_in_the_docs_load(tmp_path: Path) -> None:
    """Examples of fireline.toml are ones that the controller takes."""
    examples = [text for page in WRITTEN for text in _blocks(page.relative_to(ROOT).as_posix(), "[evidence]")]
    for text in examples:
        assert tomllib.loads(text)
        (tmp_path / "fireline.toml").write_text(text)
        config.load(tmp_path / "fireline.toml", {})

    assert examples


def test_the_policy_in_the_docs_loads() -> None:
    """The example of a policy is one that the controller takes, and has every key."""
    [text] = _blocks("docs/how-to/two-people.md", "[[rules]]")

    assert len(policy.parse(text, file="policy.toml")) == 3
    assert {key for rule in tomllib.loads(text)["rules"] for key in rule} == {f.name for f in fields(policy.Rule)}


@pytest.mark.parametrize("kind", [Config, Policy, policy.Rule])
def test_every_setting_is_explained(kind: type) -> None:
    """The reference is made of the comments above the fields: none is missing."""
    missing = [name for name, comment in GENERATOR.field_comments(kind).items() if not comment]

    assert missing == []


def test_the_page_on_outcomes_has_them_all() -> None:
    """The table of outcomes is the list that the code has."""
    page = (ROOT / "docs/explanation/outcomes.md").read_text()
    rows = re.findall(r"^\| ([a-z ]+) \|", page, re.MULTILINE)

    assert {row.replace(" ", "_") for row in rows} - {"outcome"} == {outcome.value for outcome in Outcome}


def test_actions_are_summed_up_in_one_style() -> None:
    """As orders: a capital letter first, a verb as one says it, no full stop."""
    summaries = [spec.summary for spec in catalogue().values()]

    assert [s for s in summaries if not s[0].isupper() or s.endswith(".") or s.split()[0].endswith("s")] == []
