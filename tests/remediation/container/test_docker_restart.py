"""system.docker_restart: a real engine under a real systemd, with containers that come back and ones that don't."""

from collections.abc import Iterator

import pytest

from fireline_agent.remediation.action import ActionError
from fireline_agent.remediation.system import docker_restart
from tests.lab import NETNS, Lab, default_backend, engine, eventually, services
from tests.lab.services import Services
from tests.remediation.acting import Acting
from tests.remediation.container.stage import Stage

_UNIT = """[Unit]
Description=Docker Engine
[Service]
Type=notify
ExecStart=/usr/sbin/dockerd --bip 172.28.0.1/24 --data-root /var/lib/docker-lab --iptables=false
KillMode=mixed
TimeoutStopSec=3
Delegate=yes
"""


@pytest.fixture(scope="module")
def acting() -> Iterator[Acting]:
    """A host with systemd and an engine of its own, which runs one container of each kind."""
    if default_backend() != NETNS or services.lacks() or engine.lacks():
        pytest.skip("needs root, namespaces, systemd and a Docker Engine")
    with Lab(1) as lab, Services(lab["h1"], {"docker.service": _UNIT}) as manager:
        eventually(lambda: "running" in manager.run("systemctl", "show", "-p", "SubState", "docker", check=False),
                   within_s=30, what="docker.service")  # fmt: skip
        lab["h1"].write("/busybox.tar", engine.image())
        manager.run("docker", "import", "/busybox.tar", engine.IMAGE)
        for name, policy in (("always", "always"), ("lone", "no")):
            script = "while :; do sleep 0.1; done"
            manager.run("docker", "run", "-d", "--name", name, "--restart", policy, engine.IMAGE, "sh", "-c", script)
        yield Acting(lab["h1"], manager)


@pytest.mark.slow
@pytest.mark.netns
def test_what_ran_runs_again(acting: Acting) -> None:
    """Another process of the engine; both containers run, the one without a restart policy too."""
    plan = acting.plan("system.docker_restart")["plan"]
    applied = acting.apply("system.docker_restart", wait=30)

    assert plan["warnings"] == [
        "2 running containers stop and start again: each is down for some seconds or more",
        "without a restart policy, started by this action: lone",
    ]
    assert applied["verified"]["sentence"] == "the engine answers, 2 of 2 that ran run again", applied
    assert acting.plan("system.docker_restart")["plan"]["changes"][0]["data"] != plan["changes"][0]["data"]


@pytest.mark.slow
@pytest.mark.netns
def test_an_engine_that_hangs_is_restarted(acting: Acting) -> None:
    """Stopped in its tracks, it says nothing; the plan says so, and the restart brings it back."""
    acting.manager.run("systemctl", "kill", "--signal=STOP", "--kill-who=main", "docker")
    plan = acting.plan("system.docker_restart")["plan"]
    applied = acting.apply("system.docker_restart", wait=30)

    assert plan["warnings"][0].startswith("the engine does not answer, so what runs is not known: ")
    assert applied["verified"]["is_good"], applied


@pytest.mark.docker
def test_a_host_without_systemd_is_told(stage: Stage) -> None:
    """Unsupported, with what was looked for."""
    with pytest.raises(ActionError, match=r"/run/systemd/system is not there") as refused:
        stage.rehearse(docker_restart.ACTION).plan()

    assert refused.value.reason == "unsupported"
