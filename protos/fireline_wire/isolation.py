"""What an isolation order is: what to cut, what stays open, for how long unconfirmed; signed by a controller.

Both ends read and write orders through this module. An order lies on the host's disk and is carried out again after a
reboot, so it is believed by its signature, not by where it was found. Addresses are literal: a name resolved on a
suspect host would let the intruder choose who stays connected. Leaves to others: which rules follow from it (the
agent's isolation room) and who may give one (the controller).
"""

import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

PAYLOAD_TYPE: Final = "application/vnd.fireline.isolation+json"
MAX_ORDER_BYTES: Final = 64 << 10
MAX_ADDRESSES: Final = 64
LEASE_S: Final = (5, 600)  # shorter and a busy host can't be proved dark in time, longer and a lock-out lasts
PROTOCOLS: Final = ("tcp", "udp")

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}\Z")
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
_WORD: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,200}\Z")


class OrderError(ValueError):
    """An order breaks the format; the message names the field, what was wanted and what was found."""


@dataclass(frozen=True)
class Scope:
    """What is cut off. `str()` gives it in words, `parse` reads those: the same on command line, wire and disk.

    - `host`: the whole host with its containers.
    - `container:NAME`, `compose:SERVICE`, `image:REFERENCE`: the network of each container that this selects.
    - `paused:NAME`: the container's processes, stopped and kept.
    - `peer:ADDRESS[/PREFIX]` or `peer:ADDRESS,PORT/PROTOCOL`: everything between this host and that peer.
    - `user:NAME`, `process:PID`: the processes of a user, or a process with all its descendants, stopped and kept.
    """

    kind: str
    value: str = ""

    def __post_init__(self) -> None:
        check = _SCOPES.get(self.kind)
        if check is None:
            raise OrderError(f"scope {self.kind!r}: wanted one of {', '.join(_SCOPES)}")
        if not check(self.value):
            raise OrderError(f"scope {self.kind}: {self.value[:200]!r} is no {_WANTED[self.kind]}")

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" if self.value else self.kind

    @classmethod
    def parse(cls, text: str) -> "Scope":
        """Read a scope.

        Raises:
            OrderError: it is none.
        """
        kind, _, value = text.partition(":")
        return cls(kind, value)


@dataclass(frozen=True)
class Opening:
    """One more thing that stays reachable, both ways: an address, a port there and a protocol."""

    address: str
    port: int
    protocol: str

    def __post_init__(self) -> None:
        _address("allowances", self.address)
        if type(self.port) is not int or not 1 <= self.port <= 65535:
            raise OrderError(f"allowances: port {self.port!r}: wanted 1 to 65535")
        if self.protocol not in PROTOCOLS:
            raise OrderError(f"allowances: protocol {self.protocol!r}: wanted tcp or udp")

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}/{self.protocol}"

    @classmethod
    def parse(cls, text: str) -> "Opening":
        """Read `ADDRESS:PORT/PROTOCOL`, an IPv6 address in brackets.

        Raises:
            OrderError: it is none.
        """
        place, _, protocol = text.partition("/")
        host, _, port = place.rpartition(":")
        if not host or not port.isdecimal():
            raise OrderError(f"{text!r}: wanted ADDRESS:PORT/PROTOCOL, as in 192.0.2.7:22/tcp or [2001:db8::7]:514/udp")
        return cls(host.removeprefix("[").removesuffix("]"), int(port), protocol)


@dataclass(frozen=True)
class IsolationOrder:
    """One isolation of one host, or of a part of it.

    `fence_token` grows with each order and each release of a host: what is older than the newest one seen there is
    refused. `code_sha256` is of the one-time code that ends the isolation on the console. `issued_at` is RFC 3339 UTC.
    """

    order_id: str
    host: str
    scope: Scope
    controllers: tuple[str, ...]
    lease_s: int
    fence_token: int
    issued_at: str
    code_sha256: str
    allowances: tuple[Opening, ...] = ()
    operator: str = ""
    incident_id: str = ""
    reason: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not _ID.match(self.order_id):
            raise OrderError(f"order_id: {self.order_id[:100]!r} is none")
        if not 1 <= len(self.controllers) <= MAX_ADDRESSES or len(self.allowances) > MAX_ADDRESSES:
            raise OrderError(f"controllers: wanted 1 to {MAX_ADDRESSES} addresses, found {len(self.controllers)}")
        for address in self.controllers:
            _address("controllers", address)
        low, high = LEASE_S
        if type(self.lease_s) is not int or not low <= self.lease_s <= high:
            raise OrderError(f"lease_s: wanted {low} to {high} seconds, found {self.lease_s!r}")
        if type(self.fence_token) is not int or self.fence_token < 0:
            raise OrderError(f"fence_token: wanted a whole number, found {self.fence_token!r}")
        if not _SHA256.match(self.code_sha256):
            raise OrderError("code_sha256: wanted 64 hexadecimal digits")

    def to_bytes(self) -> bytes:
        """The order as it is signed."""
        document = {
            **{name: getattr(self, name) for name in _PLAIN},
            "scope": str(self.scope),
            "controllers": list(self.controllers),
            "allowances": [str(opening) for opening in self.allowances],
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, payload: bytes) -> "IsolationOrder":
        """Read the payload of an envelope whose signature was verified.

        Raises:
            OrderError: it is no order.
        """
        if len(payload) > MAX_ORDER_BYTES:
            raise OrderError(f"an order of {len(payload)} bytes: wanted at most {MAX_ORDER_BYTES}")
        try:
            document = json.loads(payload)
        except (ValueError, RecursionError):
            raise OrderError("no order: wanted a JSON object") from None
        if not isinstance(document, dict) or set(document) != {*_PLAIN, "scope", "controllers", "allowances"}:
            raise OrderError("no order: fields are missing or unknown")
        plain = {name: _typed(name, document[name], kind) for name, kind in _PLAIN.items()}
        return cls(
            **plain,
            scope=Scope.parse(_typed("scope", document["scope"], str)),
            controllers=tuple(_texts("controllers", document["controllers"])),
            allowances=tuple(Opening.parse(text) for text in _texts("allowances", document["allowances"])),
        )


def code_sha256(code: str) -> str:
    """The hash by which an order knows its one-time code, hexadecimal, however a person spaces and spells that."""
    kept = "".join(c for c in code.upper() if c.isalnum())
    return hashlib.sha256(kept.encode()).hexdigest()


_PLAIN: Final[Mapping[str, type]] = {
    "order_id": str,
    "host": str,
    "lease_s": int,
    "fence_token": int,
    "issued_at": str,
    "code_sha256": str,
    "operator": str,
    "incident_id": str,
    "reason": str,
}


def _typed(name: str, value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise OrderError(f"{name}: wanted {kind.__name__}, found {type(value).__name__}")
    return value


def _texts(name: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise OrderError(f"{name}: wanted a list of texts")
    return value


def _address(name: str, text: str) -> None:
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        raise OrderError(f"{name}: {text[:100]!r} is no literal address") from None
    if str(parsed) != text or "%" in text or parsed.is_unspecified or parsed.is_loopback or parsed.is_multicast:
        raise OrderError(f"{name}: {text[:100]!r}: wanted one host's address in its shortest form")


def _is_peer(value: str) -> bool:
    place, comma, rest = value.partition(",")
    try:
        if not comma:
            ipaddress.ip_network(place)
            return True
        port, _, protocol = rest.partition("/")
        ipaddress.ip_address(place)
        return port.isdecimal() and 1 <= int(port) <= 65535 and protocol in PROTOCOLS
    except ValueError:
        return False


def _is_word(value: str) -> bool:
    return _WORD.match(value) is not None


def _is_pid(value: str) -> bool:
    return value.isdecimal() and 1 < int(value) < 1 << 22


_WANTED: Final[Mapping[str, str]] = {
    "host": "value: it takes none",
    "container": "container's name",
    "compose": "compose service",
    "image": "image",
    "paused": "container's name",
    "peer": "address, network, or ADDRESS,PORT/PROTOCOL",
    "user": "user's name",
    "process": "pid above 1",
}
_SCOPES: Final = {
    "host": lambda value: not value,
    "container": _is_word,
    "compose": _is_word,
    "image": _is_word,
    "paused": _is_word,
    "peer": _is_peer,
    "user": _is_word,
    "process": _is_pid,
}
