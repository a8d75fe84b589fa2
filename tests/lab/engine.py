"""A host's own Docker Engine, with one image that needs no registry."""

import io
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.errors import LabError
from tests.lab.processes import eventually
from tests.lab.vantage import Vantage

if TYPE_CHECKING:
    from tests.lab.host import Host

IMAGE = "fireline-lab/busybox:1"
_ADDRESS = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
_TOOLS = ("dockerd", "docker", "containerd", "runc", "busybox")


def lacks() -> list[str]:
    """What this machine needs before hosts can have an engine of their own."""
    return [tool for tool in _TOOLS if shutil.which(tool) is None]


def start(host: "Host") -> None:
    """Start the engine and wait until it answers and holds the image.

    Raises:
        LabError: it does not answer within 30 s; the message carries the end of its log.
    """
    # The pid file and the sockets lie in the host's own /run: low pids repeat after a reboot, and a pid file on disk
    # would keep the engine from starting.
    argv = ["dockerd", "--bip", "172.28.0.1/24", "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid"]
    host.spawn(argv, unit="engine", log="/var/log/dockerd.log")
    try:
        eventually(lambda: answers(host), within_s=30, what=f"{host.name}'s Docker Engine", every_s=0.1)
    except LabError as error:
        log = host.path("/var/log/dockerd.log").read_text(errors="replace")
        raise LabError(f"{error}; its log ends: {log[-800:]}") from error
    if IMAGE not in docker(host, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"):
        load_image(host)


def answers(host: "Host") -> bool:
    """Whether the engine's API answers."""
    return host.run(["docker", "version", "--format", "{{.Server.Version}}"], check=False).strip() != ""


def docker(host: "Host", *argv: str, within_s: float = 60) -> str:
    """Run the docker client on the host."""
    return host.run(["docker", *argv], within_s=within_s).strip()


def container(host: "Host", name: str) -> Vantage:
    """The network of a running container, to open sockets in."""
    pid, address = docker(host, "inspect", "--format", f"{{{{.State.Pid}}}} {_ADDRESS}", name).partition(" ")[::2]
    return Vantage(name, host.path(f"/proc/{pid}/ns/net"), address, "")


def load_image(host: "Host") -> None:
    """Import an image made of nothing but this machine's busybox."""
    name = host.write("/run/busybox.tar", image())
    docker(host, "import", "--change", 'CMD ["/bin/sh"]', name, IMAGE)
    host.path(name).unlink()


def image() -> bytes:
    """A root file system: busybox, and a link for each of the tools that tests and plants use.

    Raises:
        LabError: the machine's busybox needs shared libraries, which the image would not have.
    """
    busybox = Path(shutil.which("busybox") or "busybox").resolve()
    content = busybox.read_bytes()
    if b"/ld-linux" in content[:4096]:  # the program interpreter stands near the start of an ELF file
        raise LabError(f"{busybox} is not static: install busybox-static")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for folder in ("bin", "tmp", "etc", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        program = tarfile.TarInfo("bin/busybox")
        program.mode, program.size = 0o755, len(content)
        tar.addfile(program, io.BytesIO(content))
        for tool in ("sh", "sleep", "nc", "httpd", "echo", "cat", "true", "false", "ls"):
            link = tarfile.TarInfo(f"bin/{tool}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return file.getvalue()
