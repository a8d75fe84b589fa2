"""What rehearsals share: a fleet with two operators, an incident, and a run that is followed while people act in it."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.fleet import BIN, Fleet
from tests.lab import Host, engine, eventually

SECOND = "bob"  # the operator who approves what the first one started
_ENDED = ("succeeded", "failed", "cancelled", "rolled_back")

# A container that stays, and whose check holds as long as the file is there; a restart brings the file back.
WELL = "trap 'exit 0' TERM; touch /tmp/well; while :; do sleep 0.2; done"
CHECK = ("--health-cmd", "[ -f /tmp/well ]", "--health-interval", "1s", "--health-retries", "1")


@contextmanager
def fleet_of_two_people(*names: str, **settings: Any) -> Iterator[Fleet]:
    """A fleet with a daemon, and a second operator; the settings are those of a Fleet."""
    with Fleet(names, **settings) as fleet:
        fleet.fireline("operator", "add", SECOND)
        yield fleet


def opened(fleet: Fleet, severity: str, title: str, target: str, *, profile: str = "volatile") -> str:
    """Open an incident on hosts, which captures them; its id."""
    fleet.fireline("incident", "open", severity, title, "--target", target, "--profile", profile)
    return str(fleet.json("incident", "list")["incidents"][0]["incident"])


def suggested(fleet: Fleet, incident: str) -> dict[str, list[str]]:
    """The runbooks that are suggested for an incident with their reasons, best first."""
    found = fleet.json("runbook", "suggest", incident)["suggestions"]
    return {one["runbook"]: one["reasons"] for one in found}


def planned(fleet: Fleet, runbook: str, incident: str, *params: str) -> dict[str, dict[str, Any]]:
    """What a run on the hosts of the incident would do, by step."""
    found = fleet.json("runbook", "run", runbook, "--incident", incident, "--plan", *_given(params))
    return {step["step"]: step for step in found["steps"]}


@dataclass(frozen=True)
class Ended:
    """How a run ended: the exit status, its last record, its moves in order, and what was said besides."""

    status: int
    run: dict[str, Any]
    moves: list[dict[str, Any]]
    said: str = ""

    @property
    def state(self) -> str:
        """The state of the run: succeeded, failed, cancelled, rolled_back."""
        return str(self.run["state"])

    def hosts(self, step: str, part: str = "do") -> list[tuple[str, str]]:
        """Each host with its outcome, in the order in which a step was done."""
        return [(h["host"], h["outcome"]) for move in self._of(step, part) for h in move["hosts"]]

    def results(self, step: str, part: str = "do") -> dict[str, dict[str, Any]]:
        """What each host answered in a step."""
        return {h["host"]: h["result"] for move in self._of(step, part) for h in move["hosts"]}

    def _of(self, step: str, part: str) -> list[dict[str, Any]]:
        return [move for move in self.moves if (move["step"], move["part"]) == (step, part)]


class Going:
    """A run in the hands of an operator, who follows it; others act in it meanwhile.

    Args:
        fleet: where.
        runbook, incident: the run is on the hosts of the incident.
        params: NAME=VALUE.
    """

    def __init__(self, fleet: Fleet, runbook: str, incident: str, *params: str) -> None:
        self._fleet = fleet
        self._told = Path(tempfile.mkstemp(prefix="fireline-rehearsal-")[1])
        argv = [str(BIN / "fireline"), "runbook", "run", runbook, "--incident", incident, "--jsonl", *_given(params)]
        environment = {**os.environ, "FIRELINE_STATE": str(fleet.state), "NO_COLOR": "1"}
        with self._told.open("wb") as told:
            self._command = subprocess.Popen(
                argv, stdout=told, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment, text=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._command.poll() is None:
            self._command.kill()
        self._command.communicate()
        self._told.unlink()

    @property
    def events(self) -> list[dict[str, Any]]:
        """What the operator was told so far."""
        whole, _, _ = self._told.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    @property
    def id(self) -> str:
        """The run's id, once it began.

        Raises:
            RuntimeError: it never did; with what the operator was told instead.
        """
        eventually(lambda: bool(self.events) or self._command.poll() is not None, within_s=30, what="the run to begin")
        if not self.events:
            raise RuntimeError(f"no run: {self._command.communicate()[1]}")
        return str(self.events[0]["run"])

    def until(self, word: str, *, within_s: float = 60) -> str:
        """Wait until the run says in a note that it waits for something, such as a step by hand; the note."""

        def notes() -> list[str]:
            if self._command.poll() is not None:
                raise RuntimeError(f"the run ended instead: {self.events[-3:]}")
            return [e["note"] for e in self.events if e["event"] == "run" and word in e["note"]]

        eventually(lambda: bool(notes()), within_s=within_s, what=f"the run to say {word}")
        return notes()[-1]

    def approved(self, step: str, *options: str) -> None:
        """The second operator approves a step that the run waits with, or denies it (`--deny`)."""
        self.until(step)
        self._fleet.fireline("--as", SECOND, "runbook", "approve", self.id, "--yes", "--reason", "rehearsal", *options)

    def done(self, step: str, *options: str) -> str:
        """Say that a step is done by hand, or what else became of it (`--failed`, `--skip`); the note that asked."""
        note = self.until(step)
        self._fleet.fireline("runbook", "done", self.id, step, "--note", "rehearsal", *options)
        return note

    def ended(self, *, within_s: float = 90) -> Ended:
        """Wait for the end of the run."""
        _, said = self._command.communicate(timeout=within_s)
        events = self.events
        runs = [e for e in events if e["event"] == "run"]
        assert runs, said
        assert runs[-1]["state"] in _ENDED, (runs[-1], said)
        return Ended(self._command.returncode, runs[-1], [e for e in events if e["event"] == "ended"], said)


def lines(fleet: Fleet, incident: str) -> list[dict[str, Any]]:
    """The incident's timeline, in order."""
    return [json.loads(line) for line in fleet.fireline("incident", "timeline", incident, "--json").splitlines()]


def steps_on_record(fleet: Fleet, incident: str) -> list[str]:
    """The steps of runs that the timeline has a line for, in the order in which they began."""
    begun = [line["data"] for line in lines(fleet, incident) if line["kind"] == "runbook.moves"]
    return [data["step"] for data in begun if data["part"] == "begin"]


def is_proved(fleet: Fleet) -> bool:
    """Whether the journal holds."""
    return bool(fleet.json("journal", "verify")["verified"])


def run_container(host: Host, name: str, script: str = WELL, *options: str) -> None:
    """Start a container on a host."""
    engine.docker(host, "run", "-d", "--pull", "never", "--name", name, *options, engine.IMAGE, "sh", "-c", script)


def service_options(project: str, service: str, *needs: str) -> tuple[str, ...]:
    """What makes a container one of a Compose service; `needs` are services that it depends on."""
    labels = {
        "com.docker.compose.project": project,
        "com.docker.compose.service": service,
        "com.docker.compose.container-number": "1",
        "com.docker.compose.depends_on": ",".join(f"{need}:service_started:false" for need in needs),
    }
    return tuple(f"--label={key}={value}" for key, value in labels.items())


def fail_check(host: Host, name: str) -> None:
    """Make the check of a container that runs WELL fail, and wait until the engine says so."""
    engine.docker(host, "exec", name, "/bin/busybox", "rm", "/tmp/well")
    until_health(host, name, "unhealthy")


def until_health(host: Host, name: str, wanted: str, *, within_s: float = 20) -> None:
    """Wait for what the engine says of a container's check."""
    eventually(lambda: health(host, name) == wanted, within_s=within_s, what=f"{name} on {host.name} to be {wanted}")


def health(host: Host, name: str) -> str:
    """What the engine says of a container's check; its state where it has none."""
    shown = "{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}"
    return engine.docker(host, "inspect", "--format", shown, name)


def started_at(host: Host, *names: str) -> dict[str, str]:
    """When each container was started last."""
    return {name: engine.docker(host, "inspect", "--format", "{{.State.StartedAt}}", name) for name in names}


def _given(params: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"--param={param}" for param in params)
