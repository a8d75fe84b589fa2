"""No bytes of a kernel or an engine make a collector fail: properties over arbitrary input."""

import json
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fireline_agent.capture import containers, kernel_log, modules, sessions
from fireline_agent.capture.collector import Context
from fireline_agent.hands.printable import printable
from fireline_agent.hands.roots import Roots
from fireline_agent.hands.secrets import mask_tree
from tests.unit.sink import MemorySink

NOW = datetime(2026, 1, 1, tzinfo=UTC)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
# Objects that have the fields the code looks at, with anything in them.
FIELDS = ["State", "HostConfig", "Mounts", "RestartCount", "Names", "Labels", "Status", "Id", "Health", "Log", "Env"]
FIELDS += ["CapAdd", "Devices", "SecurityOpt", "StartedAt", "Type", "Source", "Restarting", "Dead", "OOMKilled"]
answers = st.recursive(
    values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(FIELDS), answers, max_size=8))
@settings(deadline=None)
def test_any_answer_about_a_container_can_be_judged(answer: dict[str, Any]) -> None:
    """Whatever shape an engine's answer has, judging it ends, in printable words."""
    found = list(containers.health(answer, containers.title(answer), now=NOW))
    risks = containers.risks(answer)

    for line in (*(one.summary for one in found), containers.risk_finding("x", risks).summary):
        assert line.isprintable()
        assert len(line) < 1000
    containers.looks_unwell(answer)
    json.dumps(containers.compose_projects([answer]))
    json.dumps(mask_tree(answer))


@given(st.binary(max_size=600))
@settings(max_examples=25, deadline=None)
def test_any_kernel_log_can_be_read(raw: bytes) -> None:
    """Whatever bytes a log holds, they end as records."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "dev").mkdir()
        (Path(folder) / "dev/kmsg").write_bytes(raw)
        kernel_log.collect(Context(roots=Roots(root=Path(folder))), MemorySink())


@given(st.binary(max_size=1200), st.binary(max_size=700))
@settings(max_examples=25, deadline=None)
def test_any_login_records_can_be_read(logins: bytes, last: bytes) -> None:
    """Whatever bytes the login files hold, they end as records."""
    with TemporaryDirectory() as folder:
        log = Path(folder) / "var/log"
        log.mkdir(parents=True)
        (log / "wtmp").write_bytes(logins)
        (log / "lastlog").write_bytes(last)
        sessions.collect(Context(roots=Roots(root=Path(folder))), MemorySink())


@given(st.binary(max_size=300), st.binary(max_size=300))
@settings(max_examples=25, deadline=None)
def test_any_module_list_can_be_read(listed: bytes, symbols: bytes) -> None:
    """Whatever bytes stand in the module views, they end as records."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "modules").write_bytes(listed)
        (Path(folder) / "kallsyms").write_bytes(symbols)
        modules.collect(Context(roots=Roots(proc=Path(folder), sys=Path(folder))), MemorySink())


@given(st.text())
@settings(deadline=None)
def test_printable_text_is_printable(words: str) -> None:
    """Terminal escapes, line breaks and lone surrogates never reach an operator's screen."""
    assert printable(words).isprintable()
