"""The folder on the disk: written whole or not at all, read with every problem named."""

import errno
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fireline_controller.model import ConfigError, StoreError
from fireline_controller.pki.signing import load_key
from fireline_wire import chain, durable
from fireline_wire.identity import Role


@dataclass(frozen=True)
class Pair:
    """A key and the chain that certifies it."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    chain_pem: bytes
    leaf: x509.Certificate


def read(folder: Path, roles: Mapping[str, Role]) -> dict[str, Pair]:
    """The pairs of a folder by name: the authority's own, "ca", and one of each name with the role it must have.

    Raises:
        StoreError: the folder is not whole; the message names each problem, and what to do.
    """
    reading = _Reading(folder)
    pairs = reading.pairs(roles)
    if problems := [*reading.problems, *reading.open_to_others]:
        advice = ". Restore what is missing or broken from a backup" if reading.problems else ""
        raise StoreError(f"{folder}: the authority is not whole: {'; '.join(problems)}{advice}")
    return pairs


def write_new(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder with these files; it appears whole or not at all.

    Raises:
        ConfigError: there is one already.
        StoreError: it can't be written.
    """
    making = folder.with_name(f".{folder.name}.making")
    try:
        shutil.rmtree(making, ignore_errors=True)  # a killed run's
        making.mkdir(mode=0o700, parents=True)
        for name, content in files.items():
            durable.write_new(making / name, content)
        durable.sync_folder(making)
        making.rename(folder)
        durable.sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(making, ignore_errors=True)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise ConfigError(f"{folder}: there is something already; an authority is never replaced") from None
        raise StoreError(f"{folder}: the authority can't be written: {error.strerror}") from error


def replace(path: Path, content: bytes) -> None:
    """Put a new file in the place of an old one; a crash leaves one of the two.

    Raises:
        StoreError: it can't be written.
    """
    try:
        durable.replace(path, content)
    except OSError as error:
        raise StoreError(f"{path}: can't be written: {error.strerror}") from error


class _Reading:
    """Reads a folder and gathers every problem with it, so that one message names them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.problems: list[str] = []
        self.open_to_others: list[str] = []

    def pairs(self, roles: Mapping[str, Role]) -> dict[str, Pair]:
        """What could be read."""
        if not self._folder.is_dir():
            self.problems.append("the folder is missing")
            return {}
        self._check_folder()
        found = {name: pair for name in ("ca", *roles) if (pair := self._pair(name)) is not None}
        for name, role in roles.items():
            if name in found and "ca" in found:
                self._check_leaf(name, found[name], found["ca"], role)
        return found

    def _check_folder(self) -> None:
        if self._folder.stat().st_mode & 0o077:
            self.open_to_others.append(f"the folder is open to others; chmod 700 {self._folder}")

    def _pair(self, name: str) -> Pair | None:
        key_pem, chain_pem = self._read(f"{name}.key"), self._read(f"{name}.pem")
        if key_pem is None or chain_pem is None:
            return None
        try:
            key = load_key(key_pem)
        except ValueError:
            self.problems.append(f"{name}.key is not a P-256 key in PEM")
            return None
        try:
            leaf = chain.certificates(chain_pem)[0]
            if chain.public_key_of(leaf) != key.public_key():
                self.problems.append(f"{name}.pem and {name}.key do not match")
        except ValueError as error:
            self.problems.append(f"{name}.pem: {error}")
            return None
        return Pair(key, chain_pem, leaf)

    def _read(self, name: str) -> bytes | None:
        path = self._folder / name
        try:
            if path.stat().st_mode & 0o077:
                self.open_to_others.append(f"{name} is open to others; chmod 600 {path}")
            return path.read_bytes()
        except FileNotFoundError:
            self.problems.append(f"{name} is missing")
        except OSError as error:
            self.problems.append(f"{name} can't be read: {error.strerror}")
        return None

    def _check_leaf(self, name: str, pair: Pair, ca: Pair, role: Role) -> None:
        try:
            chain.require_issued_by(pair.leaf, ca.leaf)
            found = chain.identity_of(pair.leaf)
            if found.role is not role:
                self.problems.append(f"{name}.pem is for {found}, wanted the role {role}")
        except ValueError as error:
            self.problems.append(f"{name}.pem: {error}")
