"""The key folder as a serving agent sees it: whatever needs a certificate opened happens in a short child process.

The library for certificates takes 11 MB that an agent needs once a week. Blocking; call it off the event loop.
"""

import json
import threading
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

from fireline_agent.errors import ConfigError, RefusedError
from fireline_agent.hands.process import run_module
from fireline_wire.tls import Credentials

_CHILD: Final = "fireline_agent.server.key_child"
_CHILD_S: Final = 20.0  # it takes a quarter of a second; a host in trouble may take longer


@dataclass(frozen=True)
class Held:
    """The certificate in use, and the deny-list that was kept last, its version first."""

    credentials: Credentials
    key_path: Path
    name: str
    serial_hex: str
    not_after: datetime
    denied: tuple[int, frozenset[str]]


class Keyring:
    """An opened key folder. Reading `held` and `credentials` is safe from any thread."""

    def __init__(self, folder: Path, held: Held) -> None:
        self._folder = folder
        self._held = held
        self._changing = threading.Lock()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the folder.

        Raises:
            ConfigError: the host has not joined, or its keys can't be used.
        """
        return cls(folder, _held(_ask(folder, "open", {})))

    @property
    def held(self) -> Held:
        """The certificate in use."""
        return self._held

    def credentials(self) -> Credentials:
        """The same object until another certificate is installed: a source for `tls.server_credentials`."""
        return self._held.credentials

    def prepare_renewal(self) -> bytes:
        """A signing request (PEM) for the pending key, which is made if there is none."""
        with self._changing:
            return str(_ask(self._folder, "prepare", {})["signing_request_pem"]).encode()

    def install(self, chain_pem: bytes) -> Held:
        """Put the certificate for the pending key in use; new connections get it at once.

        Raises:
            RefusedError: it is not this host's, not by its authority, or not for the pending key.
        """
        try:
            text = chain_pem.decode("ascii")
        except UnicodeDecodeError:
            raise RefusedError("invalid_request", "chain_pem: wanted certificates in PEM") from None
        with self._changing:
            self._held = _held(_ask(self._folder, "install", {"chain_pem": text}))
            return self._held

    def keep_denied(self, version: int, serials: Collection[str]) -> None:
        """Keep a deny-list, so that a restart does not let the revoked in again."""
        with self._changing:
            _ask(self._folder, "deny", {"version": version, "serials": list(serials)})


def _ask(folder: Path, verb: str, given: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        run_module(_CHILD, str(folder), verb, given=json.dumps(given).encode(), timeout_s=_CHILD_S)
    )
    if "error" in answer:
        raise ConfigError(answer["error"])
    if "refused" in answer:
        raise RefusedError(*answer["refused"])
    return answer


def _held(answer: dict[str, Any]) -> Held:
    version, serials = answer["denied"]
    return Held(
        credentials=Credentials(
            key_pem=answer["key_pem"].encode(),
            chain_pem=answer["chain_pem"].encode(),
            ca_pem=answer["ca_pem"].encode(),
        ),
        key_path=Path(answer["key_path"]),
        name=answer["name"],
        serial_hex=answer["serial_hex"],
        not_after=datetime.fromisoformat(answer["not_after"]),
        denied=(version, frozenset(serials)),
    )
