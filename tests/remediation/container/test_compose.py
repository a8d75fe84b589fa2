"""Compose projects over their labels: restarted, brought up, made anew on pinned images, and put back."""

import io
import tarfile

import pytest

from fireline_agent.remediation.action import ActionError
from fireline_agent.remediation.applying import PlanChanged
from fireline_agent.remediation.compose import recreate, restart, up
from fireline_agent.remediation.container import prune_containers
from tests.engine import IMAGE, eventually
from tests.remediation.container.stage import CHECK, FOREVER, WELL, Stage

pytestmark = pytest.mark.docker


@pytest.mark.slow
def test_one_service_restarts_alone(stage: Stage) -> None:
    """The service that is named, and not what it depends on, nor another project's service of that name."""
    stage.service("shop", "db")
    stage.service("shop", "web", needs="db:service_started:false")
    stage.service("blog", "web")
    before = stage.started_at("shop-db-1", "blog-web-1")
    applied = stage.rehearse(restart.ACTION, project="shop", service="web", stop_timeout=2).apply()

    assert [change.data["name"] for change in applied.plan.changes] == ["shop-web-1"]
    assert (stage.started_at("shop-db-1", "blog-web-1"), applied.verified.is_good) == (before, True)


def test_a_project_that_is_not_here_is_named(stage: Stage) -> None:
    """The message says what was looked for and what there is."""
    stage.service("shop", "web")
    with pytest.raises(ActionError, match="no container of 1 is project shoop; did you mean 'shop'"):
        stage.rehearse(restart.ACTION, project="shoop").plan()


@pytest.mark.slow
def test_what_is_down_comes_up_in_order(stage: Stage) -> None:
    """The database is healthy before the web service starts; what runs keeps its start; the undo stops both."""
    stage.service("shop", "web", needs="db:service_healthy:false,cache:service_started:false")
    stage.service("shop", "db", script=WELL, check=CHECK)
    stage.service("shop", "mail")
    for name in ("shop-web-1", "shop-db-1"):
        stage.engine.client.stop(name, timeout=2)
    before = stage.started_at("shop-mail-1")
    rehearsal = stage.rehearse(up.ACTION, project="shop")
    applied = rehearsal.apply()

    assert [change.data["name"] for change in applied.plan.changes] == ["shop-db-1", "shop-web-1"]
    assert applied.plan.warnings == ("a service that others depend on has no container here: cache",)
    assert stage.started_at("shop-mail-1") == before
    assert applied.verified.sentence == "2 run, 0 ended well"
    assert rehearsal.undo(applied) == []
    assert [stage.state(name)["Status"] for name in ("shop-db-1", "shop-web-1")] == ["exited", "exited"]


def test_a_job_that_is_done_is_not_done_again(stage: Stage) -> None:
    """A migration that the web service waits for stays ended; a service that was stopped is started."""
    stage.service("shop", "migrate", script="exit 0")
    stage.service("shop", "web", needs="migrate:service_completed_successfully:false")
    stage.engine.client.stop("shop-web-1", timeout=2)
    stage.until_state("shop-migrate-1", "exited")
    changes = stage.rehearse(up.ACTION, project="shop").plan().changes

    assert [change.data["name"] for change in changes] == ["shop-web-1"]


def test_made_anew_what_was_changed_inside_is_gone(stage: Stage) -> None:
    """Same name, labels, environment, address and volumes; another container, without the intruder's file."""
    client = stage.engine.client
    network = client.create_network("shop_default", driver="bridge")
    client.create_network("shop_back", driver="bridge")
    stage.service(
        "shop", "web", binds={"web-data": {"bind": "/data", "mode": "rw"}}, network_mode="shop_default", mem_limit="64m"
    )
    client.connect_container_to_network("shop-web-1", "shop_back", aliases=["backend"])
    stage.run_in("shop-web-1", "echo x > /tmp/implant; echo kept > /data/row")
    before = stage.inspect("shop-web-1")
    rehearsal = stage.rehearse(recreate.ACTION, project="shop", stop_timeout=2)
    applied = rehearsal.apply()
    after = stage.inspect("shop-web-1")

    assert applied.verified.sentence == "1 run anew on their pinned images"
    assert after["Id"] != before["Id"]
    assert stage.run_in("shop-web-1", "cat /data/row; cat /tmp/implant 2>&1").splitlines() == [
        "kept",
        "cat: can't open '/tmp/implant': No such file or directory",
    ]
    assert after["Config"]["Image"] == before["Image"]
    assert after["HostConfig"]["Memory"] == before["HostConfig"]["Memory"]
    assert sorted(after["NetworkSettings"]["Networks"]) == ["shop_back", "shop_default"]
    assert "backend" in after["NetworkSettings"]["Networks"]["shop_back"]["Aliases"]
    labels = {**before["Config"]["Labels"], "fireline.replaces": before["Id"]}
    assert (after["Config"]["Labels"], network["Id"] != "") == (labels, True)
    assert rehearsal.undo(applied) == []
    assert stage.inspect("shop-web-1")["Id"] == before["Id"]
    assert stage.run_in("shop-web-1", "cat /tmp/implant") == "x\n"


@pytest.mark.slow
def test_one_that_is_put_aside_is_no_part_of_the_project(stage: Stage) -> None:
    """After a recreation the project is what runs; the former container is neither started nor made anew."""
    stage.service("shop", "web", restart_policy={"Name": "always"})
    stage.rehearse(recreate.ACTION, project="shop", stop_timeout=2).apply()
    (aside,) = [c for c in stage.engine.client.containers(all=True) if c["State"] == "exited"]

    assert stage.inspect(aside["Id"])["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert stage.inspect("shop-web-1")["HostConfig"]["RestartPolicy"]["Name"] == "always"
    assert not stage.rehearse(up.ACTION, project="shop").plan().changes
    changes = stage.rehearse(recreate.ACTION, project="shop").plan().changes
    assert [change.data["name"] for change in changes] == ["shop-web-1"]
    (warning,) = stage.rehearse(prune_containers.ACTION, age=0).plan().warnings
    assert warning.startswith("put aside by a recreation, whose undo ends with it: shop-web-1.fireline-old-")


def test_a_new_one_that_fails_gives_way_to_the_old_one(stage: Stage) -> None:
    """On an image that can't run its command the former container comes back, and the message says so."""
    before = stage.service("shop", "web")
    bad = _image(stage, "broken:1")
    applied = stage.rehearse(recreate.ACTION, project="shop", service="web", image=bad, stop_timeout=2).apply()

    assert "the new one failed and the old one is back" in applied.error
    assert not applied.verified.is_good
    assert (stage.inspect("shop-web-1")["Id"], stage.state("shop-web-1")["Status"]) == (before, "running")
    assert len(stage.engine.client.containers(all=True)) == 1


def test_an_image_must_be_pinned_and_here(stage: Stage) -> None:
    """A tag is refused since it may be moved; a digest that is not here is not pulled."""
    stage.service("shop", "web")
    with pytest.raises(ActionError, match=r"wanted sha256:… or NAME@sha256:…, found web:latest"):
        # The tag is here, so that it is the form that is refused.
        stage.engine.client.tag(IMAGE, "web", "latest")
        stage.rehearse(recreate.ACTION, project="shop", service="web", image="web:latest").plan()
    with pytest.raises(ActionError, match="is not on this host, and nothing is pulled"):
        image = f"sha256:{'0' * 64}"
        stage.rehearse(recreate.ACTION, project="shop", service="web", image=image).plan()


def test_a_container_changed_meanwhile_is_another_plan(stage: Stage) -> None:
    """New limits since the plan: the recreation would lose them, so that it is refused."""
    stage.service("shop", "web")
    rehearsal = stage.rehearse(recreate.ACTION, project="shop")
    plan = rehearsal.plan()
    stage.engine.client.update_container("shop-web-1", mem_limit="64m", memswap_limit="64m")

    with pytest.raises(PlanChanged):
        rehearsal.apply(plan)


@pytest.mark.slow
def test_a_recreation_that_was_cut_off_is_finished_by_the_next(stage: Stage) -> None:
    """The new one is made, the old one stopped and put aside, nothing runs: the next one brings it up."""
    client = stage.engine.client
    old = stage.service("shop", "web")
    labels = {**stage.inspect(old)["Config"]["Labels"], "fireline.replaces": old}
    made = client.create_container(IMAGE, ["sh", "-c", FOREVER], name="shop-web-1.fireline-new", labels=labels)
    client.stop(old, timeout=2)
    client.rename(old, f"shop-web-1.fireline-old-{old[:8]}")
    applied = stage.rehearse(recreate.ACTION, project="shop").apply()

    assert [change.data["id"] for change in applied.plan.changes] == [made["Id"]]
    assert applied.verified.is_good
    eventually(lambda: stage.state("shop-web-1")["Status"] == "running", within_s=5, what="it runs")


def test_no_secret_is_in_a_plan(stage: Stage) -> None:
    """The environment of a container goes into the new one, and nowhere else."""
    stage.engine.run(
        "shop-web-1",
        FOREVER,
        create={"environment": {"DB_PASSWORD": "hunter2"}, "labels": {"com.docker.compose.project": "shop"}},
    )
    applied = stage.rehearse(recreate.ACTION, project="shop", stop_timeout=2).apply()

    assert "DB_PASSWORD=hunter2" in stage.inspect("shop-web-1")["Config"]["Env"]
    assert "hunter2" not in repr(applied)


def _image(stage: Stage, name: str) -> str:
    """An image with nothing that could run; its id."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("empty"))
    repository, _, tag = name.partition(":")
    stage.engine.client.import_image_from_data(file.getvalue(), repository=repository, tag=tag)
    found: str = stage.engine.client.inspect_image(name)["Id"]
    return found
