"""Write the reference pages that come from the code, or with --check name every page that is stale.

The pages are made of what the commands, settings and collectors declare, never of their printed help: that differs with
the width of a terminal and with the versions of Python and of the libraries.
"""

import argparse
import ast
import importlib.util
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, get_type_hints

import typer.main
from pydantic import BaseModel

from fireline_agent import remediation
from fireline_agent.capture.collector import COLLECTORS
from fireline_agent.capture.findings import FINDINGS
from fireline_agent.config import Config
from fireline_agent.main import build_parser
from fireline_agent.policy import Policy
from fireline_controller.cli.app import app
from fireline_controller.config import Origin, Settings, origins
from fireline_controller.policy import Rule
from fireline_controller.profiles import Profile, load
from fireline_controller.runbooks import loading, schema, shapes
from fireline_controller.runbooks.reading import read
from fireline_wire.actions import ActionSpec, Parameter

HERE = Path(__file__).parent
NOTE = "Generated from the code by `make docs`; don't edit.\n"
SEVERITIES = ("critical", "warning", "notice")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty where there are no rows."""
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}", *lines]) + "\n"


def code(text: str) -> str:
    """As code, empty where there is nothing to show."""
    return f"`{text}`" if text else ""


# --- the fireline command ----------------------------------------------------------------------------------------


def controller_commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of `fireline` by its path, a noun before its verbs."""

    def below(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        yield path, command
        for name, verb in getattr(command, "commands", {}).items():
            yield from below((*path, name), verb)

    return below(("fireline",), typer.main.get_command(app))


def fireline_page() -> str:
    """The reference of `fireline`."""
    commands = list(controller_commands())
    shared = [p for _, c in commands for p in c.params if "--state" in p.opts][:1]
    parts = [
        "# The `fireline` command\n",
        NOTE,
        table(
            ("command", "does"),
            [
                (f"[`{' '.join(path)}`](#{'-'.join(path)})", summary(c.help))
                for path, c in commands
                if not hasattr(c, "commands")
            ],
        ),
        "Every command but `fireline evidence verify FILE` works on one state folder:\n",
        table(("option", "meaning"), [_option_row(p) for p in shared]),
        *(_command(path, command) for path, command in commands),
    ]
    return "\n".join(parts)


def summary(text: str | None) -> str:
    """The first sentence of a help text."""
    first = inspect.cleandoc(text or "").split("\n\n")[0].replace("\n", " ")
    return first.split(". ")[0].rstrip(".")


def _command(path: tuple[str, ...], command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not {"--help", "--state"} & set(p.opts)]
    parts = [f"## {' '.join(path)}\n", _prose(command.help)]
    if not hasattr(command, "commands"):
        words = [*path, *(["[OPTIONS]"] if options else []), *(a.metavar for a in arguments)]
        parts.append(f"    {' '.join(words)}\n")
    meanings = _declared(command)
    parts.append(table(("argument", "meaning"), [(code(a.metavar), meanings[a.name].rstrip(".")) for a in arguments]))
    parts.append(table(("option", "meaning"), [_option_row(o) for o in options]))
    return "\n".join(part for part in parts if part)


def _declared(command: Any) -> dict[str, str]:
    """The help of each parameter as the function declares it: not every Typer passes on that of an argument."""
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True) if command.callback else {}
    return {name: info.help or "" for name, hint in hints.items() for info in getattr(hint, "__metadata__", ())}


def _prose(text: str | None) -> str:
    """Help as Markdown: a block after \\b keeps its lines, as an example does on the terminal."""
    blocks = inspect.cleandoc(text or "").split("\n\n")
    shown = []
    for block in blocks:
        kept = block.removeprefix("\b\n")
        shown.append(kept if kept == block else "\n".join(f"    {line.strip()}" for line in kept.splitlines()))
    return "\n\n".join(shown) + "\n"


def _option_row(option: Any) -> tuple[str, str]:
    name = ", ".join(code(opt) for opt in option.opts)
    if not option.is_flag:
        name += f" {code(option.metavar or '')}"
    meaning = (option.help or "").rstrip(".")
    if option.required:
        meaning += "; required"
    elif option.show_default is not False and option.default not in (None, "", False, 0):
        meaning += f"; default {code(str(option.default))}"
    if option.envvar:
        meaning += f"; environment {code(option.envvar)}"
    return name, meaning


# --- the fireline-agent command ----------------------------------------------------------------------------------


def agent_commands() -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Every command of `fireline-agent` with its summary and its own parser."""
    found: dict[str, tuple[str, argparse.ArgumentParser]] = {}
    for action in build_parser()._actions:  # argparse has no public way to its own commands
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
            found |= {name: (summaries.get(name, ""), parser) for name, parser in action.choices.items()}
    return found


def agent_page() -> str:
    """The reference of `fireline-agent`."""
    parser = build_parser()
    commands = agent_commands()
    parts = [
        "# The `fireline-agent` command\n",
        NOTE,
        f"{parser.description}\n",
        table(
            ("command", "does"), [(f"[`fireline-agent {n}`](#fireline-agent-{n})", s) for n, (s, _) in commands.items()]
        ),
        "\n".join(f"    {line}".rstrip() for line in (parser.epilog or "").strip().splitlines()) + "\n",
    ]
    for name, (_, command) in commands.items():
        parts += [f"## fireline-agent {name}\n", f"{command.description}\n", _agent_options(command)]
    return "\n".join(parts)


def _agent_options(parser: argparse.ArgumentParser) -> str:
    rows = []
    for action in parser._actions:
        if "--help" not in action.option_strings:
            name = ", ".join(map(code, action.option_strings)) + (
                f" {code(str(action.metavar))}" if action.metavar else ""
            )
            rows.append((name, (action.help or "") + ("; required" if action.required else "")))
    return table(("option", "meaning"), rows)


# --- settings ----------------------------------------------------------------------------------------------------


def settings_page() -> str:
    """Every setting of both ends."""
    everything = origins(HERE / "no-such-file.toml", {})
    rows = [(code(o.key), _variable(o), code(_value(o.key, o.value)), o.description) for o in everything]
    groups = Settings.model_fields["groups"].description or ""
    return "\n".join(
        [
            "# Settings\n",
            NOTE,
            "## The controller: `fireline.toml` in the state folder\n",
            "A key `listen.enrollment` is `enrollment` in the table `[listen]`. The environment wins over the file, "
            "and a command's own options win over both; `fireline config show` says what is set and where from. "
            "An unknown key is refused with the nearest right one. In the environment a list is separated by commas.\n",
            table(("key", "environment", "default", "meaning"), rows),
            f"`[groups]`: {groups}.\n",
            "## Who must agree: `policy.toml` in the state folder\n",
            f"A list of `[[rules]]`. {_first_line(Rule)} An unknown key is refused with the nearest right one; "
            "[how to use it](../how-to/two-people.md).\n",
            _dataclass_table(Rule),
            "## The agent: `/etc/fireline/agent.toml`\n",
            f"{_first_line(Config)} An unknown key is refused with the nearest right one; "
            "`fireline-agent check-config` says what is set.\n",
            _dataclass_table(Config),
            "## The host's own rules: `/etc/fireline/policy.toml`\n",
            f"{_first_line(Policy)} The agent reads them at its start; a controller can't change them.\n",
            _dataclass_table(Policy),
        ]
    )


def _variable(origin: Origin) -> str:
    return code(f"FIRELINE_{origin.key.replace('.', '_').upper()}")


def _first_line(kind: type) -> str:
    return (inspect.getdoc(kind) or "").splitlines()[0]


def _dataclass_table(kind: type[Config | Policy | Rule]) -> str:
    comments = field_comments(kind)
    rows = [(code(f.name), code(_default(f)), comments[f.name]) for f in fields(kind)]
    return table(("key", "default", "meaning"), rows)


def _default(field: Field[Any]) -> str:
    return "" if field.default is MISSING else _value(field.name, field.default)


def field_comments(kind: type) -> dict[str, str]:
    """The comment above each field of a dataclass, empty where there is none."""
    found: dict[str, str] = {}
    comment: list[str] = []
    for line in inspect.getsource(kind).splitlines():
        text = line.strip()
        if text.startswith("#"):
            comment.append(text.removeprefix("#").strip())
            continue
        name, colon, _ = text.partition(":")
        if colon and name in {f.name for f in fields(kind)}:  # type: ignore[arg-type]  # a dataclass by its use
            found[name] = " ".join(comment)
        comment = []
    return found


def _value(key: str, value: Any) -> str:
    if isinstance(value, tuple):
        return json.dumps(list(value))
    if isinstance(value, str | Path):
        return f'"{value}"'
    if isinstance(value, timedelta):
        return f'"{value // timedelta(minutes=1)}m"'
    if isinstance(value, bool):
        return str(value).lower()
    for shift, unit in ((30, "GiB"), (20, "MiB")):
        if key.endswith("_bytes") and value >> shift << shift == value:
            return f"{value} ({value >> shift} {unit})"
    return str(value)


# --- collectors and findings -------------------------------------------------------------------------------------


def collectors_page() -> str:
    """What is collected, by which profile, and what stands out."""
    order = [c.name for c in load("volatile").collectors]
    names = [*order, *sorted(set(COLLECTORS) - set(order))]
    return "\n".join(
        [
            "# Collectors, profiles and findings\n",
            NOTE,
            "A collector reads one kind of state and writes artifacts. It runs in a process and control group of its "
            "own; its limits are the profile's, and never above those in the host's own `agent.toml`. Names are as in "
            "a profile and in a host's `policy.toml`.\n",
            "## Collectors\n",
            *(_collector(name) for name in names),
            "## Profiles\n",
            *(_profile(load(name)) for name in ("initial", "volatile", "database")),
            "## Findings\n",
            "What stands out is for a person to look at; it is no verdict. Codes are stable.\n",
            table(("code", "severity", "collectors", "meaning"), _findings()),
        ]
    )


def _collector(name: str) -> str:
    spec = importlib.util.find_spec(COLLECTORS[name])
    assert spec is not None and spec.origin is not None  # noqa: S101  # in the registry, so there
    tree = ast.parse(Path(spec.origin).read_text())
    does = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "collect")
    writes = (ast.get_docstring(does) or "").split("\n\nRaises:")[0].replace("; see the module", "")
    return f"### {name}\n\n{ast.get_docstring(tree)}\n\n{writes}\n"


def _profile(profile: Profile) -> str:
    rows = [
        (
            code(c.name),
            f"{c.limits.cpu_percent} %",
            _size(c.limits.memory_bytes),
            _size(c.limits.output_bytes),
            f"{c.limits.deadline_s:g} s",
            _params(c.params),
        )
        for c in profile.collectors
    ]
    columns = ("collector", "CPU", "memory", "output", "deadline", "params")
    return f"### {profile.name}\n\n{profile.description}\n\n{table(columns, rows)}"


def _size(count: int) -> str:
    return f"{count >> 30} GiB" if count >= 1 << 30 else f"{count >> 20} MiB"


def _params(params: Mapping[str, Any]) -> str:
    shown = {k: ", ".join(map(str, v)) if isinstance(v, list | tuple) else str(v) for k, v in params.items()}
    return "; ".join(f"{key}: {value}" for key, value in shown.items())


def _findings() -> list[tuple[str, str, str, str]]:
    ranked = sorted(FINDINGS.items(), key=lambda item: (SEVERITIES.index(item[1].severities[0]), item[0]))
    return [
        (code(name), ", ".join(c.severities), ", ".join(map(code, c.collectors)) or "any", c.meaning)
        for name, c in ranked
    ]


# --- actions -----------------------------------------------------------------------------------------------------


def action_specs() -> list[ActionSpec]:
    """The specification of every action that the agent has, by name; a module below an area's package is one action."""
    modules = pkgutil.walk_packages(remediation.__path__, f"{remediation.__name__}.")
    found = (getattr(importlib.import_module(module.name), "ACTION", None) for module in modules if not module.ispkg)
    return sorted((action.spec for action in found if action is not None), key=lambda spec: spec.name)


def actions_json() -> str:
    """What the controller knows of the actions."""
    return json.dumps([spec.to_document() for spec in action_specs()], indent=1) + "\n"


def actions_index() -> str:
    """What an agent at rest knows of the actions."""
    return "".join(f"{spec.name} {spec.risk} {'undo' if spec.undo else '-'}\n" for spec in action_specs())


def actions_page() -> str:
    """Every action with what it takes, tells and risks."""
    specs = action_specs()
    overview = [(f"[`{s.name}`](#{s.name.replace('.', '')})", s.risk, s.summary) for s in specs]
    return "\n".join(["# Actions\n", NOTE, table(("action", "risk", "does"), overview), *map(_action, specs)])


def _action(spec: ActionSpec) -> str:
    facts = [
        ("risk", spec.risk),
        ("taken back", spec.undo or "never"),
        ("needs", ", ".join(spec.needs)),
        ("evidence before", ", ".join(map(code, spec.evidence))),
    ]
    parts = [f"## {spec.name}\n", f"{spec.summary}\n", table(("", ""), [f for f in facts if f[1]])]
    parts.append(table(("parameter", "kind", "default", "meaning"), [_parameter(p) for p in spec.parameters]))
    parts.append(table(("result", "kind", "meaning"), [(code(r.name), r.kind, r.summary) for r in spec.results]))
    return "\n".join(part for part in parts if part)


def _parameter(parameter: Parameter) -> tuple[str, str, str, str]:
    default = "required" if parameter.is_required else "" if parameter.default is None else code(str(parameter.default))
    kind = parameter.kind + (f": {', '.join(parameter.choices)}" if parameter.choices else "")
    return code(parameter.name), kind, default, parameter.summary


# --- runbooks ----------------------------------------------------------------------------------------------------

BUILT_IN = "../../controller/fireline_controller/runbooks/builtin"
# Parts of a runbook's file, in the order in which people meet them.
SHAPES: tuple[type[BaseModel], ...] = (
    shapes.RunbookShape,
    shapes.MetadataShape,
    shapes.ParamShape,
    shapes.TargetsShape,
    shapes.StepShape,
    shapes.CaptureShape,
    shapes.ManualShape,
    shapes.ParallelShape,
    shapes.ApprovalShape,
    shapes.RetryShape,
    shapes.VerifyShape,
    shapes.OnFailureShape,
    shapes.RollbackShape,
)


def runbooks_page() -> str:
    """The built-in runbooks, and every key of the format."""
    drafts = [(source.name, read(source.raw)[0]) for source in loading.built_in()]
    about = [(name, draft.shape) for name, draft in drafts if draft is not None]
    overview = [(f"[`{n}`](#{n})", ", ".join(s.metadata.severity), s.metadata.summary) for n, s in about]
    return "\n".join(
        [
            "# Runbooks\n",
            NOTE,
            "[What a runbook is and how to write one](../runbooks.md). Editors complete and underline with "
            "[the schema](../runbook.schema.json).\n",
            "## Built in\n",
            table(("runbook", "severity", "does"), overview),
            *(_runbook(name, shape) for name, shape in about),
            "## Keys\n",
            *(_shape(kind) for kind in SHAPES),
        ]
    )


def _runbook(name: str, shape: shapes.RunbookShape) -> str:
    params = [(code(n), p.type, code(_typed(p.default)) or "required", p.summary) for n, p in shape.params.items()]
    steps = [row for step in shape.steps for row in _steps(step)]
    return "\n".join(
        [
            f"### {name}\n",
            f"{shape.metadata.summary}. [Its file]({BUILT_IN}/{name}.yaml).\n",
            table(("parameter", "type", "default", "meaning"), params),
            table(("step", "does", "only when", "approval", "what for"), steps),
        ]
    )


def _typed(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps(value)
    return '""' if value == "" else "" if value is None else str(value).lower()


def _steps(step: shapes.StepShape) -> Iterator[tuple[str, ...]]:
    approval = f"{step.approval.count}" if step.approval else ""
    yield code(step.id), _deed(step), code(step.when or ""), approval, step.title
    for member in step.parallel.steps if step.parallel else ():
        yield from _steps(member)


def _deed(step: shapes.StepShape) -> str:
    if step.action:
        return f"[`{step.action}`](../actions.md#{step.action.replace('.', '')})"
    if step.capture:
        what = step.capture.profile or f"what {', '.join(step.capture.evidence_for)} would destroy"
        return f"capture {what}{', required' if step.required else ''}"
    if step.manual:
        return f"by hand, {step.manual.role}" if step.manual.role else "by hand"
    return "at the same time:" if step.parallel else "isolate" if step.isolate else "release"


def _shape(kind: type[BaseModel]) -> str:
    rows = [
        (code(field.alias or name), _field_default(field), field.description or "")
        for name, field in kind.model_fields.items()
        if not field.exclude
    ]
    name = kind.__name__.removesuffix("Shape")
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return f"### The keys of: {words}\n\n{_first_line(kind)}\n\n{table(('key', 'default', 'meaning'), rows)}"


def _field_default(field: Any) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return (
        "" if default in (None, "", [], {}) or not isinstance(default, str | int | bool) else code(str(default).lower())
    )


def pages() -> dict[Path, str]:
    """The pages as they should be."""
    folder = HERE / "reference"
    return {
        folder / "fireline.md": fireline_page(),
        folder / "fireline-agent.md": agent_page(),
        folder / "settings.md": settings_page(),
        folder / "collectors.md": collectors_page(),
        folder / "runbooks.md": runbooks_page(),
        HERE / "runbook.schema.json": schema.text(),
        HERE / "actions.md": actions_page(),
        HERE.parent / "protos/fireline_wire/actions.json": actions_json(),
        HERE.parent / "protos/fireline_wire/actions.index": actions_index(),
    }


def main() -> int:
    """Exit 0 when the pages are fresh or were made so, 1 when --check found a stale one."""
    stale = {path: text for path, text in pages().items() if not path.exists() or path.read_text() != text}
    if sys.argv[1:] == ["--check"]:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(HERE.parent)} does not match the code; run: make docs\n")
        return 1 if stale else 0
    for path, text in stale.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
