"""Pruning containers, images, build cache, volumes and networks: what is old and unused, and nothing else."""

import io
import tarfile

import pytest

from fireline_agent.remediation.action import ActionError, Change
from fireline_agent.remediation.applying import PlanChanged
from fireline_agent.remediation.container import (
    prune_build_cache,
    prune_containers,
    prune_images,
    prune_networks,
    prune_volumes,
)
from tests.engine import IMAGE
from tests.remediation.container.stage import Stage

pytestmark = pytest.mark.docker


def test_ended_containers_go_and_running_ones_stay(stage: Stage) -> None:
    """What ended is removed with its layer; its named volume stays."""
    stage.run("ended", "echo x > /d/kept", binds={"kept-data": {"bind": "/d", "mode": "rw"}})
    stage.run("running")
    stage.until_state("ended", "exited")
    applied = stage.rehearse(prune_containers.ACTION, age=0).apply()

    assert [change.data["name"] for change in applied.plan.changes] == ["ended"]
    assert applied.verified.sentence == "all 1 are gone"
    assert stage.state("running")["Status"] == "running"
    assert [volume["Name"] for volume in stage.engine.client.volumes()["Volumes"]] == ["kept-data"]


def test_what_ended_just_now_stays(stage: Stage) -> None:
    """Younger than the age asked for is kept."""
    stage.run("fresh", "exit 1")
    stage.until_state("fresh", "exited")

    assert not stage.rehearse(prune_containers.ACTION, age=3600).plan().changes


def test_a_container_that_ran_again_is_not_removed(stage: Stage) -> None:
    """Started and ended again after the plan: another plan, nothing removed."""
    stage.run("again", "exit 1")
    stage.until_state("again", "exited")
    rehearsal = stage.rehearse(prune_containers.ACTION, age=0)
    plan = rehearsal.plan()
    before = stage.state("again")["FinishedAt"]
    stage.engine.client.start("again")
    stage.until_state("again", "exited")

    assert stage.state("again")["FinishedAt"] != before
    with pytest.raises(PlanChanged):
        rehearsal.apply(plan)
    with pytest.raises(ActionError, match="again ran since this was planned"):
        prune_containers.do(stage.tools, plan.changes[0], rehearsal.params)


def test_an_unused_image_goes_with_all_its_names(stage: Stage) -> None:
    """Only where all are asked for does one with names go; the one in use stays."""
    stage.run("user")
    spare = _import(stage, "spare:1")
    stage.engine.client.tag(spare, "spare", "2")

    assert not stage.rehearse(prune_images.ACTION, age=0).plan().changes
    applied = stage.rehearse(prune_images.ACTION, age=0, all=True).apply()
    assert [change.data["names"] for change in applied.plan.changes] == [["spare:1", "spare:2"]]
    assert applied.verified.is_good
    assert [image["RepoTags"] for image in stage.engine.client.images()] == [[IMAGE]]


def test_an_image_without_a_name_goes_by_itself(stage: Stage) -> None:
    """What a newer build took the name of is removed."""
    stage.run("user")
    first = _import(stage, "app:1", b"1")
    _import(stage, "app:1", b"2")
    applied = stage.rehearse(prune_images.ACTION, age=0).apply()

    assert [change.data["id"] for change in applied.plan.changes] == [first]
    assert ["app:1"] in [image["RepoTags"] for image in stage.engine.client.images()]


def test_an_image_tagged_just_now_is_young(stage: Stage) -> None:
    """Its age counts from when it came here, not from when somebody built it."""
    stage.run("user")
    _import(stage, "spare:1")

    assert not stage.rehearse(prune_images.ACTION, age=3600, all=True).plan().changes


def test_build_cache_goes(stage: Stage) -> None:
    """Entries of a real build are removed, those that others stand on too."""
    _build(stage)
    rehearsal = stage.rehearse(prune_build_cache.ACTION, age=0)
    plan = rehearsal.plan()

    assert plan.result["count"] >= 2
    assert (
        rehearsal.apply(plan).verified.sentence == f"{plan.result['count']} of {plan.result['count']} entries are gone"
    )
    assert not stage.engine.client.df()["BuildCache"]
    assert not rehearsal.plan().changes


def test_build_cache_that_was_used_lately_stays(stage: Stage) -> None:
    """Younger than the age asked for is kept."""
    _build(stage)

    assert not stage.rehearse(prune_build_cache.ACTION, age=3600).plan().changes


def test_a_volume_with_data_goes_only_by_its_own_name(stage: Stage) -> None:
    """Empty ones go; one with data is kept and named, until it is named."""
    client = stage.engine.client
    for name in ("empty", "precious", "used"):
        client.create_volume(name)
    stage.run("user", binds={"used": {"bind": "/d", "mode": "rw"}})
    stage.run("writer", "echo data > /d/file", binds={"precious": {"bind": "/d", "mode": "rw"}})
    stage.until_state("writer", "exited")
    client.remove_container("writer")
    first = stage.rehearse(prune_volumes.ACTION, age=0).apply()

    assert [change.data["name"] for change in first.plan.changes] == ["empty"]
    assert first.plan.warnings == ("holds data and is kept unless named in with_data: precious",)
    assert sorted(volume["Name"] for volume in client.volumes()["Volumes"]) == ["precious", "used"]
    second = stage.rehearse(prune_volumes.ACTION, age=0, with_data=["precious"]).apply()
    assert second.plan.changes[0].does == "docker volume rm precious (WITH ITS DATA)"
    assert [volume["Name"] for volume in client.volumes()["Volumes"]] == ["used"]


def test_a_volume_with_an_empty_file_holds_data(stage: Stage) -> None:
    """The engine counts no bytes in it, but somebody put a file there."""
    stage.run("toucher", "touch /d/lock", binds={"locks": {"bind": "/d", "mode": "rw"}})
    stage.until_state("toucher", "exited")
    stage.engine.client.remove_container("toucher")

    assert not stage.rehearse(prune_volumes.ACTION, age=0).plan().changes


def test_a_volume_that_was_filled_meanwhile_is_kept(stage: Stage) -> None:
    """Empty when planned, with data when its turn comes: refused."""
    stage.engine.client.create_volume("filling")
    change = stage.rehearse(prune_volumes.ACTION, age=0).plan().changes[0]
    stage.run("writer", "echo x > /d/f", binds={"filling": {"bind": "/d", "mode": "rw"}})
    stage.until_state("writer", "exited")
    stage.engine.client.remove_container("writer")

    with pytest.raises(ActionError, match="volume filling was empty when planned and holds data now"):
        prune_volumes.do(stage.tools, change, {})


def test_a_volume_is_named_in_vain(stage: Stage) -> None:
    """A name that no volume has, or one in use, is refused, not skipped."""
    stage.run("user", binds={"used": {"bind": "/d", "mode": "rw"}})
    with pytest.raises(ActionError, match="no volume 'usde'; did you mean 'used'"):
        stage.rehearse(prune_volumes.ACTION, age=0, with_data=["usde"]).plan()
    with pytest.raises(ActionError, match="volume used is in use by a container"):
        stage.rehearse(prune_volumes.ACTION, age=0, with_data=["used"]).plan()


def test_a_network_that_a_stopped_container_needs_stays(stage: Stage) -> None:
    """The engine's own prune would take it, and the container could not start again."""
    client = stage.engine.client
    client.create_network("needed", driver="bridge")
    client.create_network("spare", driver="bridge", labels={"team": "x"})
    stage.run("member", "exit 0", network_mode="needed")
    stage.until_state("member", "exited")
    rehearsal = stage.rehearse(prune_networks.ACTION, age=0)
    applied = rehearsal.apply()

    assert [change.data["settings"]["Name"] for change in applied.plan.changes] == ["spare"]
    assert _networks(stage) == ["bridge", "host", "needed", "none"]
    before = applied.plan.changes[0].data["settings"]
    assert rehearsal.undo(applied) == []
    again = client.inspect_network("spare")
    assert {key: again[key] for key in before} == before


def test_a_network_taken_up_meanwhile_stays(stage: Stage) -> None:
    """A container came onto it after the plan: refused."""
    stage.engine.client.create_network("wanted", driver="bridge")
    change = stage.rehearse(prune_networks.ACTION, age=0).plan().changes[0]
    stage.run("member", network_mode="wanted")

    with pytest.raises(ActionError, match="network wanted is needed by a container since"):
        prune_networks.do(stage.tools, change, {})


def test_a_plan_of_the_cache_binds_each_entry() -> None:
    """One change for all entries, whose digest tells another set of them."""
    facts = {"entries": [{"id": name, "age_s": 9, "size_bytes": 5, "in_use": False} for name in "ab"]}
    more = {"entries": [*facts["entries"], {"id": "c", "age_s": 9, "size_bytes": 5, "in_use": False}]}
    one, other = (prune_build_cache.plan(found, {"age": 1}).changes[0] for found in (facts, more))

    assert isinstance(one, Change)
    assert (one.size_bytes, other.size_bytes) == (10, 15)
    assert one.subject != other.subject


def _import(stage: Stage, name: str, content: bytes = b"x") -> str:
    """An image with one file; its id."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("file")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    repository, _, tag = name.partition(":")
    stage.engine.client.import_image_from_data(file.getvalue(), repository=repository, tag=tag)
    found: str = stage.engine.client.inspect_image(name)["Id"]
    return found


def _build(stage: Stage) -> None:
    """A build by BuildKit, which needs no plug-in when the engine itself is asked."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in (("Dockerfile", b"FROM scratch\nCOPY f /f\nCOPY g /g\n"), ("f", b"f"), ("g", b"g")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    client = stage.engine.client
    answer = client._post(
        client._url("/build"),
        data=file.getvalue(),
        params={"version": "2"},
        headers={"Content-Type": "application/tar"},
    )
    assert answer.status_code == 200, answer.text


def _networks(stage: Stage) -> list[str]:
    return sorted(network["Name"] for network in stage.engine.client.networks())
