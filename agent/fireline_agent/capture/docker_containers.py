"""Containers: all of them listed, those that matter looked into; what fails and what is set riskily stands out.

Leaves to others: what the answers mean (containers), the engine itself (docker_engine).
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from fireline_agent.capture import containers
from fireline_agent.capture.collector import ArtifactWriter, Context, Sink
from fireline_agent.capture.containers import Found, Selector
from fireline_agent.capture.engine_parts import Problems, masked, reached, words
from fireline_agent.capture.params import flag, number, refuse_unknown
from fireline_agent.hands.docker import Engine, EngineError, is_id
from fireline_agent.hands.printable import printable

VERSION: Final = "1"

PARTS: Final = ("inspect", "stats", "top", "changes", "logs")
SCOPES: Final = ("all", "critical")
MAX_CONTAINERS: Final = 1000  # looked into; each makes up to two artifacts of logs, and a capture holds 20,000
STATS_AT_ONCE: Final = 32  # threads and connections; half of what a collector may have
_DAY_S: Final = 86_400
_LINE_BYTES: Final = 64  # the shortest lines that are worth asking for, with their time stamps


@dataclass(frozen=True)
class _Order:
    parts: tuple[str, ...]
    scope: str
    critical: tuple[Selector, ...]
    log_window_s: int
    log_bytes: int
    is_masked: bool

    @classmethod
    def read(cls, params: Mapping[str, Any]) -> "_Order":
        refuse_unknown(params, "parts", "scope", "critical", "log_window_s", "log_bytes", "mask_secrets")
        if params.get("scope", "all") not in SCOPES:
            raise ValueError(f"collector parameter 'scope': wanted all or critical, found {params['scope']!r}")
        return cls(
            parts=words(params, "parts", default=PARTS, known=PARTS),
            scope=params.get("scope", "all"),
            critical=tuple(Selector.parse(spelled) for spelled in words(params, "critical", default=())),
            log_window_s=int(number(params, "log_window_s", default=_DAY_S, highest=30 * _DAY_S)),
            log_bytes=int(number(params, "log_bytes", default=1 << 20, highest=64 << 20)),
            is_masked=flag(params, "mask_secrets", default=True),
        )

    def wants(self, listed: Mapping[str, Any]) -> bool:
        """Whether to look into a container: all, or the critical ones and those that seem to fail.

        Without any critical service named, every container might be one.
        """
        return (
            self.scope == "all" or not self.critical or bool(self.matching(listed)) or containers.looks_unwell(listed)
        )

    def matching(self, listed: Mapping[str, Any]) -> list[str]:
        return [str(selector) for selector in self.critical if selector.matches(listed)]


@dataclass
class _Container:
    """A container that is looked into."""

    id: str
    name: str
    is_running: bool
    critical: list[str]
    inspected: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> dict[str, str]:
        return {"container": self.id, "name": self.name}


def collect(context: Context, sink: Sink) -> None:
    """Write `docker/containers.jsonl` (as `docker ps -a`), `docker/compose.jsonl`, and the parts asked for.

    Params: `parts` (of `inspect`, which is always done since the findings come from it, `stats`, `top`, `changes`,
    `logs`), `scope` (`all`, or `critical`: the critical ones
    and those that fail), `critical` (selectors), `log_window_s`, `log_bytes` (of each stream of each container, the
    newest), `mask_secrets`.

    Raises:
        Absent: the host has no engine.
        EngineError: the engine does not answer as it should; what came is kept.
        ValueError: a param is unknown or wrong.
    """
    order = _Order.read(context.params)
    with reached(context, sink) as engine:
        problems = Problems()
        chosen = _write_list(engine.containers(), order, sink)
        _inspect(engine, chosen, order, sink, problems)
        running = [container for container in chosen if container.is_running]
        if "stats" in order.parts:
            _write_stats(engine, running, sink, problems)
        if "top" in order.parts:
            _write_part("top", lambda container: engine.top(container.id), running, sink, problems)
        if "changes" in order.parts:
            _write_part("changes", lambda container: engine.changes(container.id), chosen, sink, problems)
        if "logs" in order.parts:
            for container in chosen:
                _write_logs(engine, container, order, sink, problems)
        problems.end()


def _write_list(listed: list[Any], order: _Order, sink: Sink) -> list[_Container]:
    entries = list(
        {entry["Id"]: entry for entry in listed if isinstance(entry, dict) and is_id(entry.get("Id"))}.values()
    )
    matched = {entry["Id"]: order.matching(entry) for entry in entries}
    with sink.artifact("docker/containers.jsonl", source="GET /containers/json?all=1", method="docker-api") as artifact:
        for entry in entries:
            artifact.record(masked(entry, is_masked=order.is_masked) | {"critical": matched[entry["Id"]]})
        artifact.facts |= _counts(entries) | {"unusable": len(listed) - len(entries)}
        seen = {spelled for spelled_of_one in matched.values() for spelled in spelled_of_one}
        artifact.facts["critical_not_here"] = [str(wanted) for wanted in order.critical if str(wanted) not in seen]
    _write_compose(entries, sink)
    wanted = [entry for entry in entries if order.wants(entry)]
    if len(wanted) > MAX_CONTAINERS:
        summary = f"{len(wanted)} containers to look into; only the first {MAX_CONTAINERS} were"
        sink.finding("warning", "containers-left-out", "docker", summary)
    return [
        _Container(entry["Id"], containers.title(entry), entry.get("State") == "running", matched[entry["Id"]])
        for entry in wanted[:MAX_CONTAINERS]
    ]


def _counts(entries: list[dict[str, Any]]) -> dict[str, Any]:
    states: dict[str, int] = {}
    for entry in entries:
        state = printable(str(entry.get("State")), limit=20)
        states[state] = states.get(state, 0) + 1
    return {"containers": len(entries), "states": dict(sorted(states.items())[:20])}


def _write_compose(entries: list[dict[str, Any]], sink: Sink) -> None:
    projects = containers.compose_projects(entries)
    if projects:
        with sink.artifact("docker/compose.jsonl", source="labels of containers", method="docker-api") as artifact:
            for name, project in sorted(projects.items()):
                artifact.record({"project": name, **project})


def _inspect(engine: Engine, chosen: list[_Container], order: _Order, sink: Sink, problems: Problems) -> None:
    with sink.artifact("docker/inspect.jsonl", source="GET /containers/ID/json", method="docker-api") as artifact:
        for container in chosen:
            answer = _answer(lambda container: engine.inspect(container.id), container, artifact, problems)
            if answer is None:
                continue
            container.inspected = answer
            artifact.record(container.place | {"inspect": masked(answer, is_masked=order.is_masked)})
            for found in _findings(container):
                sink.finding(found.severity, found.code, found.subject, found.summary)


def _findings(container: _Container) -> list[Found]:
    found = list(containers.health(container.inspected, container.name, now=datetime.now(UTC)))
    risks = containers.risks(container.inspected)
    if risks:
        found.append(containers.risk_finding(container.name, risks))
    status = containers.part(container.inspected, "State").get("Status")
    if container.critical and status != "running":
        summary = f"{container.name} is critical ({', '.join(container.critical)}) and not running: {str(status)[:20]}"
        found.append(Found("critical", "critical-service-down", container.name, printable(summary, limit=400)))
    return found


def _write_part(
    part: str, ask: Callable[[_Container], Any], chosen: list[_Container], sink: Sink, problems: Problems
) -> None:
    with sink.artifact(f"docker/{part}.jsonl", source=f"GET /containers/ID/{part}", method="docker-api") as artifact:
        for container in chosen:
            answer = _answer(ask, container, artifact, problems)
            if answer is not None:
                artifact.record(container.place | {part: answer})


def _write_stats(engine: Engine, running: list[_Container], sink: Sink, problems: Problems) -> None:
    """Ask for many at once: an engine before 23 answers only at its next tick, a second later."""
    pool = ThreadPoolExecutor(STATS_AT_ONCE)
    try:
        pending = {container.id: pool.submit(engine.stats, container.id) for container in running}
        _write_part("stats", lambda container: pending[container.id].result(), running, sink, problems)
    finally:
        pool.shutdown(cancel_futures=True)


def _answer(
    ask: Callable[[_Container], Any], container: _Container, artifact: ArtifactWriter, problems: Problems
) -> Any:
    """The engine's answer about a container; an error is recorded in its place, and None returned."""
    try:
        return ask(container)
    except EngineError as error:
        artifact.record(container.place | {"error": str(error)})
        # A container that ended or vanished meanwhile is answered with a status; anything else is the engine's fault.
        if error.reason != "http_status":
            problems.add(error)
        return None


class _Newest:
    """The newest bytes of a stream, up to a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: deque[bytes] = deque()
        self._kept = 0
        self.total = 0

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._kept += len(piece)
        self.total += len(piece)
        while self._kept - len(self._pieces[0]) >= self._limit:
            self._kept -= len(self._pieces.popleft())

    def value(self) -> bytes:
        return b"".join(self._pieces)[-self._limit :]


def _write_logs(engine: Engine, container: _Container, order: _Order, sink: Sink, problems: Problems) -> None:
    since = int(time.time()) - order.log_window_s
    lines = max(100, order.log_bytes // _LINE_BYTES)
    is_tty = containers.part(container.inspected, "Config").get("Tty") is True
    streams: dict[str, _Newest] = {}
    error = ""
    try:
        for stream, piece in engine.logs(container.id, since=since, lines=lines, is_tty=is_tty):
            streams.setdefault(stream, _Newest(order.log_bytes)).add(piece)
    except EngineError as failure:
        error = str(failure)
        if failure.reason != "http_status":
            problems.add(failure)
    for stream, newest in streams.items():
        name = f"docker/logs/{container.id}.{stream}.log"
        source = f"GET /containers/{container.id}/logs?since={since}&tail={lines}"
        with sink.artifact(name, source=source, method="docker-api") as artifact:
            content = newest.value()
            artifact.facts |= {**container.place, "stream": stream, "left_out_bytes": newest.total - len(content)}
            artifact.facts |= {"error": error} if error else {}
            artifact.write(content)
