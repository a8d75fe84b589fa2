"""This host's key and certificates on the disk, and their renewal without a restart.

The folder holds `agent.key`, `agent.pem` (leaf, then the authority), `ca.pem`, `deny.json` and, while a renewal is
under way, `pending.key`. Leaves to others: how the first certificate is had (enroll) and who may ask for a renewal
(server). Blocking; call it off the event loop.
"""

import json
import shutil
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fireline_agent.errors import ConfigError, RefusedError
from fireline_wire import chain, durable
from fireline_wire.identity import Identity, Role
from fireline_wire.tls import Credentials

KEY: Final = "agent.key"
CHAIN: Final = "agent.pem"
AUTHORITY: Final = "ca.pem"
PENDING: Final = "pending.key"
DENIED: Final = "deny.json"


@dataclass(frozen=True)
class Held:
    """The certificate in use, opened. `dns` is the name that the controller verifies."""

    credentials: Credentials
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    identity: Identity
    dns: str
    serial_hex: str
    not_after: datetime


class KeyFolder:
    """An opened key folder. Safe from any thread; `held` and `credentials` never wait."""

    def __init__(self, folder: Path, held: Held) -> None:
        self._folder = folder
        self._held = held
        self._writing = threading.Lock()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the folder, and finish an installation that a crash cut short.

        Raises:
            ConfigError: the host has not joined, or a file is missing, unreadable, open to others or does not match.
        """
        if not folder.is_dir():
            raise ConfigError(f"{folder}: this host has not joined; run `fireline-agent join --token TOKEN`")
        _finish_installation(folder)
        return cls(folder, _open(_read(folder, KEY), _read(folder, CHAIN), _read(folder, AUTHORITY), folder))

    @classmethod
    def create(cls, folder: Path, *, key_pem: bytes, chain_pem: bytes, ca_pem: bytes) -> Self:
        """Keep the first certificate; the folder appears whole or not at all.

        Raises:
            ConfigError: key, certificate and authority do not match.
            OSError: the folder is there already, or can't be written.
        """
        held = _open(key_pem, chain_pem, ca_pem, folder)
        making = folder.with_name(f".{folder.name}.making")
        shutil.rmtree(making, ignore_errors=True)  # a killed run's
        making.mkdir(mode=0o700, parents=True)
        for name, content in ((KEY, key_pem), (CHAIN, chain_pem), (AUTHORITY, ca_pem)):
            durable.write_new(making / name, content)
        making.rename(folder)
        durable.sync_folder(folder.parent)
        return cls(folder, held)

    @property
    def held(self) -> Held:
        """The certificate in use."""
        return self._held

    def credentials(self) -> Credentials:
        """The same object until another certificate is installed: a source for `tls.server_credentials`."""
        return self._held.credentials

    def prepare_renewal(self) -> bytes:
        """A signing request (PEM) for the pending key, which is made if there is none.

        Raises:
            OSError: the key can't be written.
        """
        path = self._folder / PENDING
        with self._writing:
            if not path.exists():
                durable.replace(path, key_to_pem(new_key()))
            return signing_request(_load_key(_read(self._folder, PENDING), path))

    def install(self, chain_pem: bytes) -> Held:
        """Put the certificate for the pending key in use; new connections get it at once.

        Raises:
            RefusedError: it is not this host's, not by its authority, or not for the pending key.
            OSError: it can't be written; the former one stays in use.
        """
        with self._writing:
            fresh = self._checked(chain_pem)
            durable.replace(self._folder / CHAIN, chain_pem)
            (self._folder / PENDING).replace(self._folder / KEY)  # after a crash right here, `open` does this
            durable.sync_folder(self._folder)
            self._held = fresh
            return fresh

    def _checked(self, chain_pem: bytes) -> Held:
        if not (self._folder / PENDING).exists():
            raise RefusedError("invalid_request", "no renewal is under way on this host: prepare one first")
        try:
            fresh = _open(_read(self._folder, PENDING), chain_pem, self._held.credentials.ca_pem, self._folder)
        except ConfigError as error:
            raise RefusedError("invalid_request", f"the certificate is refused: {error}") from None
        if (fresh.identity, fresh.dns) != (self._held.identity, self._held.dns):
            raise RefusedError(
                "invalid_request", f"the certificate is for {fresh.identity} ({fresh.dns}), this is {self._held.dns}"
            )
        return fresh

    def denied(self) -> tuple[int, frozenset[str]]:
        """The deny-list that was kept last, its version first.

        Raises:
            ConfigError: the file does not hold one.
        """
        path = self._folder / DENIED
        try:
            kept = json.loads(path.read_bytes())
            return int(kept["version"]), frozenset(str(serial) for serial in kept["serials"])
        except FileNotFoundError:
            return 0, frozenset()
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{path}: no deny-list; remove the file and the controller sends it again") from None

    def keep_denied(self, version: int, serials: Collection[str]) -> None:
        """Keep a deny-list, so that a restart does not let the revoked in again.

        Raises:
            OSError: it can't be written.
        """
        with self._writing:
            durable.replace(
                self._folder / DENIED, json.dumps({"version": version, "serials": sorted(serials)}).encode()
            )


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as PKCS #8, PEM, not encrypted: the file mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signing_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A signing request (PKCS #10, PEM) for the key. It names nobody: names are the controller's to give."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def _open(key_pem: bytes, chain_pem: bytes, ca_pem: bytes, folder: Path) -> Held:
    key = _load_key(key_pem, folder / KEY)
    try:
        leaf, authority = chain.certificates(chain_pem)[0], chain.certificates(ca_pem)[0]
        chain.require_issued_by(leaf, authority)
        identity = chain.identity_of(leaf)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (dns,) = names.get_values_for_type(x509.DNSName)
    except ValueError as error:
        raise ConfigError(f"{folder / CHAIN}: {error}") from None
    if identity.role is not Role.AGENT:
        raise ConfigError(f"{folder / CHAIN}: it is for {identity}, wanted the role {Role.AGENT}")
    if leaf.public_key() != key.public_key():
        raise ConfigError(f"{folder / CHAIN}: it does not match the key")
    credentials = Credentials(key_pem, chain_pem, ca_pem)
    return Held(credentials, key, identity, dns, chain.serial_hex(leaf), leaf.not_valid_after_utc)


def _finish_installation(folder: Path) -> None:
    pending = folder / PENDING
    if not pending.exists():
        return
    try:
        leaf = chain.certificates(_read(folder, CHAIN))[0]
    except chain.ChainError as error:
        raise ConfigError(f"{folder / CHAIN}: {error}") from None
    if leaf.public_key() == _load_key(_read(folder, PENDING), pending).public_key():
        pending.replace(folder / KEY)
        durable.sync_folder(folder)


def _load_key(pem: bytes, path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{path}: no P-256 key in PEM")
    return key


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    try:
        if name.endswith(".key") and path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: the key is open to others; chmod 600 {path}")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
