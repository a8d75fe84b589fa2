"""A disk full of temporary files: they are sealed and go; where that is not enough, a person is told what to do."""

import time
from collections.abc import Iterator

import pytest

from tests.fleet import Fleet
from tests.lab import NETNS, Host, default_backend, eventually
from tests.rehearsals.disks import (
    DATA,
    DISK_BYTES,
    MIB,
    OLD_LOGS,
    OLD_TEMP,
    allow_all,
    fill,
    is_writable,
    there,
    used_percent,
)
from tests.rehearsals.ground import (
    Going,
    fleet_of_two_people,
    is_proved,
    lines,
    opened,
    planned,
    steps_on_record,
    suggested,
)

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(240)]

BOOK = "p2-storage"
# Nobody can set back the time at which a file was made, and it counts: the runbook takes no less than a minute.
PARAMS = ("docker=false", "temp=/var/tmp", "age=1m")
_OLD_S = 62.0
_HELD = "/var/tmp/session/held"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """One host that lets Fireline destroy, with a small disk."""
    if default_backend() != NETNS:
        pytest.skip("needs root and namespaces: hosts with disks of their own")
    with fleet_of_two_people("git1", disk_bytes=DISK_BYTES) as made:
        allow_all(made.lab["git1"])
        yield made


@pytest.fixture(scope="module")
def full(fleet: Fleet) -> Host:
    """The host with its disk full to the last byte by temporary files, one of which a program holds open."""
    host = fleet.lab["git1"]
    host.write(_HELD, b"in use")
    host.spawn(["sh", "-c", f"exec sleep 600 <{_HELD}"], unit="holder")
    fill(host, log_bytes=MIB, temp_bytes=120 * MIB)
    return host


def test_what_is_denied_stays(fleet: Fleet, full: Host) -> None:
    """A no ends the run, and nothing is deleted."""
    incident = opened(fleet, "P2", "no space left on device", "git1")
    with Going(fleet, BOOK, incident, *PARAMS) as going:
        going.approved("temp", "--deny")
        ended = going.ended()

    assert there(full, OLD_TEMP, *OLD_LOGS, DATA) == [OLD_TEMP, *OLD_LOGS, DATA]
    assert (ended.status, ended.state) == (1, "failed")
    assert ended.run["why"] == "temp: bob denied it: rehearsal"


def test_temporary_files_go_once_they_are_sealed(fleet: Fleet, full: Host) -> None:
    """Suggested first; the plan deletes nothing; what is held open stays, as do logs and data; there is space."""
    incident = opened(fleet, "P2", "git: no space left on device", "git1")
    reasons = suggested(fleet, incident)
    eventually(lambda: time.time() - full.path(OLD_TEMP).stat().st_ctime > _OLD_S, within_s=90, what="files to be old")
    plan = planned(fleet, BOOK, incident, *PARAMS)
    after_plan = there(full, OLD_TEMP)
    with Going(fleet, BOOK, incident, *PARAMS) as going:
        going.approved("temp")
        ended = going.ended()
    kinds = [line["kind"] for line in lines(fleet, incident)]

    assert next(iter(reasons)) == BOOK
    assert "warning finding filesystem-full on git1" in reasons[BOOK]
    assert after_plan == [OLD_TEMP]
    assert [e["effect"].partition(" below ")[0] for e in plan["temp"]["effects"]] == ["1 file of 120.0 MiB"]
    assert (ended.status, ended.state) == (0, "succeeded")
    assert there(full, OLD_TEMP, _HELD, *OLD_LOGS, DATA) == [_HELD, *OLD_LOGS, DATA]
    assert used_percent(full) < 60
    assert is_writable(full)
    assert steps_on_record(fleet, incident) == ["before", "evidence", "cache", "temp", "after", "more"]
    assert len(kinds) - kinds[::-1].index("evidence.sealed") <= kinds.index("action.applying")
    assert is_proved(fleet)


def test_where_that_is_not_enough_a_person_is_told_what_next(fleet: Fleet, full: Host) -> None:
    """The proof never becomes true: the last step is by hand and names the runbook that goes further."""
    incident = opened(fleet, "P2", "git: no space left on device", "git1")
    with Going(fleet, BOOK, incident, *PARAMS, "enough=1") as going:
        going.approved("temp")
        asked = going.done("more", "--failed")
        ended = going.ended()

    assert "run disk-full on these hosts" in asked
    assert [outcome for _, outcome in ended.hosts("after", "verify")] == ["failed"]
    assert (ended.status, ended.state) == (1, "failed")
    assert there(full, _HELD, *OLD_LOGS, DATA) == [_HELD, *OLD_LOGS, DATA]
