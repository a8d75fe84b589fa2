"""Cleaning on real file systems: what goes, what stays, and that nothing outside the named root is ever reached."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fireline_agent.hands.roots import Roots
from fireline_agent.remediation.action import ActionError, Tools
from fireline_agent.remediation.applying import PlanChanged
from fireline_agent.remediation.disk import clean_logs, clean_temp
from tests.remediation.mounts import alone, ext4, fill, mount, tmpfs
from tests.remediation.rehearsal import Rehearsal

_DAY = 86400


def logs(root: Path, **given: object) -> Rehearsal:
    """clean_logs of one root."""
    return Rehearsal(clean_logs.ACTION, {"roots": [str(root)], **given})


def temp(root: Path, **given: object) -> Rehearsal:
    """clean_temp of one root; the time of writing counts, since a test can't set the time of change."""
    return Rehearsal(clean_temp.ACTION, {"roots": [str(root)], "time": "mtime", "older_than": _DAY, **given})


def put(path: Path, *, days: float = 30, size: int = 4096) -> Path:
    """A file that was last written so many days ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    age(path, days)
    return path


def age(path: Path, days: float) -> None:
    """Make it so old."""
    then = time.time() - days * _DAY
    os.utime(path, (then, then), follow_symlinks=False)


@contextmanager
def holding(path: Path, how: str = "open(sys.argv[1], 'ab')") -> Iterator[subprocess.Popen[bytes]]:
    """A process that has the file open."""
    code = f"import os, sys\nheld = {how}\nprint(flush=True)\nsys.stdin.read()"
    argv = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_old_logs_go_and_the_rest_stays(tmp_path: Path) -> None:
    """By age and by name; what was freed is told."""
    old = [put(tmp_path / "a/app.log"), put(tmp_path / "a/b/app.log.1"), put(tmp_path / "a/b/app.log-2026")]
    kept = [put(tmp_path / "a/new.log", days=1), put(tmp_path / "a/data.db")]
    run = logs(tmp_path)
    applied = run.apply()

    assert (applied.error, applied.verified.is_good) == ("", True)
    assert applied.plan.result["files"] == 3
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in kept)
    assert run.plan().changes == ()


def test_names_of_any_bytes_go(tmp_path: Path) -> None:
    """Newlines and invalid UTF-8 in names of files and folders; the plan shows them in one line."""
    strange = put(tmp_path / os.fsdecode(b"a\nb\xff") / os.fsdecode(b"x\n\xfe\x1b[2J.log"))
    run = logs(tmp_path)
    plan = run.plan()
    applied = run.apply(plan)

    assert applied.verified.is_good, applied.error
    assert not strange.exists()
    shown = "".join([change.does + change.subject for change in plan.changes] + [str(plan.result["largest"])])
    assert "\n" not in shown
    assert "\x1b" not in shown


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    """Neither a link to a file nor one to a folder leads out of the root."""
    outside = put(tmp_path / "outside/keep.log")
    root = put(tmp_path / "logs/own.log").parent
    (root / "folder").symlink_to(outside.parent)
    (root / "file.log").symlink_to(outside)
    applied = logs(root, older_than=0).apply()

    assert applied.verified.is_good, applied.error
    assert outside.exists()
    assert sorted(path.name for path in root.iterdir()) == ["file.log", "folder"]


def test_a_root_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """With the folder that it leads to, so that it can be named."""
    put(tmp_path / "real/a.log")
    (tmp_path / "link").symlink_to(tmp_path / "real")

    with pytest.raises(ActionError, match=r"link: is a symbolic link to .*/real; name the real folder"):
        logs(tmp_path / "link").plan()


def test_a_folder_swapped_for_a_link_stops_the_change(tmp_path: Path) -> None:
    """Between the plan and the act somebody puts a link to precious files in a planned folder's place."""
    precious = put(tmp_path / "precious/a.log")
    root = tmp_path / "logs"
    for number in range(5_001):
        put(root / f"deep/{number}.log", size=0)
    put(root / "a.log")
    run = logs(root)
    change = next(change for change in run.plan().changes if change.data["path"].endswith("deep"))
    (root / "deep").rename(root / "moved")
    (root / "deep").symlink_to(precious.parent)

    assert run.action.do is not None
    with pytest.raises(ActionError, match="deep: is a symbolic link"):
        run.action.do(run.tools, change, run.params)
    assert precious.exists()


@pytest.mark.slow
def test_a_storm_of_swaps_never_leads_outside(tmp_path: Path) -> None:
    """While folders turn into links and back all the time, nothing outside the root goes."""
    precious = [put(tmp_path / f"precious/{number}.log") for number in range(50)]
    root = tmp_path / "logs"
    for folder in range(20):
        for number in range(50):
            put(root / f"f{folder}/{number}.log", size=0)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for folder in range(20):
                here, aside = root / f"f{folder}", tmp_path / f"aside{folder}"
                here.rename(aside)
                here.symlink_to(precious[0].parent)
                here.unlink()
                aside.rename(here)

    attacker = threading.Thread(target=swap)
    attacker.start()
    refused = 0
    try:
        for _ in range(8):
            try:
                refused += bool(logs(root).apply().error)
            except (PlanChanged, ActionError):
                refused += 1
    finally:
        stop.set()
        attacker.join()

    assert all(path.exists() for path in precious)
    assert refused  # the swaps did get in the way


def test_an_open_log_is_emptied_and_stays_open(tmp_path: Path) -> None:
    """The process writes on into the same file."""
    path = put(tmp_path / "app.log", size=1 << 20)
    before = path.stat().st_ino
    run = logs(tmp_path)
    with holding(path) as process:
        plan = run.plan()
        applied = run.apply(plan)

        assert applied.verified.is_good, applied.error
        assert "empty 1 that a process has open" in plan.changes[0].does
        assert (path.stat().st_ino, path.stat().st_size) == (before, 0)
        assert Path(f"/proc/{process.pid}/fd/3").readlink() == path


def test_an_open_log_with_another_name_is_left_alone(tmp_path: Path) -> None:
    """To empty it would empty a file outside the root."""
    outside = put(tmp_path / "shadow")
    root = tmp_path / "logs"
    root.mkdir()
    (root / "app.log").hardlink_to(outside)
    run = logs(root)
    with holding(outside):
        plan = run.plan()

    assert plan.changes == ()
    assert any("has other names: truncating would empty those too" in warning for warning in plan.warnings)
    assert run.apply().verified.is_good
    assert outside.stat().st_size == 4096  # closed now: only the name in the root went
    assert not (root / "app.log").exists()


def test_a_file_changed_after_the_plan_is_not_removed(tmp_path: Path) -> None:
    """The plan is refused as a whole, and says so."""
    path = put(tmp_path / "app.log")
    put(tmp_path / "other.log")
    run = logs(tmp_path)
    plan = run.plan()
    path.unlink()
    put(path, days=29)

    with pytest.raises(PlanChanged):
        run.apply(plan)
    assert path.exists()


def test_a_change_done_twice_says_that_nothing_is_as_planned(tmp_path: Path) -> None:
    """Replayed by hand, the second time finds other files than the planned and removes none."""
    put(tmp_path / "app.log")
    run = logs(tmp_path)
    plan = run.plan()
    run.apply(plan)
    newer = put(tmp_path / "app.log", days=40)

    assert run.action.do is not None
    with pytest.raises(ActionError, match="wanted the 1 files of the plan, found 1 that are not all the same"):
        run.action.do(run.tools, plan.changes[0], run.params)
    assert newer.exists()


def test_many_files_are_few_changes(tmp_path: Path) -> None:
    """A flat folder with 6,000 files and many folders with few: parts and whole trees, not files."""
    for number in range(6_000):
        put(tmp_path / f"flat/{number}.log", size=0)
    for number in range(600):
        put(tmp_path / f"tree/{number}/a.log", size=0)
    run = logs(tmp_path)
    plan = run.plan()
    applied = run.apply(plan)

    assert plan.result["files"] == 6_600
    assert 2 <= len(plan.changes) <= 4
    assert applied.verified.is_good, applied.error
    assert not list(tmp_path.rglob("*.log"))


def test_a_mount_below_the_root_is_not_entered(tmp_path: Path) -> None:
    """Not another file system, and not a bind mount of the same one, which shows in no device number."""
    root, same = tmp_path / "logs", put(tmp_path / "precious/a.log")

    def work() -> list[str]:
        other = tmpfs(root / "other", "size=1m")
        put(other / "b.log")
        (root / "bound").mkdir()
        mount("--bind", same.parent, root / "bound")
        put(root / "own.log")
        applied = logs(root).apply()
        assert applied.verified.is_good, applied.error
        assert len([why for why in applied.plan.warnings if "mounted there" in why]) == 2
        return sorted(path.name for path in root.rglob("*.log"))

    assert alone(work) == ["a.log", "b.log"]


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_file_system_is_cleaned(tmp_path: Path, kind: str) -> None:
    """At 100 %, where not one byte more can be written, on the very file system that holds the state as well."""

    def work() -> dict[str, object]:
        place = tmp_path / "disk"
        tmpfs(place, "size=4m") if kind == "tmpfs" else ext4(tmp_path / "image", place, 16 << 20)
        fill(place, names=3)
        for path in place.glob("*.log"):
            age(path, 30)
        with pytest.raises(OSError, match="No space left"):
            (place / "more").write_bytes(bytes(1 << 20))
        (place / "more").unlink()
        run = Rehearsal(clean_logs.ACTION, {"roots": [str(place)]}, Tools())
        before = run.plan().result
        applied = run.apply()
        assert applied.verified.is_good, applied.error
        return {"before": before["used_percent"], "after": applied.result["used_percent"]}

    found = alone(work)

    assert found["before"] == 100
    assert found["after"] < 20


def test_temporary_files_in_use_stay(tmp_path: Path) -> None:
    """A folder in which somebody works is left alone as a whole, files not in use beside it go, empty folders too."""
    working = put(tmp_path / "build/deep/object")
    put(tmp_path / "build/other")
    gone = put(tmp_path / "abandoned/deep/object")
    for folder in (gone.parent, gone.parent.parent):
        age(folder, 31)
    run = temp(tmp_path)
    with holding(working.parent, "os.chdir(sys.argv[1])") as process:
        applied = run.apply()

    assert applied.verified.is_good, applied.error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build"]
    assert not gone.exists()
    assert working.exists()
    assert (tmp_path / "build/other").exists()
    spared = {row["path"]: row["why"] for row in applied.plan.result["spared"]}
    assert f"in use by pid {process.pid} (" in spared[str(tmp_path / "build")]


def test_what_is_no_plain_temporary_file_stays(tmp_path: Path) -> None:
    """Sockets, pipes, locks of displays, sticky files, services' private folders, root's read-only files."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    os.mkfifo(tmp_path / "pipe")
    os.mknod(tmp_path / "device", 0o600 | 0o020000, os.makedev(1, 3))
    put(tmp_path / ".X0-lock")
    put(tmp_path / "systemd-private-abc/tmp/mine")
    put(tmp_path / "sticky").chmod(0o1644)
    put(tmp_path / "read-only").chmod(0o400)
    for path in tmp_path.iterdir():
        age(path, 30)
    put(tmp_path / "old")
    names = sorted(path.name for path in tmp_path.iterdir() if path.name != "old")
    applied = temp(tmp_path).apply()
    server.close()

    assert applied.verified.is_good, applied.error
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert len(applied.plan.result["spared"]) == len(names)


def test_the_newest_time_counts_for_temporary_files(tmp_path: Path) -> None:
    """A file that was unpacked with old dates just now is not old."""
    put(tmp_path / "unpacked")

    assert temp(tmp_path, time="newest").plan().changes == ()
    assert len(temp(tmp_path).plan().changes) == 1


@pytest.mark.parametrize(
    ("root", "why"),
    [
        ("/", "nothing is removed here"),
        ("/etc/app", "nothing is removed here"),
        ("/var", "nothing is removed here"),
        ("/var/lib/docker/containers", "nothing is removed here"),
        ("/srv/state", "holds /srv/state/fireline, with this agent's keys"),
        ("/forbidden/logs", "policy does not let actions write there"),
    ],
)
def test_roots_that_are_refused(root: str, why: str) -> None:
    """By name, before anything is looked at."""
    tools = Tools(Roots(state=Path("/srv/state/fireline")), allows_path=lambda path: not path.startswith("/forbidden"))
    with pytest.raises(ActionError, match=why):
        Rehearsal(clean_logs.ACTION, {"roots": [root]}, tools).plan()


def test_the_agents_folder_is_known_behind_a_link(tmp_path: Path) -> None:
    """Where its state was moved to another disk and a link left, its keys are not cleaned with that disk's logs."""
    real = tmp_path / "disk/agent"
    put(real / "keys.log")
    (tmp_path / "state").symlink_to(real)

    with pytest.raises(ActionError, match=f"holds {real}, with this agent's keys"):
        Rehearsal(clean_logs.ACTION, {"roots": [str(tmp_path / "disk")]}, Tools(Roots(state=tmp_path / "state"))).plan()


def test_a_root_inside_another_is_refused() -> None:
    """It would be cleaned twice."""
    with pytest.raises(ActionError, match="/var/log/app: is part of /var/log"):
        Rehearsal(clean_logs.ACTION, {"roots": ["/var/log", "/var/log/app"]}).plan()


@pytest.mark.parametrize(("given", "why"), [({"patterns": []}, "patterns: wanted"), ({"roots": []}, "roots: wanted")])
def test_an_empty_list_means_nothing_not_everything(tmp_path: Path, given: dict[str, object], why: str) -> None:
    """Without a pattern every name would do."""
    put(tmp_path / "a.db")
    with pytest.raises(ActionError, match=why):
        Rehearsal(clean_logs.ACTION, {"roots": [str(tmp_path)], **given}).plan()


def test_one_that_is_killed_in_the_middle_is_gone_on_with(tmp_path: Path) -> None:
    """What it left is what the next plan holds."""
    for number in range(1_500):
        put(tmp_path / f"{number}.log", size=0)
    killed = os.fork()
    if killed == 0:
        logs_killed = Rehearsal(
            clean_logs.ACTION, {"roots": [str(tmp_path)]}, Tools(tell=lambda _text: os.kill(os.getpid(), 9))
        )
        logs_killed.apply()
        os._exit(0)
    _, status = os.waitpid(killed, 0)
    left = len(list(tmp_path.iterdir()))
    applied = logs(tmp_path).apply()

    assert os.WTERMSIG(status) == 9
    assert 0 < left < 1_500
    assert (applied.plan.result["files"], applied.verified.is_good) == (left, True)


def test_a_user_who_goes_on_working_keeps_what_is_used(tmp_path: Path) -> None:
    """Another user's open file in a shared folder of files."""
    path = put(tmp_path / "session")
    path.chmod(0o666)
    with holding(path, "[open(sys.argv[1], 'rb'), os.setuid(65534)]"):
        assert temp(tmp_path).plan().changes == ()
    assert len(temp(tmp_path).plan().changes) == 1
