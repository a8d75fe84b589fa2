"""The main job on this machine, end to end: what an operator does in the first minutes of an incident.

Three real hosts, three real agents, things planted that an intruder and an outage leave, one command that captures
all of it, the proof that it can't be altered unseen, the intruder's host cut off and let back, and a full disk freed by
a runbook that a second operator approves. Leaves nothing behind.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fleet import BIN, Fleet
from tests.lab import NETNS, Host, Unsupported, default_backend, demo_isolation, demo_runbooks, engine
from tests.lab.plants import Plant, crash_loop, deleted_executable, foreign_listener

HOSTS = ("db1", "web1", "web2")


def main() -> int:
    """Run the demo; 0 when all that was planted was found, the flip caught, the host dark and back, the disk free."""
    began = time.monotonic()
    has_engine = default_backend() == NETNS and not engine.lacks()
    say(f"starting three hosts ({'namespaces' if default_backend() == NETNS else 'loopback'}) and their agents")
    if not has_engine:
        say("no Docker Engine can be started here: the crash-looping container is left out")
    with Fleet(HOSTS, engine=has_engine) as fleet, TemporaryDirectory(prefix="fireline-demo-") as elsewhere:
        planted = plant(fleet, has_engine=has_engine)
        show(fleet, "host", "list")
        incident = open_incident(fleet)
        missed = [p for p in planted if not found(fleet, incident, p)]
        caught = prove(fleet, incident, Path(elsewhere))
        cured = not has_engine or cure(fleet, incident)
        contained = contain(fleet, incident)
        freed = free(fleet)
        show(fleet, "journal", "verify")
    say(f"done in {time.monotonic() - began:.0f} s; hosts, agents and files are gone")
    for p in missed:
        say(f"NOT FOUND: {p.name} on {p.host} ({p.finding})")
    return 0 if caught and cured and contained and freed and not missed else 1


def plant(fleet: Fleet, *, has_engine: bool) -> list[Plant]:
    """Leave what an intruder and an outage leave."""
    planted: list[Plant] = []
    makers: list[tuple[Callable[[Host], Plant], str]] = [(deleted_executable, "web1"), (foreign_listener, "web2")]
    if has_engine:
        makers.append((crash_loop, "db1"))
    for make, name in makers:
        try:
            planted.append(make(fleet.lab[name]))
            say(f"planted on {planted[-1].host}: {planted[-1].name}")
        except Unsupported as error:
            say(f"left out: {error}")
    return planted


def open_incident(fleet: Fleet) -> str:
    """Open the incident in front of the reader, and return its id."""
    show(fleet, "incident", "open", "P1", "checkout is down", "--target", "all", "--profile", "volatile")
    incident = fleet.json("incident", "list")["incidents"][0]
    say(f"from the command to the last seal: {incident['sealed_ms'] / 1000:.2f} s")
    return str(incident["incident"])


def found(fleet: Fleet, incident: str, wanted: Plant) -> bool:
    """Whether the capture raised the finding that a planted thing must raise."""
    for record in fleet.json("evidence", "list", "--incident", incident)["evidence"]:
        findings = fleet.json("evidence", "show", record["evidence_id"])["statement"]["predicate"]["findings"]
        if record["host"] == wanted.host and any(
            f["code"] == wanted.finding and wanted.subject in f["subject"] + f["summary"] for f in findings
        ):
            return True
    return False


def prove(fleet: Fleet, incident: str, elsewhere: Path) -> bool:
    """Export, verify with nothing but the authority's certificate, flip one bit, and see it caught."""
    exported, altered = elsewhere / f"{incident}.fireline", elsewhere / "altered.fireline"
    show(fleet, "evidence", "export", incident, "--output", str(exported))
    ca = Path(shutil.copy(fleet.state / "keys" / "ca.pem", elsewhere / "ca.pem"))
    verified = verify(exported, ca)
    content = bytearray(exported.read_bytes())
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    say(f"one bit of {len(content)} bytes is flipped in a copy:")
    caught = not verify(altered, ca)
    return verified and caught


def cure(fleet: Fleet, incident: str) -> bool:
    """Run the runbook that fits containers which fail their own check."""
    return demo_runbooks.unhealthy_containers(fleet, ("db1", "web2"), incident, show=show, say=say)


def contain(fleet: Fleet, incident: str) -> bool:
    """Cut the intruder's host off, where hosts have a network of their own."""
    if default_backend() != NETNS:
        say("hosts on loopback share one network: cutting one off is left out")
        return True
    return demo_isolation.cut_off(fleet, "web1", incident, show=show, say=say)


def free(fleet: Fleet) -> bool:
    """Fill a disk and run the runbook that frees it, where hosts have a disk of their own."""
    if default_backend() != NETNS:
        say("hosts on loopback share one disk: filling it is left out")
        return True
    fleet.fireline("operator", "add", demo_runbooks.SECOND)
    return demo_runbooks.disk_full(fleet, "web2", show=show, say=say)


def verify(file: Path, ca: Path) -> bool:
    """Verify a file as somebody does who has never seen the incident: no state folder, only the certificate."""
    return run([str(BIN / "fireline"), "evidence", "verify", str(file), "--ca", str(ca)], {}) == 0


def show(fleet: Fleet, *arguments: str) -> None:
    """Run a command in front of the reader."""
    run([str(BIN / "fireline"), *arguments], {"FIRELINE_STATE": str(fleet.state)})


def run(argv: Sequence[str], environment: dict[str, str]) -> int:
    """Print the command, then let it print."""
    print(f"\n$ {' '.join(['fireline', *(repr(a) if ' ' in a else a for a in argv[1:])])}", flush=True)
    return subprocess.run(argv, env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment}).returncode


def say(text: str) -> None:
    """A line about what happens."""
    print(f"· {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
