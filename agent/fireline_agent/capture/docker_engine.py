"""The container engine itself: versions, settings, images, networks, volumes, and what happened in the last day.

Leaves to others: containers (docker_containers).
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from fireline_agent.capture.collector import Context, Sink
from fireline_agent.capture.engine_parts import Problems, masked, reached, words
from fireline_agent.capture.params import flag, number, refuse_unknown
from fireline_agent.hands.docker import Engine, is_id
from fireline_agent.hands.printable import printable

VERSION: Final = "1"

PARTS: Final = ("version", "info", "events", "networks", "volumes", "images")
MAX_NETWORKS: Final = 1000  # each is one more question
_DAY_S: Final = 86_400


@dataclass(frozen=True)
class _Order:
    parts: tuple[str, ...]
    events_window_s: int
    is_masked: bool

    @classmethod
    def read(cls, params: Any) -> "_Order":
        refuse_unknown(params, "parts", "events_window_s", "mask_secrets")
        return cls(
            parts=words(params, "parts", default=PARTS, known=PARTS),
            events_window_s=int(number(params, "events_window_s", default=_DAY_S, highest=30 * _DAY_S)),
            is_masked=flag(params, "mask_secrets", default=True),
        )


def collect(context: Context, sink: Sink) -> None:
    """Write `docker/version.json`, `info.json`, `events.jsonl`, `networks.jsonl`, `volumes.jsonl`, `images.jsonl`.

    Params: `parts` (some of these, in the order given here), `events_window_s`, `mask_secrets`.

    Raises:
        Absent: the host has no engine.
        EngineError: the engine does not answer as it should; the parts that came are kept.
        ValueError: a param is unknown or wrong.
    """
    order = _Order.read(context.params)
    writers: dict[str, Callable[[Engine, _Order, Sink], None]] = {
        "version": _write_version,
        "info": _write_info,
        "events": _write_events,
        "networks": _write_networks,
        "volumes": _write_volumes,
        "images": _write_images,
    }
    problems = Problems()
    with reached(context, sink) as engine:
        for part, write in writers.items():
            if part in order.parts:
                with problems.kept():
                    write(engine, order, sink)
        problems.end()


def _write_version(engine: Engine, order: _Order, sink: Sink) -> None:
    _write_document("version", "GET /version", masked(engine.version(), is_masked=order.is_masked), sink)


def _write_info(engine: Engine, order: _Order, sink: Sink) -> None:
    info = engine.info()
    _write_document("info", "GET /info", masked(info, is_masked=order.is_masked), sink)
    warnings = info.get("Warnings")
    for warning in warnings if isinstance(warnings, list) else []:
        # dockerd's own words when its API listens on TCP for anybody: as good as root for whoever reaches it.
        if "without encryption" in str(warning):
            sink.finding("critical", "docker-api-exposed", "docker engine", printable(str(warning)))


def _write_events(engine: Engine, order: _Order, sink: Sink) -> None:
    until = int(time.time())
    since = until - order.events_window_s
    events = engine.events(since=since, until=until)
    _write_records("events", f"GET /events?since={since}&until={until}", events, order, sink)


def _write_networks(engine: Engine, order: _Order, sink: Sink) -> None:
    """Each network with the containers on it, which the list does not tell."""
    problems = Problems()
    found = []
    for listed in engine.networks()[:MAX_NETWORKS]:
        found.append(listed)
        if isinstance(listed, dict) and is_id(listed.get("Id")):
            with problems.kept():
                found[-1] = engine.network(listed["Id"])
    _write_records("networks", "GET /networks/ID", found, order, sink)
    problems.end()


def _write_volumes(engine: Engine, order: _Order, sink: Sink) -> None:
    volumes = engine.volumes().get("Volumes")
    _write_records("volumes", "GET /volumes", volumes if isinstance(volumes, list) else [], order, sink)


def _write_images(engine: Engine, order: _Order, sink: Sink) -> None:
    _write_records("images", "GET /images/json", engine.images(), order, sink)


def _write_document(name: str, source: str, value: Any, sink: Sink) -> None:
    with sink.artifact(f"docker/{name}.json", source=source, method="docker-api") as artifact:
        artifact.write(json.dumps(value, indent=1).encode() + b"\n")


def _write_records(name: str, source: str, values: Iterable[Any], order: _Order, sink: Sink) -> None:
    with sink.artifact(f"docker/{name}.jsonl", source=source, method="docker-api") as artifact:
        for value in values:
            shown = masked(value, is_masked=order.is_masked)
            artifact.record(shown if isinstance(shown, dict) else {"unexpected": shown})
