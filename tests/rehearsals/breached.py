"""A host that somebody broke into: what runs on it honestly, what the intruder left, and a clean way back.

A shop of two containers (`db` with its data, `web` that has traffic and a token), PostgreSQL and Redis on the host
itself, each with its password in an env file. The intruder: a deleted program that listens, a setuid file in the web
root, an account with a key, bad data, a backdoor in the web's container.
"""

import hashlib
import io
import shutil
import tarfile
from dataclasses import dataclass
from typing import Final

from tests.fakes import postgres
from tests.lab import Host, engine, eventually
from tests.lab.plants import Plant, deleted_executable

POLICY: Final = b'actions = ["*"]\n'
# What must never be seen outside the files and servers that hold it.
OLD: Final = {"token": "formerTokenOfTheShop41", "role": "formerRolePassword42", "redis": "formerRedisPassword43"}
ENV: Final = "/srv/shop/app.env"
ROLE_ENV: Final = "/srv/shop/db.env"
REDIS_ENV: Final = "/srv/shop/redis.env"
FILES: Final = {"token": ENV, "role": ROLE_ENV, "redis": REDIS_ENV}
SETUID: Final = "/srv/www/.thumbs"
DISK: Final = "/srv/disk.raw"
DISK_CONTENT: Final = b"".join(bytes([n]) * (1 << 20) for n in (0, 7, 0, 9))
BACKUP: Final = "/srv/backup/shop.tgz"
INTRUDER: Final = "mallory"
SLEEP: Final = "trap 'exit 0' TERM; while :; do sleep 0.2; done"
_HEALTHY: Final = "[ -f /data/good ] || [ -f /data/bad ]"
_SERVER: Final = "/var/lib/shop-db"


@dataclass(frozen=True)
class Breach:
    """The host, and what a person knows who wants it clean."""

    host: Host
    plant: Plant
    containers: dict[str, str]
    image: str
    backup_sha256: str

    @property
    def params(self) -> tuple[str, ...]:
        """All of the runbook's parameters, as they are typed."""
        given = {
            "image": "true",
            "disk": DISK,
            "account": INTRUDER,
            "role": "app",
            "role_file": ROLE_ENV,
            "role_keys": "DB_PASSWORD",
            "redis_file": REDIS_ENV,
            "redis_keys": "REDIS_PASSWORD",
            "secret_file": ENV,
            "secret_keys": "SHOP_TOKEN",
            "dependents": "container:shop-db-1,container:shop-web-1",
        }
        return (*(f"{name}={value}" for name, value in given.items()), *self.rebuild_params())

    def rebuild_params(self, **other: str) -> tuple[str, ...]:
        """Those of the rebuild alone, some of them as given here."""
        given = {
            "host_keys": "false",
            "project": "shop",
            "images": f"web={self.image}",
            "backup": BACKUP,
            "backup_sha256": self.backup_sha256,
            "restore_to": "volume:shop_data",
            "traffic": "shop_edge",
        }
        return tuple(f"{name}={value}" for name, value in (given | other).items())

    def docker(self, *words: str) -> str:
        """What the engine says."""
        return engine.docker(self.host, *words)

    def container_ids(self) -> dict[str, str]:
        """The containers that stand under the shop's names now."""
        return {name: self.docker("inspect", "--format", "{{.Id}}", name) for name in self.containers}

    def data(self) -> list[str]:
        """The files of the shop's data."""
        return self.docker("exec", "shop-db-1", "ls", "/data").split()

    def kept_aside(self) -> list[str]:
        """The former containers that stand beside the new ones, by the names that they had."""
        names = self.docker("ps", "--all", "--format", "{{.Names}}").split()
        return sorted(name.partition(".fireline-old")[0] for name in names if ".fireline-old" in name)

    def secret(self, path: str) -> str:
        """What an env file holds now."""
        return self.host.path(path).read_text().partition("=")[2].strip()

    def role_lets_in(self, password: str) -> bool:
        """Whether PostgreSQL takes it over the network."""
        said = self.host.run(
            ["psql", "-X", "-A", "-t", "-h", "127.0.0.1", "-U", "app", "-d", "postgres", "-c", "select 4711"],
            env={"PGPASSWORD": password}, check=False,
        )  # fmt: skip
        return said.strip() == "4711"

    def redis_lets_in(self, password: str) -> bool:
        """Whether Redis takes it."""
        said = self.host.run(["redis-cli", "ping"], env={"REDISCLI_AUTH": password}, check=False)
        return said.strip() == "PONG"


def lacks() -> list[str]:
    """What this machine needs for the scene."""
    needed = ["redis-server", "redis-cli", "useradd", "psql"]
    return [*engine.lacks(), *(one for one in needed if shutil.which(one) is None)] + (
        [] if postgres.binaries() else ["PostgreSQL's server"]
    )


def break_into(host: Host) -> Breach:
    """Make all of it."""
    _start_servers(host)
    image = _start_shop(host)
    plant = _intrude(host)
    host.write(DISK, DISK_CONTENT)
    ids = {name: engine.docker(host, "inspect", "--format", "{{.Id}}", name) for name in ("shop-db-1", "shop-web-1")}
    return Breach(host, plant, ids, image, _write_backup(host))


def _start_servers(host: Host) -> None:
    for name, key in (("token", "SHOP_TOKEN"), ("role", "DB_PASSWORD"), ("redis", "REDIS_PASSWORD")):
        host.write(FILES[name], f"{key}={OLD[name]}\n".encode())
    programs = postgres.binaries()
    host.run(["mkdir", "-p", _SERVER, "/run/postgresql"])
    host.run(["chown", "postgres", _SERVER, "/run/postgresql"])
    as_owner = ["runuser", "-u", "postgres", "--"]
    access = ["--auth-local=peer", "--auth-host=scram-sha-256", "--no-sync"]
    host.run([*as_owner, f"{programs}/initdb", "-D", _SERVER, *access])
    settings = ["-c", "listen_addresses=127.0.0.1", "-k", "/run/postgresql", "-c", "shared_buffers=16MB"]
    host.spawn([*as_owner, f"{programs}/postgres", "-D", _SERVER, *settings], unit="postgres", log="/var/log/pg.log")
    create = [*as_owner, "psql", "-X", "-c", f"create role app login password '{OLD['role']}'"]
    eventually(lambda: "CREATE ROLE" in host.run(create, check=False), within_s=30, what="the role in the database")
    config = f"requirepass {OLD['redis']}\nbind 127.0.0.1\ndir /var/lib/redis-shop\n"
    host.write("/etc/redis-shop/redis.conf", config.encode())
    host.run(["mkdir", "-p", "/var/lib/redis-shop"])
    host.spawn(["redis-server", "/etc/redis-shop/redis.conf"], unit="redis", log="/var/log/redis.log")


def _start_shop(host: Host) -> str:
    """The two containers, and the id of an image that is known to be clean."""
    engine.start(host)

    def docker(*words: str) -> str:
        return engine.docker(host, *words)

    docker("volume", "create", "shop_data")
    for network in ("shop_back", "shop_edge"):
        docker("network", "create", network)
    docker("create", "--name", "spare", engine.IMAGE, "true")
    image = docker("commit", "--change", 'LABEL clean="yes"', "spare", "shop/web:clean")
    docker("rm", "spare")
    for service, needs, more in (
        ("db", "", ["-v", "shop_data:/data", "--health-cmd", _HEALTHY, "--health-interval", "300ms"]),
        ("web", "db:service_healthy:false", ["-e", f"SHOP_TOKEN={OLD['token']}"]),
    ):
        labels = {"project": "shop", "service": service, "container-number": "1", "depends_on": needs}
        told = [f"--label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        network = "shop_edge" if service == "web" else "shop_back"
        docker(
            "run", "-d", "--name", f"shop-{service}-1", "--network", network, *told, *more,
            engine.IMAGE, "sh", "-c", SLEEP,
        )  # fmt: skip
    docker("network", "connect", "shop_back", "shop-web-1")
    return image


def _intrude(host: Host) -> Plant:
    engine.docker(host, "exec", "shop-db-1", "sh", "-c", "echo stolen >/data/bad")
    engine.docker(host, "exec", "shop-web-1", "sh", "-c", "echo backdoor >/tmp/backdoor")
    host.run(["useradd", "--create-home", "--shell", "/bin/bash", INTRUDER])
    key = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8pHCyXk4Yw0zTf1f9Jz7nS2bQm3c4v5w6x7y8z9AbC mallory\n"
    host.write(f"/home/{INTRUDER}/.ssh/authorized_keys", key)
    host.spawn(["runuser", "-u", INTRUDER, "--", "sleep", "86400"], unit="mallory")
    host.write(SETUID, host.path("/bin/busybox").read_bytes(), mode=0o4755)
    return deleted_executable(host)


def _write_backup(host: Host) -> str:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        member = tarfile.TarInfo("./good")
        member.size, member.mode = 4, 0o644
        archive.addfile(member, io.BytesIO(b"yes\n"))
    host.write(BACKUP, content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()
