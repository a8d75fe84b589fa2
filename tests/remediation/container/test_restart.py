"""container.restart and restart_unhealthy: the right ones, in order, each well before the next."""

import pytest

from fireline_agent.remediation.action import ActionError
from fireline_agent.remediation.applying import PlanChanged
from fireline_agent.remediation.container import restart, restart_unhealthy
from tests.remediation.container.stage import CHECK, WELL, Stage

pytestmark = pytest.mark.docker


def test_one_by_name_restarts_and_is_seen_running(stage: Stage) -> None:
    """The named container has a new start, its neighbour the old one, and the proof counts it."""
    stage.run("wanted")
    stage.run("neighbour")
    before = stage.started_at("wanted", "neighbour")
    applied = stage.rehearse(restart.ACTION, container="wanted", stop_timeout=2).apply()

    after = stage.started_at("wanted", "neighbour")
    assert (before[0] < after[0], before[1]) == (True, after[1])
    assert applied.verified.is_good
    assert applied.verified.sentence == "1 running, 0 of them healthy by their own check"


def test_the_head_of_an_id_names_one(stage: Stage) -> None:
    """What `docker ps` shows as the id is taken."""
    container = stage.run("by-id")
    plan = stage.rehearse(restart.ACTION, container=container[:12]).plan()

    assert [change.data["id"] for change in plan.changes] == [container]


def test_a_service_restarts_after_what_it_needs(stage: Stage) -> None:
    """Both containers of the web service follow the database, which is healthy before they are touched."""
    stage.service("shop", "web", needs="db:service_healthy:false", number=1)
    stage.service("shop", "web", needs="db:service_healthy:false", number=2)
    stage.service("shop", "db", script=WELL, check=CHECK)
    stage.until_health("shop-db-1", "healthy")
    applied = stage.rehearse(restart.ACTION, project="shop", stop_timeout=2).apply()

    order = stage.started_at("shop-db-1", "shop-web-1", "shop-web-2")
    assert order == sorted(order)
    assert applied.verified.sentence == "3 running, 1 of them healthy by their own check"


def test_what_does_not_come_up_stops_the_rest(stage: Stage) -> None:
    """A dependency that ends at once leaves those that need it untouched, and is named with its exit code."""
    stage.service("shop", "db", script="[ -e /tmp/once ] && exit 7; touch /tmp/once; sleep 1000")
    stage.service("shop", "web", needs="db:service_started:false")
    before = stage.started_at("shop-web-1")
    applied = stage.rehearse(restart.ACTION, project="shop", stop_timeout=0).apply()

    assert stage.started_at("shop-web-1") == before
    assert "shop-db-1 does not come up: it is exited, exit code 7; 0 of 2 changes were done" in applied.error


def test_a_crash_loop_is_told_from_a_start(stage: Stage) -> None:
    """A container that the engine starts again and again does not count as running."""
    stage.run("looping", "sleep 0.3; exit 3", restart_policy={"Name": "always"})
    applied = stage.rehearse(restart.ACTION, container="looping", stop_timeout=0).apply()

    assert applied.error.startswith("looping (") and "and the engine starts it again" in applied.error


@pytest.mark.slow
def test_a_paused_container_runs_after_its_restart(stage: Stage) -> None:
    """A restart ends a pause."""
    stage.run("paused")
    stage.engine.client.pause("paused")
    applied = stage.rehearse(restart.ACTION, container="paused", stop_timeout=1).apply()

    assert (applied.verified.is_good, stage.state("paused")["Status"]) == (True, "running")


@pytest.mark.slow
def test_a_job_that_ended_well_is_not_run_again(stage: Stage) -> None:
    """A label selects what is down, but a migration that ended with 0 is no service that is down."""
    stage.run("job", "exit 0", labels={"tier": "shop"})
    stage.run("down", "[ -e /tmp/once ] || { touch /tmp/once; exit 1; }; sleep 1000", labels={"tier": "shop"})
    stage.until_state("job", "exited")
    stage.until_state("down", "exited")
    applied = stage.rehearse(restart.ACTION, label="tier=shop").apply()

    assert [change.data["name"] for change in applied.plan.changes] == ["down"]
    assert stage.state("job")["Status"] == "exited"


def test_a_container_may_be_named_by_its_service_where_that_has_one(stage: Stage) -> None:
    """As people and other actions name it; of several none is chosen for them."""
    service = "com.docker.compose.service"
    stage.run("shop-db-1", labels={service: "db"})
    stage.run("shop-web-1", labels={service: "web"})
    stage.run("shop-web-2", labels={service: "web"})

    plan = stage.rehearse(restart.ACTION, container="db").plan()
    with pytest.raises(ActionError, match="no container of 3 is container web"):
        stage.rehearse(restart.ACTION, container="web").plan()

    assert [change.data["name"] for change in plan.changes] == ["shop-db-1"]


def test_nothing_is_selected_by_a_label_nobody_has(stage: Stage) -> None:
    """The message names what was looked for and what comes near."""
    stage.run("web", labels={"tier": "critical"})
    with pytest.raises(ActionError) as refused:
        stage.rehearse(restart.ACTION, label="tier=critcal").plan()

    assert refused.value.reason == "not_found"
    assert str(refused.value) == "no container of 1 is label tier=critcal; did you mean 'tier=critical'?"


def test_no_selector_is_no_blank_cheque(stage: Stage) -> None:
    """Without any selector nothing is restarted."""
    with pytest.raises(ActionError, match="name the containers: container, label, service or project"):
        stage.rehearse(restart.ACTION).plan()


def test_a_container_that_is_gone_changes_the_plan(stage: Stage) -> None:
    """A container that was replaced under its name between plan and apply is not restarted."""
    stage.run("fleeting")
    rehearsal = stage.rehearse(restart.ACTION, container="fleeting")
    plan = rehearsal.plan()
    stage.engine.client.remove_container("fleeting", force=True)
    stage.run("fleeting")
    before = stage.started_at("fleeting")

    with pytest.raises(PlanChanged):
        rehearsal.apply(plan)
    assert stage.started_at("fleeting") == before


def test_a_container_gone_in_the_last_moment_is_said_so(stage: Stage) -> None:
    """Removed after the look that the plan was checked with, it is named as gone."""
    stage.run("late")
    rehearsal = stage.rehearse(restart.ACTION, container="late")
    change = rehearsal.plan().changes[0]
    stage.engine.client.remove_container("late", force=True)

    with pytest.raises(ActionError, match=r"container late \([0-9a-f]{12}\) is gone since this was planned"):
        restart.ACTION.do(stage.tools, change, rehearsal.params)  # type: ignore[misc]  # it has one


def test_odd_labels_are_selected_exactly_and_shown_safely(stage: Stage) -> None:
    """A project named with a line break and an escape sequence is found, and shown without them."""
    odd = "sh\x1b[2Jop\nß"
    stage.run("plain-name", labels={"com.docker.compose.project": odd})
    plan = stage.rehearse(restart.ACTION, project=odd).plan()

    assert plan.result["containers"][0]["project"] == "sh\\x1b[2Jop\\x0aß"


def test_only_the_unhealthy_is_restarted(stage: Stage) -> None:
    """None, starting, healthy and unhealthy are told apart; only the last is restarted, and is healthy after."""
    stage.run("unchecked")
    stage.run("beginning", check={**CHECK, "start_period": 60 * 10**9})
    stage.run("fine", WELL, check=CHECK)
    stage.run("sick", WELL, check=CHECK)
    stage.until_health("fine", "healthy")
    stage.until_health("sick", "healthy")
    stage.make_unhealthy("sick")
    before = stage.started_at("unchecked", "beginning", "fine")
    applied = stage.rehearse(restart_unhealthy.ACTION, after=0, stop_timeout=1).apply()

    result = applied.plan.result
    assert {state: result[state] for state in restart_unhealthy.HEALTHS} == {
        "none": 1,
        "starting": 1,
        "healthy": 1,
        "unhealthy": 1,
    }
    assert [change.data["name"] for change in applied.plan.changes] == ["sick"]
    assert stage.started_at("unchecked", "beginning", "fine") == before
    assert (applied.verified.is_good, stage.state("sick")["Health"]["Status"]) == (True, "healthy")


def test_one_that_failed_just_now_is_left_alone(stage: Stage) -> None:
    """Unhealthy for less than `after` is not restarted, and is told."""
    stage.run("flapping", WELL, check=CHECK)
    stage.until_health("flapping", "healthy")
    stage.make_unhealthy("flapping")
    plan = stage.rehearse(restart_unhealthy.ACTION, after=600).plan()

    assert not plan.changes
    assert plan.summary == "nothing to restart: 1 unhealthy"
    assert plan.warnings[0].startswith("flapping fails for ")


def test_one_that_got_well_meanwhile_is_left_alone(stage: Stage) -> None:
    """Between the plan and its turn it became healthy: it keeps its start."""
    stage.run("better", WELL, check=CHECK)
    stage.until_health("better", "healthy")
    stage.make_unhealthy("better")
    rehearsal = stage.rehearse(restart_unhealthy.ACTION, after=0)
    change = rehearsal.plan().changes[0]
    stage.run_in("better", "touch /tmp/well")
    stage.until_health("better", "healthy")
    before = stage.started_at("better")

    assert restart_unhealthy.do(stage.tools, change, rehearsal.params) == {"left_alone": "healthy again"}
    assert stage.started_at("better") == before


def test_a_restart_that_does_not_help_is_told(stage: Stage) -> None:
    """A check that fails again is a failure with the health in the message."""
    stage.run("hopeless", check={**CHECK, "test": ["CMD", "false"]})
    stage.until_health("hopeless", "unhealthy")
    applied = stage.rehearse(restart_unhealthy.ACTION, after=0, stop_timeout=1, wait=10).apply()

    assert "hopeless does not come up: its health check fails" in applied.error
    assert not applied.verified.is_good
