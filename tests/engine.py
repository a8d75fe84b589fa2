"""A real Docker Engine of the tests' own: own network, processes and storage; it ends with a test run that is killed.

Never the machine's engine: the socket lies in a temporary folder, data in a tmpfs inside a private mount namespace.
Containers are made from an image that holds nothing but a static busybox, so no registry is asked.
"""

import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGE = "fireline-test/busybox:1"
_PREFIX = "fireline-engine-"  # of folders and cgroups; the test run's pid follows, so that a later run can sweep
_TOOLS = ("busybox", "dockerd", "containerd", "runc", "setpriv", "unshare", "ip")
_START_S = 30.0

# The socket's folder is outside of the tmpfs, or nobody else could see it.
_BOOT = """
set -e
ip link set lo up
mount -t tmpfs -o mode=0711 none "$1/engine"
exec dockerd --host "unix://$1/docker.sock" --data-root "$1/engine/data" --exec-root "$1/engine/exec" \
  --pidfile "$1/engine/pid" --bip 198.18.250.1/24 --cgroup-parent "/$2" --log-level warn
"""


@dataclass(frozen=True)
class LiveEngine:
    """A running engine; `client` is the SDK's low-level client, with the test image loaded.

    `root` is the file system as the engine sees it.
    """

    socket: Path
    client: Any
    root: Path

    def run(self, name: str, script: str, **host_settings: Any) -> str:
        """Create and start a container that runs a shell script; returns its id. `create` holds creation settings."""
        create = host_settings.pop("create", {})
        settings = self.client.create_host_config(**host_settings)
        made = self.client.create_container(IMAGE, ["sh", "-c", script], name=name, host_config=settings, **create)
        self.client.start(made["Id"])
        return str(made["Id"])


def missing_tools() -> list[str]:
    """What this machine lacks to run an engine; with any of them, or without root, the tests are skipped."""
    return [tool for tool in _TOOLS if shutil.which(tool) is None] + (["root"] if os.geteuid() else [])


def eventually(claim: Callable[[], bool], *, within_s: float, what: str) -> None:
    """Wait until a claim holds.

    Raises:
        TimeoutError: it does not, in time.
    """
    until = time.monotonic() + within_s
    while not claim():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {within_s:g} s: {what}")
        time.sleep(0.05)


@contextmanager
def live_engine() -> Iterator[LiveEngine]:
    """Start an engine, load the image, and leave nothing behind.

    The engine's first process dies with this one (PR_SET_PDEATHSIG), and all its containers with it, since it is the
    init of their process namespace. What a killed run leaves, folders and cgroups, is swept by the next.
    """
    import docker

    sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    (folder / "engine").mkdir()
    with (folder / "log").open("wb") as log:
        namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        boot = ["sh", "-c", _BOOT, "boot", str(folder), folder.name]
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *namespaces, *boot], stdout=log, stderr=log)
    try:
        _wait_for_start(process, folder)
        client = docker.APIClient(base_url=f"unix://{folder}/docker.sock", version="auto", timeout=30)
        try:
            client.import_image_from_data(_image(), repository=IMAGE.partition(":")[0], tag=IMAGE.partition(":")[2])
            yield LiveEngine(folder / "docker.sock", client, Path(f"/proc/{_init_of(process)}/root"))
        finally:
            client.close()
    finally:
        _stop(process)
        _remove(folder)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the init of the namespace, and all in it, so that its parent reaps it; killing the parent leaves a zombie."""
    with suppress(FileNotFoundError, IndexError, ProcessLookupError):
        os.kill(_init_of(process), signal.SIGKILL)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _init_of(process: subprocess.Popen[bytes]) -> int:
    """The init of the engine's process namespace."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def sweep() -> None:
    """Remove what test runs that are dead have left: folders and cgroups named after their pids."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        if _is_dead(folder.name):
            _remove(folder)
    for group in Path("/sys/fs/cgroup").glob(f"*/{_PREFIX}*-*"):
        if _is_dead(group.name):
            _remove_groups(group.name)


def _is_dead(name: str) -> bool:
    pid = name.removeprefix(_PREFIX).partition("-")[0]
    return pid.isdigit() and not Path("/proc", pid).exists()


def _wait_for_start(process: subprocess.Popen[bytes], folder: Path) -> None:
    def answers() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"the engine ended: {(folder / 'log').read_text()[-2000:]}")
        return (folder / "docker.sock").exists()

    eventually(answers, within_s=_START_S, what="dockerd makes its socket")


def _remove(folder: Path) -> None:
    _remove_groups(folder.name)
    shutil.rmtree(folder, ignore_errors=True)


def _remove_groups(name: str) -> None:
    """The cgroups can go when the last process in them is; the kernel may take a moment."""

    def gone() -> bool:
        roots = [place / name for place in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*"))]
        for root in roots:
            for group, _, _ in os.walk(root, topdown=False):
                with suppress(OSError):
                    Path(group).rmdir()
        return not any(root.exists() for root in roots)

    eventually(gone, within_s=10, what=f"the cgroups {name} are empty")


def _image() -> bytes:
    """A root file system with busybox in it, as a tar archive."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(busybox, "bin/busybox")
        for name in ("sh", "sleep", "echo", "tail", "touch", "true", "false", "cat"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        for name in ("tmp", "proc", "sys", "dev", "etc"):
            made = tarfile.TarInfo(name)
            made.type, made.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(made)
    return content.getvalue()
