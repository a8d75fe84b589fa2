"""What the controller's operator may set, and where each setting came from.

Precedence: built-in default, then `fireline.toml` in the state folder, then the environment
(`FIRELINE_SECTION_KEY`). Flags of one command win over all of them and are that command's own business.
"""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fireline_controller.model import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Section):
    """Where the daemon answers. An empty address: not at all."""

    enrollment: str = Field("0.0.0.0:7701", description="where hosts join: ADDRESS:PORT")
    advertise: str = Field("", description="ADDRESS:PORT that tokens tell hosts to join at")
    control: str = Field("", description="where operators on other machines are answered: ADDRESS:PORT; empty: nowhere")


class Store(_Section):
    """Where the record is kept."""

    url: str = Field("", description="SQLAlchemy URL; empty: SQLite in the state folder")


class Fanout(_Section):
    """How many hosts are asked at once, and for how long."""

    concurrency: int = Field(64, ge=1, le=10_000, description="captures under way at once")
    confirm_above: int = Field(20, ge=1, description="more hosts than this need a confirmation")
    host_deadline_s: float = Field(120, gt=0, description="one host, from the first call to the last byte kept")
    overall_deadline_s: float = Field(900, gt=0, description="the whole operation")
    command_deadline_s: float = Field(10, gt=0, description="one host, for a command that carries no evidence")
    dial_s: float = Field(5, gt=0, description="until a connection stands")
    idle_s: float = Field(20, gt=0, description="without any news from a host that works")
    keepalive_s: float = Field(10, gt=0, description="between two pings of a silent connection")
    keepalive_timeout_s: float = Field(5, gt=0, description="until an unanswered ping ends the connection")


class Evidence(_Section):
    """What a host may send."""

    host_bytes: int = Field(16 << 30, gt=0, description="all artifacts of one capture, bytes")
    critical_services: tuple[str, ...] = Field(
        (), description="label:KEY=VALUE, compose:SERVICE or name:GLOB, of the containers that matter most"
    )


class Certificates(_Section):
    """How long certificates live."""

    agent_lifetime_h: float = Field(7 * 24, gt=0, description="a host's certificate, hours; renewed at a third left")


class Isolation(_Section):
    """How hosts are cut off."""

    controllers: tuple[str, ...] = Field(
        (), description="addresses of controllers that stay reachable, besides the one that this controller comes from"
    )
    lease_s: int = Field(40, ge=5, le=600, description="until the kernel lifts what was not proved and committed")
    witnesses: int = Field(2, ge=1, le=8, description="hosts that look whether a host is dark")
    look_s: float = Field(0.8, gt=0, le=10, description="how long they try")
    group_label: str = Field("service", description="hosts with one value of this label stand in for one another")

    @field_validator("controllers")
    @classmethod
    def _literal(cls, controllers: tuple[str, ...]) -> tuple[str, ...]:
        found = [ip_address(address) for address in controllers]
        if any(a.is_loopback or a.is_unspecified or a.is_multicast for a in found):
            raise ValueError("wanted addresses at which hosts see a controller")
        return tuple(str(address) for address in found)


class Recovery(_Section):
    """What the daemon restarts unasked. Off until it is enabled and told which services."""

    enabled: bool = Field(False, description="look at containers and restart those that fail")
    observe: bool = Field(False, description="only say what would be done; nothing is touched")
    services: tuple[str, ...] = Field((), description="shell patterns of Compose services or container names; * is all")
    target: str = Field("all", description="on which hosts, as on the command line")
    every_s: float = Field(30, ge=1, le=3600, description="from one look to the next")
    failures: int = Field(
        3, ge=1, le=100, description="looks in a row at which a container fails until it is restarted"
    )
    backoff_s: float = Field(30, ge=1, description="from a restart to the next one; doubles each time")
    backoff_most_s: float = Field(900, ge=1, description="the most that it becomes")
    jitter: float = Field(0.2, ge=0, le=1, description="share of it by which it is moved, so that not all come at once")
    budget: int = Field(3, ge=1, description="restarts of one container in a window; then somebody is called")
    fleet_budget: int = Field(20, ge=1, description="restarts of all in a window; then somebody is called")
    window_s: float = Field(3600, ge=1, description="length of that window")
    settled_s: float = Field(120, ge=0, description="how long it must be well until its past is forgotten")
    cool_s: float = Field(3600, ge=1, description="after somebody was called: until one more restart is tried")
    windows: tuple[str, ...] = Field(
        (), description="maintenance, UTC: 'Sat,Sun 22:00-04:00' or 2026-12-01T02:00Z/2026-12-01T04:00Z"
    )
    severity: str = Field(
        "P2", pattern="^P[1-5]$", description="of the incident that is opened when restarts don't help"
    )


class Settings(_Section):
    """All settings of a controller."""

    listen: Listen = Listen()
    store: Store = Store()
    fanout: Fanout = Fanout()
    evidence: Evidence = Evidence()
    certificates: Certificates = Certificates()
    isolation: Isolation = Isolation()
    recovery: Recovery = Recovery()
    groups: Mapping[str, str] = Field({}, description="@NAME in a target: NAME = 'web[1-20],db1' or a selector")


@dataclass(frozen=True)
class Origin:
    """One setting as `fireline config show` prints it."""

    key: str
    value: Any
    source: str
    description: str


def load(file: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Raises:
        ConfigError: the file is no TOML, or a key is unknown or has a wrong value; names the key and the nearest
            right one.
    """
    document = _read(file)
    for section, key, name in _names():
        if name in environment and isinstance(document.setdefault(section, {}), dict):
            document[section][key] = _from_variable(section, key, environment[name])
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        raise ConfigError(_explain(error, file, environment)) from None


def origins(file: Path, environment: Mapping[str, str] = os.environ) -> Iterator[Origin]:
    """Every setting with its value and where that came from."""
    settings = load(file, environment)
    document = _read(file)
    for section, key, name in _names():
        part = getattr(settings, section)
        source = "default"
        if key in document.get(section, {}):
            source = str(file)
        if name in environment:
            source = name
        description = type(part).model_fields[key].description or ""
        yield Origin(f"{section}.{key}", getattr(part, key), source, description)
    for group, term in settings.groups.items():
        yield Origin(f"groups.{group}", term, str(file), "")


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: no TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{file}: can't be read: {error.strerror}") from None


def _names() -> Iterator[tuple[str, str, str]]:
    for section, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for key in kind.model_fields:
                yield section, key, f"FIRELINE_{section}_{key}".upper()


def _from_variable(section: str, key: str, text: str) -> str | list[str]:
    if not isinstance(getattr(getattr(Settings(), section), key), tuple):
        return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _explain(error: ValidationError, file: Path, environment: Mapping[str, str]) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        variable = next((name for section, key, name in _names() if (section, key) == problem["loc"][:2]), "")
        place = f"{variable} ({where})" if variable in environment else f"{file}: {where}"
        return f"{place}: {problem['msg']}, found {problem['input']!r}"
    known = [*(f"{section}.{key}" for section, key, _ in _names()), *Settings.model_fields]
    near = difflib.get_close_matches(where, known, 1, 0.5)
    hint = f"; the nearest right one is {near[0]}" if near else ""
    return f"{file}: unknown key {where}{hint}"
