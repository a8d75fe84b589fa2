"""What actions may not read for an order, and what they may not repeat of it."""

from pathlib import Path
from typing import Any

import pytest

from fireline_agent.hands.systemctl import Systemctl
from fireline_agent.remediation.action import ActionError, Tools
from fireline_agent.remediation.disk import usage
from fireline_agent.remediation.security import rebuild

STRICT = Tools(allows_reading=lambda path: path.startswith("/srv"))


class _NoEngine:
    """Stands where nothing may be asked any more."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


def test_folders_outside_the_policy_are_not_looked_through(tmp_path: Path) -> None:
    """Names and sizes below them are not the order's to have."""
    with pytest.raises(ActionError, match="policy does not allow it to be read") as refused:
        usage.ACTION.gather(STRICT, usage.ACTION.spec.check({"roots": [str(tmp_path)]}))
    assert refused.value.reason == "denied"


def test_a_backup_outside_the_policy_is_not_unpacked(tmp_path: Path) -> None:
    """Nor is its presence told."""
    given = {"backup": str(tmp_path / "x.tar"), "backup_sha256": "ab" * 32, "restore_to": "volume:data"}
    engine: Any = _NoEngine()

    with pytest.raises(ActionError, match=r"policy does not allow .*x\.tar to be read") as refused:
        rebuild._data(STRICT, engine, given)
    assert refused.value.reason == "denied"


def test_a_units_log_is_told_without_its_secrets(tmp_path: Path) -> None:
    """Its last lines go into errors, and so into records and the journal."""
    program = tmp_path / "journalctl"
    program.write_text("#!/bin/sh\necho 'login failed: password=hunter2 at db'\n")
    program.chmod(0o755)

    assert Systemctl(tmp_path).journal("x.service", 5) == ["login failed: password=[masked] at db"]
