"""Recurring clean-up: a real timer of a real systemd that really cleans, or cron's script; and away with it again."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fireline_agent.hands.roots import Roots
from fireline_agent.remediation.action import ActionError, Tools
from fireline_agent.remediation.disk import schedule_cleanup, schedules, unschedule_cleanup
from tests.lab import NETNS, Lab, default_backend, services
from tests.lab.services import Services
from tests.remediation.acting import Acting
from tests.remediation.rehearsal import Rehearsal

_GIVEN = {"name": "shop", "roots": ["/var/log/shop %n $HOME"], "older_than": 86400}
_SERVICE = "/etc/systemd/system/fireline-cleanup-shop.service"
_TIMER = "/etc/systemd/system/fireline-cleanup-shop.timer"


@pytest.fixture(scope="module")
def acting() -> Iterator[Acting]:
    """A host with systemd."""
    if default_backend() != NETNS or services.lacks():
        pytest.skip("needs root, namespaces and systemd")
    with Lab(1) as lab, Services(lab["h1"]) as manager:
        yield Acting(lab["h1"], manager)


@pytest.fixture
def cron(tmp_path: Path) -> Tools:
    """A host without systemd."""
    (tmp_path / "etc/cron.daily").mkdir(parents=True)
    return Tools(Roots(root=tmp_path))


def test_a_timer_cleans_and_is_taken_away(acting: Acting) -> None:
    """Names with what units would expand; the same again is nothing to do; undo leaves nothing."""
    folder = "/var/log/shop %n $HOME"
    acting.manager.run("mkdir", "-p", folder)
    acting.manager.run("touch", "-d", "-3 days", f"{folder}/old.log")
    acting.manager.run("touch", f"{folder}/new.log")
    applied = acting.apply("disk.schedule_cleanup", **_GIVEN)
    again = acting.plan("disk.schedule_cleanup", **_GIVEN)["plan"]
    acting.manager.run("systemctl", "start", "fireline-cleanup-shop.service")
    left = acting.manager.run("ls", folder).split()
    waits = acting.manager.run("systemctl", "list-timers", "--no-legend", "fireline-cleanup-shop.timer")
    undone = acting.undo("disk.schedule_cleanup", applied)

    assert applied["verified"]["sentence"] == f"{_SERVICE}, {_TIMER} in place, the timer waits"
    assert again["changes"] == []
    assert left == ["new.log"]
    assert "fireline-cleanup-shop" in waits
    assert undone == []
    assert acting.manager.run("ls", "/etc/systemd/system").find("fireline-cleanup") == -1
    assert (
        acting.manager.run("systemctl", "is-active", "fireline-cleanup-shop.timer", check=False).strip() == "inactive"
    )


def test_unscheduling_is_taken_back(acting: Acting) -> None:
    """And where there is nothing, nothing is done. What was scheduled is well formed as systemd itself judges it."""
    acting.apply("disk.schedule_cleanup", **_GIVEN)
    said = acting.manager.run("systemd-analyze", "verify", _SERVICE, _TIMER, check=False)
    applied = acting.apply("disk.unschedule_cleanup", name="shop")
    gone = acting.plan("disk.unschedule_cleanup", name="shop")["plan"]
    undone = acting.undo("disk.unschedule_cleanup", applied)
    back = acting.manager.run("systemctl", "is-active", "fireline-cleanup-shop.timer").strip()
    acting.apply("disk.unschedule_cleanup", name="shop")

    assert applied["verified"]["sentence"] == "nothing of it is left"
    assert (gone["changes"], gone["summary"]) == ([], "there is no clean-up shop")
    assert (undone, back) == ([], "active")
    assert "fireline-cleanup" not in said


def test_cron_runs_it_where_there_is_no_systemd(cron: Tools, tmp_path: Path) -> None:
    """The script that it makes cleans; unscheduling removes it."""
    root = tmp_path / "lo'gs $(x)"
    root.mkdir()
    (root / "old.log").touch()
    os.utime(root / "old.log", (time.time() - 9 * 86400,) * 2)
    given = {"name": "shop", "roots": [str(root)]}
    applied = Rehearsal(schedule_cleanup.ACTION, given, cron).apply()
    script = tmp_path / "etc/cron.daily/fireline-cleanup-shop"
    ran = subprocess.run([script], check=True, capture_output=True, text=True)
    away = Rehearsal(unschedule_cleanup.ACTION, {"name": "shop"}, cron).apply()

    assert applied.verified.is_good
    assert ran.stdout.startswith("1 file of")
    assert not (root / "old.log").exists()
    assert away.verified.is_good
    assert not script.exists()


def test_a_script_of_somebody_else_stays(cron: Tools, tmp_path: Path) -> None:
    """It has the name, and was not made by us."""
    script = tmp_path / "etc/cron.daily/fireline-cleanup-shop"
    script.write_text("#!/bin/sh\necho mine\n")

    for action, given in ((schedule_cleanup.ACTION, _GIVEN), (unschedule_cleanup.ACTION, {"name": "shop"})):
        with pytest.raises(ActionError, match="was not made by Fireline; it stays"):
            Rehearsal(action, given, cron).plan()
    assert script.exists()


def test_another_schedule_of_the_name_is_not_overwritten(cron: Tools) -> None:
    """It is taken away first, by a word of its own."""
    Rehearsal(schedule_cleanup.ACTION, _GIVEN, cron).apply()

    with pytest.raises(ActionError, match="another schedule has the name shop; take it away first"):
        Rehearsal(schedule_cleanup.ACTION, {**_GIVEN, "older_than": 2 * 86400}, cron).plan()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"name": "../x"}, "name: wanted a-z, 0-9 and '-'"),
        ({"roots": ["/etc"]}, "/etc: nothing is removed here"),
        ({"patterns": ["a\nb"]}, "a schedule takes printable names only"),
    ],
)
def test_what_is_refused(cron: Tools, given: dict[str, object], why: str) -> None:
    """Before anything is written."""
    with pytest.raises(ActionError, match=why):
        Rehearsal(schedule_cleanup.ACTION, {**_GIVEN, **given}, cron).plan()


def test_a_host_without_a_clock_for_programs_says_so(tmp_path: Path) -> None:
    """With what was looked for."""
    with pytest.raises(ActionError, match=r"no /run/systemd/system, no /etc/cron\.daily"):
        Rehearsal(schedule_cleanup.ACTION, _GIVEN, Tools(Roots(root=tmp_path))).plan()


def test_words_of_units_are_not_expanded() -> None:
    """Specifiers, variables, quotes and backslashes stay what they are."""
    texts = schedules.texts({**_GIVEN, "kind": "logs", "patterns": ['a"b\\c'], "every": "daily"}, systemd=True)

    assert '"--root=/var/log/shop %%n $$HOME"' in texts[_SERVICE]
    assert '"--pattern=a\\"b\\\\c"' in texts[_SERVICE]
