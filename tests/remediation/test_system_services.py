"""Services of a real systemd on a lab host: started, stopped, restarted, and refused where they carry the host."""

from collections.abc import Iterator

import pytest

from tests.lab import NETNS, Lab, default_backend, eventually, services
from tests.lab.services import Services
from tests.remediation.acting import Acting

pytestmark = pytest.mark.netns

_UNIT = "[Unit]\n{head}\n[Service]\nExecStart={start}\n"
_UNITS = {
    "shop.service": _UNIT.format(head="Description=shop", start="/bin/sleep infinity"),
    "cart.service": _UNIT.format(head="BindsTo=shop.service\nAfter=shop.service", start="/bin/sleep infinity"),
    "frail.service": _UNIT.format(head="", start="/bin/sh -c 'echo out of paper password=hunter2; sleep 0.5; exit 3'"),
    "broken.service": _UNIT.format(head="", start="/bin/sh -c 'echo no ink >&2; exit 1'").replace(
        "[Service]\n", "[Service]\nType=oneshot\n"
    ),
    "ssh.service": _UNIT.format(head="", start="/bin/sleep infinity"),
}


@pytest.fixture(scope="module")
def acting() -> Iterator[Acting]:
    """A host with systemd and a few services."""
    if default_backend() != NETNS or services.lacks():
        pytest.skip("needs root, namespaces and systemd")
    with Lab(1) as lab, Services(lab["h1"], _UNITS) as manager:
        yield Acting(lab["h1"], manager)


def state(acting: Acting, unit: str) -> str:
    """As systemd says."""
    return acting.manager.run("systemctl", "is-active", unit, check=False).strip()


def test_a_restart_runs_the_service_anew(acting: Acting) -> None:
    """Another process, seen to stay; what is bound to it is told before."""
    eventually(lambda: state(acting, "cart") == "active", within_s=10, what="cart")
    before = acting.manager.run("systemctl", "show", "--value", "-p", "MainPID", "shop").strip()
    plan = acting.plan("system.service_restart", units=["shop"])["plan"]
    applied = acting.apply("system.service_restart", units=["shop"], settle=1)

    assert applied["verified"]["is_good"], applied
    assert plan["changes"][0]["does"] == "systemctl restart -- shop.service"
    assert plan["warnings"] == ["shop.service: cart.service will restart with it"]
    [unit] = applied["result"]["units"]
    assert (unit["state"], unit["pid"] == int(before)) == ("active", False)


def test_a_stop_is_taken_back_by_a_start(acting: Acting) -> None:
    """And a second stop finds nothing to do."""
    applied = acting.apply("system.service_stop", units=["shop.service"], settle=0)
    again = acting.plan("system.service_stop", units=["shop"])["plan"]
    stopped = state(acting, "shop")
    left = acting.undo("system.service_stop", applied)

    assert applied["verified"]["sentence"] == "shop.service is inactive, for 0 s"
    assert (stopped, again["changes"], left, state(acting, "shop")) == ("inactive", [], [], "active")


def test_a_start_is_taken_back_by_a_stop(acting: Acting) -> None:
    """The other way round."""
    acting.manager.run("systemctl", "stop", "shop")
    applied = acting.apply("system.service_start", units=["shop"], settle=0)
    started = state(acting, "shop")
    left = acting.undo("system.service_start", applied)

    assert (started, left, state(acting, "shop")) == ("active", [], "inactive")


def test_a_service_that_does_not_stay_is_no_success(acting: Acting) -> None:
    """It came up and died: the look after the act says so, with what it logged."""
    applied = acting.apply("system.service_restart", units=["frail"], settle=3)

    assert applied["error"] == ""
    assert not applied["verified"]["is_good"]
    assert "frail.service is failed (exit-code); its log ends:" in applied["verified"]["sentence"]
    assert "out of paper password=[masked]" in applied["verified"]["sentence"]


def test_a_service_that_crashed_too_often_is_started_all_the_same(acting: Acting) -> None:
    """systemd itself refuses a sixth start within ten seconds; an operator's word counts."""
    for _ in range(6):
        acting.manager.run("systemctl", "restart", "ssh", check=False)
    assert state(acting, "ssh") == "failed"
    applied = acting.apply("system.service_restart", units=["ssh"], even_if_critical=True, settle=0)

    assert applied["verified"]["is_good"], applied


def test_what_systemd_says_of_a_failure_is_told(acting: Acting) -> None:
    """With the end of the unit's log."""
    applied = acting.apply("system.service_start", units=["broken"])

    assert "Job for broken.service failed" in applied["error"]
    assert "no ink" in applied["error"]


@pytest.mark.parametrize(
    ("units", "reason", "why"),
    [
        (["nowhere"], "not_found", "nowhere.service: systemd of this host knows no such unit"),
        (["fireline-agent"], "refused", "fireline-agent.service: is part of Fireline itself"),
        (["ssh"], "refused", "ssh.service: the host may be reached by it; say even_if_critical=true"),
        (["systemd-journald"], "refused", "systemd-journald.service: the host may be reached by it"),
        (["systemd-udevd"], "refused", "systemd-udevd.service: wanted a loaded unit, found masked"),
        (["-H evil"], "refused", "units: wanted a name such as nginx.service, found '-H evil'"),
        ([], "refused", "units: wanted at least one name"),
    ],
)
def test_what_is_refused(acting: Acting, units: list[str], reason: str, why: str) -> None:
    """Before anything is done, with what to do."""
    answer = acting.plan("system.service_restart", units=units)

    assert (answer["reason"], answer["refused"][: len(why)]) == (reason, why)


def test_a_critical_one_is_restarted_when_that_is_said(acting: Acting) -> None:
    """ssh, with the word."""
    applied = acting.apply("system.service_restart", units=["ssh"], even_if_critical=True, settle=0)

    assert applied["verified"]["is_good"], applied


def test_a_service_that_was_restarted_meanwhile_is_another(acting: Acting) -> None:
    """Its run is in the plan's hash."""
    acting.apply("system.service_start", units=["shop"], settle=0)
    before = acting.plan("system.service_stop", units=["shop"])["plan"]["changes"]
    acting.apply("system.service_restart", units=["shop"], settle=0)
    after = acting.plan("system.service_stop", units=["shop"])["plan"]["changes"]

    assert before[0]["subject"] != after[0]["subject"]
