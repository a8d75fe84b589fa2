"""What both container collectors share: reaching the engine, going on when a part of it fails, and checking params.

Leaves to others: what is asked (docker_containers, docker_engine).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fireline_agent.capture.collector import Absent, Context, Sink
from fireline_agent.hands import docker
from fireline_agent.hands.secrets import mask_tree


@contextmanager
def reached(context: Context, sink: Sink) -> Iterator[docker.Engine]:
    """Connect to the host's engine; an engine that is there and does not answer is a finding.

    Raises:
        Absent: the host has no engine.
        EngineError: it refuses, hangs or answers garbage, or the SDK is missing.
    """
    try:
        with docker.connect(context.roots.docker_socket) as engine:
            yield engine
    except docker.EngineAbsent as absent:
        raise Absent(str(absent)) from None
    except docker.EngineError as error:
        if error.reason in ("refused", "timeout", "garbage"):
            sink.finding("critical", "docker-engine-not-answering", str(context.roots.docker_socket), str(error))
        raise


class Problems:
    """Parts of the engine's answer that failed. The other parts go on; the collector ends as failed, its work kept."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self._worst: docker.EngineError | None = None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Go on after an EngineError in this block."""
        try:
            yield
        except docker.EngineError as error:
            self.add(error)

    def add(self, error: docker.EngineError) -> None:
        """Remember an error."""
        self._found.append(str(error))
        self._worst = self._worst or error

    def end(self) -> None:
        """Say what failed.

        Raises:
            EngineError: something did; the message has the first of them and their number.
        """
        if self._worst is not None:
            more = f" (and {len(self._found) - 1} more)" if len(self._found) > 1 else ""
            raise docker.EngineError(self._found[0] + more, reason=self._worst.reason) from self._worst


def words(
    params: Mapping[str, Any], name: str, *, default: Sequence[str], known: Sequence[str] = ()
) -> tuple[str, ...]:
    """A parameter that is a list of words, each of them known where `known` is given.

    Raises:
        ValueError: it is something else.
    """
    value = params.get(name, list(default))
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"collector parameter {name!r}: wanted a list of words, found {value!r}")
    for word in value:
        if known and word not in known:
            raise ValueError(f"collector parameter {name!r}: wanted some of {', '.join(known)}, found {word!r}")
    return tuple(value)


def masked(value: Any, *, is_masked: bool) -> Any:
    """A JSON value without its secrets, unless the order wants them."""
    return mask_tree(value) if is_masked else value
