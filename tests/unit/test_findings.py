"""The declared findings are those that collectors note: code, severity, and which collector."""

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

from fireline_agent import capture
from fireline_agent.capture.collector import COLLECTORS
from fireline_agent.capture.findings import FINDINGS

SEVERITIES = ("critical", "warning", "notice")
_CODE = re.compile(r"[a-z]+(-[a-z]+)+\Z")
# What a collector's own module leaves to a module beside it.
_HELPERS = {
    "containers": ("docker_containers",),
    "engine_parts": ("docker_containers", "docker_engine"),
    "sink": (),
    "intrusion": (),
}


def _modules() -> dict[str, tuple[str, ...]]:
    """Module name -> the collectors that note its findings."""
    own = {module.rpartition(".")[2]: (name,) for name, module in COLLECTORS.items()}
    return own | _HELPERS


def _noted() -> Iterator[tuple[str, str, str]]:
    """(module, severity or empty where it is decided, code): a code follows its severity in a call or a tuple."""
    for path in sorted(Path(capture.__path__[0]).glob("*.py")):
        if path.stem == "findings":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.Tuple) else []
            for left, right in pairwise(parts):
                if not (isinstance(right, ast.Constant) and _CODE.match(str(right.value))):
                    continue
                if isinstance(left, ast.Name) and left.id == "severity":
                    yield path.stem, "", str(right.value)
                elif isinstance(left, ast.Constant) and left.value in SEVERITIES:
                    yield path.stem, str(left.value), str(right.value)


def test_every_noted_code_is_declared_and_every_declared_one_is_noted() -> None:
    """A code that is not in the reference, or one there that nothing notes, fails here by its name."""
    assert {code for _, _, code in _noted()} == set(FINDINGS)


@pytest.mark.parametrize("module, severity, code", sorted(set(_noted())))
def test_a_call_agrees_with_its_declaration(module: str, severity: str, code: str) -> None:
    """Severity and collector of each place in the code that notes a finding are the declared ones."""
    declared = FINDINGS[code]

    assert not severity or severity in declared.severities
    assert set(_modules()[module]) <= set(declared.collectors)


def test_declarations_name_real_collectors_and_severities() -> None:
    """Each finding belongs to known collectors, has a sentence, and its severities stand gravest first."""
    for code, declared in FINDINGS.items():
        assert set(declared.collectors) <= set(COLLECTORS), code
        assert list(declared.severities) == [s for s in SEVERITIES if s in declared.severities], code
        assert declared.meaning.endswith("."), code


def test_no_other_room_of_the_agent_notes_findings() -> None:
    """The search above looks where findings come from: nothing outside `capture` has a sink."""
    spec = find_spec("fireline_agent")
    assert spec is not None and spec.submodule_search_locations is not None
    root = Path(spec.submodule_search_locations[0])
    callers = [p for p in root.rglob("*.py") if p.parent.name != "capture" and ".finding(" in p.read_text()]

    assert callers == []
