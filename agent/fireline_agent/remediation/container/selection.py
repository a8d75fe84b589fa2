"""Which containers an action is about, and what is known of each. Asked once, decided on plain values.

Leaves to others: what is done with them, and in which order (ordering).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, Self

from fireline_agent.hands.docker import Engine, is_id
from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import ActionError
from fireline_wire.actions import Kind, Parameter, Result, nearest

PROJECT: Final = "com.docker.compose.project"
SERVICE: Final = "com.docker.compose.service"
DEPENDS_ON: Final = "com.docker.compose.depends_on"
REPLACES: Final = "fireline.replaces"  # the id of the container that another was made instead of
PUT_ASIDE: Final = ".fireline-old"  # in the name of that container

CONTAINER: Final = Parameter("container", Kind.TEXT, "one container: by name, head of its id, or Compose service")
LABEL: Final = Parameter("label", Kind.TEXT, "containers with a label: KEY, or KEY=VALUE")
SERVICE_NAME: Final = Parameter("service", Kind.TEXT, "containers of a Compose service")
PROJECT_NAME: Final = Parameter("project", Kind.TEXT, "containers of a Compose project")
SELECTORS: Final = (CONTAINER, LABEL, SERVICE_NAME, PROJECT_NAME)
ROWS: Final = Result(
    "containers", Kind.ROWS, "name, id, project, service, state, health and image of each that is selected"
)

_DONE: Final = "service_completed_successfully"  # a condition of Compose's depends_on
_ID_HEAD: Final = re.compile(r"[0-9a-f]{6,64}\Z")
_MOST: Final = 500  # containers of one action; each is asked for and waited for on its own


@dataclass(frozen=True)
class Container:
    """A container as the engine told of it.

    Attributes:
        state: `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`.
        health: `none`, `starting`, `healthy` or `unhealthy`; `none` where it has no check.
        needs: Compose services of its project that it depends on.
        needs_done: those of them that are jobs, which must have ended well.
        replaces: the id of the container that it was made instead of, or empty.
        policy: its restart policy; `no` where it has none.
    """

    id: str
    name: str
    state: str
    health: str = "none"
    project: str = ""
    service: str = ""
    needs: tuple[str, ...] = ()
    needs_done: tuple[str, ...] = ()
    replaces: str = ""
    policy: str = "no"
    exit_code: int = 0
    image: str = ""
    started_at: str = ""
    finished_at: str = ""
    restarts: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_up(self) -> bool:
        """Whether its first process is there, or the engine is about to start it again."""
        return self.state in ("running", "paused", "restarting")

    @property
    def title(self) -> str:
        """For a person."""
        return printable(self.name or self.id[:12])

    def row(self) -> dict[str, Any]:
        """For a table."""
        return {
            "name": self.title,
            "id": self.id[:12],
            "project": printable(self.project),
            "service": printable(self.service),
            "state": self.state,
            "health": self.health,
            "image": printable(self.image),
        }

    def to_document(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Back from `to_document`; what else is known of it is left out."""
        known = {name: document[name] for name in cls.__dataclass_fields__ if name in document}
        lists = {name: tuple(known.get(name, ())) for name in ("needs", "needs_done")}
        return cls(**{**known, **lists})

    @classmethod
    def inspected(cls, told: Mapping[str, Any]) -> Self:
        """From the engine's answer to an inspection; what does not fit is as if it weren't there."""
        state, labels = part(told, "State"), strings(part(told, "Config", "Labels"))
        return cls(
            id=str(told.get("Id", "")),
            name=str(told.get("Name", "")).removeprefix("/"),
            state=str(state.get("Status", "")),
            health=str(part(state, "Health").get("Status") or "none"),
            project=labels.get(PROJECT, ""),
            service=labels.get(SERVICE, ""),
            needs=tuple(depends_on(labels.get(DEPENDS_ON, ""))),
            needs_done=tuple(s for s, how in depends_on(labels.get(DEPENDS_ON, "")).items() if how == _DONE),
            replaces=labels.get(REPLACES, ""),
            policy=str(part(told, "HostConfig", "RestartPolicy").get("Name") or "no"),
            exit_code=number(state, "ExitCode"),
            image=str(part(told, "Config").get("Image", "")),
            started_at=str(state.get("StartedAt", "")),
            finished_at=str(state.get("FinishedAt", "")),
            restarts=number(told, "RestartCount"),
            labels=labels,
        )


def inspected(engine: Engine, params: Mapping[str, Any], *, is_all_allowed: bool = False) -> list[dict[str, Any]]:
    """The engine's answers about every container that the parameters select, ordered by name.

    Raises:
        ActionError: nothing was asked for (unless all may be), nothing is selected, or too many are.
        EngineError: the engine does not answer as it should.
    """
    asked = {p.name: params[p.name] for p in SELECTORS if params.get(p.name)}
    if not asked and not is_all_allowed:
        raise ActionError("name the containers: container, label, service or project", reason="refused")
    listed = [entry for entry in engine.containers() if isinstance(entry, dict) and is_id(entry.get("Id"))]
    chosen = [entry for entry in listed if matches(entry, asked)] or _only_one_of_service(listed, asked)
    if not chosen and asked:
        raise ActionError(_not_found(asked, listed), reason="not_found")
    if len(chosen) > _MOST:
        raise ActionError(f"wanted at most {_MOST} containers at once, found {len(chosen)}; select fewer")
    answers = [engine.inspect(entry["Id"]) for entry in sorted(chosen, key=_listed_name)]
    return without_put_aside(answers, listed)


def _only_one_of_service(listed: Iterable[Mapping[str, Any]], asked: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """The container whose service was named instead of itself, as everywhere else; none where it has several."""
    if "container" not in asked:
        return []
    others = {name: value for name, value in asked.items() if name != "container"}
    found = [entry for entry in listed if matches(entry, {"service": asked["container"], **others})]
    return found if len(found) == 1 else []


def matches(listed: Mapping[str, Any], asked: Mapping[str, str]) -> bool:
    """Whether a listed container is all that was asked for."""
    labels = strings(part(listed, "Labels"))
    return all(_matches(listed, labels, name, value) for name, value in asked.items())


def _matches(listed: Mapping[str, Any], labels: Mapping[str, str], name: str, value: str) -> bool:
    if name == "container":
        is_head = _ID_HEAD.match(value) is not None and str(listed.get("Id")).startswith(value)
        return is_head or value.removeprefix("/") in _names(listed)
    if name == "label":
        key, equals, wanted = value.partition("=")
        return labels.get(key) == wanted if equals else key in labels
    return labels.get(PROJECT if name == "project" else SERVICE) == value


def without_put_aside(answers: Iterable[dict[str, Any]], listed: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All but a container that another replaces and that is down, and one that was made and never took its place."""
    states = {str(entry.get("Id")): str(entry.get("State", "")) for entry in listed}
    replaced = {strings(part(entry, "Labels")).get(REPLACES, "") for entry in listed}

    def is_aside(answer: Mapping[str, Any]) -> bool:
        found = Container.inspected(answer)
        is_spare = found.state == "created" and states.get(found.replaces) == "running"
        return is_spare or (found.id in replaced and not found.is_up)

    return [answer for answer in answers if not is_aside(answer)]


def containers(answers: Iterable[Mapping[str, Any]]) -> list[Container]:
    """What the engine's answers mean."""
    return [Container.inspected(answer) for answer in answers]


def from_facts(facts: Mapping[str, Any]) -> list[Container]:
    """The containers of facts that were gathered as `{"containers": [document, …]}`."""
    return [Container.from_document(document) for document in facts["containers"]]


def depends_on(label: str) -> dict[str, str]:
    """Services with their conditions, of Compose's label `db:service_healthy:false,redis:service_started:true`."""
    entries = [[*entry.split(":"), ""] for entry in label.split(",") if entry.strip()]
    return {entry[0].strip(): entry[1] for entry in entries}


def part(tree: Any, *keys: str) -> Mapping[str, Any]:
    """The object under these keys, an empty one where there is none."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def strings(tree: Mapping[str, Any]) -> dict[str, str]:
    """The members that are texts."""
    return {key: value for key, value in tree.items() if isinstance(value, str)}


def number(tree: Mapping[str, Any], key: str) -> int:
    """A whole number, 0 where there is none."""
    value = tree.get(key)
    return value if type(value) is int else 0


def moment(text: str) -> datetime | None:
    """The engine's RFC 3339 time; None where it has none (it writes the year 1 for never)."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None and found.year > 1 else None


def _names(listed: Mapping[str, Any]) -> list[str]:
    found = listed.get("Names")
    return [str(name).removeprefix("/") for name in found] if isinstance(found, list) else []


def _listed_name(listed: Mapping[str, Any]) -> tuple[str, str]:
    return (min(_names(listed), default=""), str(listed.get("Id")))


def _not_found(asked: Mapping[str, str], listed: list[dict[str, Any]]) -> str:
    looked_for = " and ".join(f"{name} {printable(value)}" for name, value in asked.items())
    if not listed:
        return f"no container is {looked_for}: this host has none"
    labels = [strings(part(entry, "Labels")) for entry in listed]
    known = {
        "container": [name for entry in listed for name in _names(entry)],
        "label": [f"{key}={value}" for entry in labels for key, value in entry.items()],
        "service": [entry[SERVICE] for entry in labels if SERVICE in entry],
        "project": [entry[PROJECT] for entry in labels if PROJECT in entry],
    }
    hints = [nearest(value, sorted(set(known[name]))) for name, value in asked.items()]
    return f"no container of {len(listed)} is {looked_for}; {printable('; '.join(hints), limit=400)}"
