"""A disk without a free byte: what is deleted is in sealed evidence first, people agree, and there is space again."""

from collections.abc import Iterator

import pytest

from tests.fleet import Fleet
from tests.lab import NETNS, Host, default_backend
from tests.rehearsals.disks import (
    DATA,
    DISK_BYTES,
    NEW_LOG,
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

BOOK = "disk-full"
# Nobody can set back the time at which a file was made, and that of a temporary file counts: so a second is old here.
PARAMS = ("docker=false", "look_in=/var/log", "temp=/var/tmp", "temp_age=1s")
FILES = (*OLD_LOGS, NEW_LOG, OLD_TEMP, DATA)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Two hosts that let Fireline destroy, with small disks."""
    if default_backend() != NETNS:
        pytest.skip("needs root and namespaces: hosts with disks of their own")
    with fleet_of_two_people("db1", "db2", disk_bytes=DISK_BYTES) as made:
        for host in made.lab:
            allow_all(host)
        yield made


@pytest.fixture
def full(fleet: Fleet) -> Iterator[tuple[Host, ...]]:
    """The hosts with their disks full to the last byte."""
    hosts = tuple(fleet.lab)
    for host in hosts:
        fill(host)
    yield hosts
    for host in hosts:
        host.disk_free()


def _selected(fleet: Fleet, incident: str) -> list[dict[str, object]]:
    """What evidence says of the collector that keeps files."""
    found = fleet.json("evidence", "list", "--incident", incident)["evidence"]
    shown = [fleet.json("evidence", "show", one["evidence_id"])["statement"]["predicate"] for one in found]
    return [run for one in shown for run in one["collectors"] if run["name"] == "selected_files"]


def test_a_full_disk_has_space_again_and_what_went_is_sealed(fleet: Fleet, full: tuple[Host, ...]) -> None:
    """Suggested by the finding; the plan deletes nothing; two approvals; old logs go, the rest stays."""
    assert not any(map(is_writable, full))
    incident = opened(fleet, "P2", "checkout: no space left on device", "db[1-2]")
    reasons = suggested(fleet, incident)
    plan = planned(fleet, BOOK, incident, *PARAMS)
    after_plan = [there(host, *FILES) for host in full]
    with Going(fleet, BOOK, incident, *PARAMS) as going:
        going.approved("temp")
        going.approved("logs")
        ended = going.ended()

    assert BOOK in reasons
    assert "warning finding filesystem-full on db1, db2" in reasons[BOOK]
    assert plan["logs"]["approval"]
    assert after_plan == [list(FILES)] * 2
    assert (ended.status, ended.state) == (0, "succeeded")
    assert ended.hosts("logs") == [("db1", "ok"), ("db2", "ok")]
    assert [there(host, *FILES) for host in full] == [[NEW_LOG, DATA]] * 2
    assert all(used_percent(host) < 50 for host in full)
    assert all(map(is_writable, full))


def test_every_step_is_on_the_timeline_and_the_evidence_before_what_it_destroys(fleet: Fleet) -> None:
    """The captures had nothing but the bytes that were set aside; what did not fit is in them by its hash."""
    incident = fleet.json("incident", "list")["incidents"][0]["incident"]
    kinds = [line["kind"] for line in lines(fleet, incident)]
    kept = _selected(fleet, incident)

    assert steps_on_record(fleet, incident) == [
        "before", "evidence", "build_cache", "temp", "after_temp", "logs", "after_logs", "images", "move",
        "enough_space", "schedule", "by_hand",
    ]  # fmt: skip
    assert len(kinds) - kinds[::-1].index("evidence.sealed") <= kinds.index("action.applying")
    assert len(kept) >= 4
    assert {run["status"] for run in kept} == {"ok"}
    assert is_proved(fleet)


def test_what_is_denied_is_not_deleted(fleet: Fleet, full: tuple[Host, ...]) -> None:
    """A no ends the run, with every file where it was; nothing is offered to be taken back."""
    incident = opened(fleet, "P2", "no space left on device", "db1")
    with Going(fleet, BOOK, incident, *PARAMS) as going:
        going.approved("temp", "--deny")
        ended = going.ended()

    assert there(full[0], *FILES) == list(FILES)
    assert (ended.status, ended.state) == (1, "failed")
    assert ended.run["why"] == "temp: bob denied it: rehearsal"
    assert "take it back" not in ended.said
    assert is_proved(fleet)
