"""One real Docker Engine for all of these tests; each works on containers of its own names."""

from collections.abc import Iterator

import pytest

from tests.engine import live_engine, missing_tools
from tests.remediation.container.stage import Stage


@pytest.fixture(scope="session")
def shared_stage() -> Iterator[Stage]:
    """The engine's own life: it is started once."""
    if lacking := missing_tools():
        pytest.skip(f"no engine of our own here: lacks {', '.join(lacking)}")
    with live_engine() as engine:
        yield Stage(engine)


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    """The engine, swept after each test."""
    yield shared_stage
    shared_stage.sweep()
