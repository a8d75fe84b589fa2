"""Control groups: version 2 on a made-up tree, version 1 for real where this machine has it."""

import os
from pathlib import Path

import pytest

from fireline_agent.hands.cgroup import Group, GroupLimits, Hierarchy, prepare

LIMITS = GroupLimits(cpu_percent=150, memory_bytes=1000, pids=7, io_weight=5)


class _Tree:
    """A made-up cgroup file system: files where the kernel would have them, in every group that is made."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "cgroup"
        self.root.mkdir()
        self.mounts = folder / "mounts"
        self.memberships = folder / "memberships"

    def group(self, path: Path, *names: str, **content: str) -> Path:
        """Make a group with files in it; a dot in a file's name is written as `__`."""
        path.mkdir(parents=True, exist_ok=True)
        for name in names:
            (path / name).touch()
        for name, text in content.items():
            (path / name.replace("__", ".")).write_text(text)
        return path

    def prepare(self, name: str) -> Hierarchy:
        """As the agent does at its start."""
        return prepare(name, root=self.root, memberships=self.memberships, mounts=self.mounts)


def _v2(tree: _Tree, controllers: str) -> Path:
    tree.mounts.write_text(f"cgroup2 {tree.root} cgroup2 rw 0 0\n")
    tree.memberships.write_text("0::/system.slice/agent.service\n")
    tree.group(tree.root, cgroup__controllers="cpu io memory pids")
    service = tree.group(
        tree.root / "system.slice/agent.service",
        "cgroup.procs",
        "cgroup.subtree_control",
        cgroup__controllers=controllers,
    )
    # The kernel would fill these in when the groups are made.
    tree.group(service / "fl.agent", "cgroup.procs")
    tree.group(service / "fl", "cgroup.procs", "cgroup.subtree_control", cgroup__controllers=controllers)
    return service


def test_version_2_moves_the_agent_into_a_leaf_and_shares_its_controllers(tmp_path: Path) -> None:
    """A group with controllers may hold no processes of its own (the rule of no internal processes)."""
    tree = _Tree(tmp_path)
    service = _v2(tree, "cpu io memory pids")

    found = tree.prepare("fl")

    assert (found.kind, found.lacks, set(found.folders)) == ("v2", (), {"cpu", "io", "memory", "pids"})
    assert (service / "fl.agent/cgroup.procs").read_text() == str(os.getpid())
    assert (service / "cgroup.subtree_control").read_text() == "+io"  # each is written by itself; a file keeps the last
    assert found.folders["cpu"] == str(service / "fl")


def test_version_2_says_what_is_not_delegated(tmp_path: Path) -> None:
    """Without a controller the limit is not enforced, and that is one of the host's facts."""
    tree = _Tree(tmp_path)
    _v2(tree, "cpu pids")

    found = tree.prepare("fl")

    assert found.lacks == (
        "cgroup: v2 has no memory controller here, memory is not limited",
        "cgroup: v2 has no io controller here, I/O weight is not limited",
    )


def test_limits_of_version_2_are_written(tmp_path: Path) -> None:
    """Each limit goes into the kernel's own file in the kernel's own words."""
    tree = _Tree(tmp_path)
    _v2(tree, "cpu io memory pids")
    group = tree.prepare("fl").group("capture")
    names = ("cpu.max", "memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "io.weight")
    folder = tree.group(next(iter(group.folders.values())), *names)

    group.create(LIMITS)

    assert {n: (folder / n).read_text() for n in names} == {
        "cpu.max": "150000 100000",
        "memory.max": "1000",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "7",
        "io.weight": "default 5",
    }


def test_a_group_of_version_2_counts_and_kills_in_one_write(tmp_path: Path) -> None:
    """cgroup.kill ends all at once, so nothing that forks can run away."""
    tree = _Tree(tmp_path)
    folder = tree.group(
        tmp_path / "g",
        "cgroup.kill",
        cgroup__procs="5\n6\n",
        cpu__stat="usage_usec 12345678\nuser_usec 1\n",
        memory__events="low 0\noom_kill 2\n",
    )
    group = Group("v2", {"cpu": folder, "memory": folder})

    left = group.kill(within_s=0)

    assert (left, (folder / "cgroup.kill").read_text()) == ([5, 6], "1")
    assert (group.cpu_ms(), group.memory_kills()) == (12345, 2)


def test_no_control_groups_is_a_fact_and_no_error(tmp_path: Path) -> None:
    """The agent runs on such a host too, and says what does not bind there."""
    tree = _Tree(tmp_path)
    tree.mounts.write_text("proc /proc proc rw 0 0\n")
    tree.memberships.write_text("")

    found = tree.prepare("fl")

    assert found.kind == "none"
    assert found.lacks == (f"cgroup: no hierarchy under {tree.root}, limits bind single processes only",)


def test_a_hierarchy_that_can_not_be_written_is_a_fact(tmp_path: Path) -> None:
    """As in a container with /sys/fs/cgroup mounted read-only; the sentence names the place."""
    tree = _Tree(tmp_path)
    tree.mounts.write_text(f"cgroup {tree.root}/pids cgroup rw,pids 0 0\n")
    tree.memberships.write_text("3:pids:/\n")
    (tree.root / "pids").write_text("no folder")

    found = tree.prepare("fl")

    assert found.kind == "none"
    assert found.lacks == (
        f"cgroup: v1 can't be used ({tree.root}/pids/fl: Not a directory), limits bind single processes only",
    )


def test_version_2_without_controllers_beside_version_1_is_not_taken(tmp_path: Path) -> None:
    """On a hybrid host the controllers are in version 1."""
    tree = _Tree(tmp_path)
    tree.mounts.write_text(
        f"cgroup2 {tree.root}/unified cgroup2 rw 0 0\ncgroup {tree.root}/pids cgroup rw,relatime,pids 0 0\n"
    )
    tree.memberships.write_text("3:pids:/inner\n0::/\n")
    tree.group(tree.root / "unified", cgroup__controllers="hugetlb")
    tree.group(tree.root / "pids/inner")

    found = tree.prepare("fl")

    assert (found.kind, found.folders) == ("v1", {"pids": f"{tree.root}/pids/inner/fl"})
    assert "cgroup: no v1 memory controller, memory is not limited" in found.lacks


def test_a_hierarchy_survives_its_way_to_the_worker() -> None:
    """The worker gets it as JSON."""
    hierarchy = Hierarchy("v1", {"cpu": "/x"}, ("a", "b"))

    assert Hierarchy.from_json(hierarchy.to_json()) == hierarchy


def test_groups_left_behind_are_emptied_at_the_next_start() -> None:
    """What an agent that was killed left running is ended before the next one begins."""
    name = f"fireline-unit-{os.getpid()}"
    first = prepare(name)
    if first.kind == "none":
        pytest.skip("; ".join(first.lacks))
    group = first.group("old")
    group.create(LIMITS if first.kind == "v2" else None)
    pid = os.fork()
    if pid == 0:
        group.join()
        os.execlp("sleep", "sleep", "600")
    while pid not in group.pids():
        pass

    second = prepare(name)

    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -9
    assert second == first
    assert not any(folder.exists() for folder in group.folders.values())
    assert second.group("").remove()
