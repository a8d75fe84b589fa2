"""Run a fanned-out command: preview, confirm, follow, report. One honest exit status."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fireline_controller.cli import output, session

if TYPE_CHECKING:
    from fireline_wire.v1 import control_pb2
    from fireline_wire.v1.control_pb2_grpc import ControlStub


_REDRAW_S = 0.1


@dataclass(frozen=True)
class Wish:
    """What the operator's options say about a fanned-out command."""

    targets: Sequence[str] = ()
    without: Sequence[str] = ()
    retry_of: str = ""
    reason: str = ""
    incident: str = ""
    yes: bool = False
    max_fail: str = ""
    host_deadline_s: float = 0
    overall_deadline_s: float = 0
    concurrency: int = 0
    json: bool = False
    json_lines: bool = False
    break_glass: str = ""

    def options(self) -> "control_pb2.OperationOptions":
        """The wish as the wire has it, not confirmed."""
        from fireline_wire.v1 import control_pb2

        options = control_pb2.OperationOptions(
            target=control_pb2.TargetSpec(terms=self.targets, excluded=self.without, retry_of=self.retry_of),
            reason=self.reason,
            incident_id=self.incident,
            max_fail=self.max_fail,
            concurrency=self.concurrency,
            break_glass=self.break_glass,
        )
        options.host_deadline.FromMilliseconds(int(self.host_deadline_s * 1000))
        options.overall_deadline.FromMilliseconds(int(self.overall_deadline_s * 1000))
        return options


@dataclass
class Followed:
    """What a stream of operation events has told so far."""

    started: "control_pb2.OperationStarted | None" = None
    finished: "control_pb2.OperationFinished | None" = None
    hosts: "list[control_pb2.HostOutcome]" = field(default_factory=list)
    doing: dict[str, str] = field(default_factory=dict)


async def confirmed(control: "ControlStub", wish: Wish) -> "control_pb2.OperationOptions":
    """The options with the confirmation that a wide target needs.

    Raises:
        SystemExit: the operator said no, or nobody is there to ask (refused); two ways to name hosts at once (usage).
    """
    if wish.retry_of and (wish.targets or wish.without):
        session.fail("--retry-of names the hosts itself: leave --target and --except out", session.USAGE)
    options = wish.options()
    if not (wish.targets or wish.retry_of):
        return options
    resolved = await control.ResolveTarget(options.target)
    if resolved.needs_confirmation and not wish.yes:
        question = f"{len(resolved.hosts)} hosts: {resolved.folded}"
        if not sys.stdin.isatty():
            session.fail(f"{question}; say --yes to address so many", session.REFUSED)
        answer = await asyncio.to_thread(input, f"{question}\nGo on? Type the number of hosts: ")
        if answer.strip() != str(len(resolved.hosts)):
            session.fail("not confirmed, nothing was sent", session.REFUSED)
    options.confirmed_sha256 = resolved.sha256
    return options


async def follow(
    control: "ControlStub", events: "AsyncIterable[control_pb2.OperationEvent]", wish: Wish
) -> tuple[Followed, bool]:
    """Follow to the end. The first interrupt cancels on the hosts and goes on following; a second one leaves.

    Returns:
        What was told, and whether the operator interrupted.
    """
    seen = Followed()
    view = _Progress(wish)
    interrupts: list[int] = []
    cancelling: set[asyncio.Task[None]] = set()

    def interrupt() -> None:
        interrupts.append(1)
        if len(interrupts) > 1 or seen.started is None:
            raise KeyboardInterrupt(_left(seen))
        output.say("interrupted: cancelling on the hosts (again to leave at once)")
        cancelling.add(asyncio.ensure_future(_cancel(control, seen.started.operation_id)))

    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
    async for event in events:
        _take(seen, event)
        view.show(seen, event)
    view.close()
    return seen, bool(interrupts)


def _left(seen: Followed) -> str:
    """What an operator who leaves at once should know."""
    if seen.started is None:
        return "whether it had started is not known; fireline journal export tells"
    return f"work may go on on the hosts; what they have by then: --retry-of {seen.started.operation_id}"


async def _cancel(control: "ControlStub", operation_id: str) -> None:
    from fireline_wire.v1 import control_pb2

    await control.CancelOperation(control_pb2.CancelOperationRequest(operation_id=operation_id))


def _take(seen: Followed, event: "control_pb2.OperationEvent") -> None:
    kind = event.WhichOneof("event")
    if kind == "started":
        seen.started = event.started
    elif kind == "progress":
        seen.doing[event.progress.host] = event.progress.doing
    elif kind == "host":
        seen.hosts.append(event.host)
        seen.doing.pop(event.host.host, None)
    elif kind == "finished":
        seen.finished = event.finished


def report(
    seen: Followed,
    interrupted: bool,
    wish: Wish,
    table: Callable[[Followed], None],
    more: Callable[[Followed], Mapping[str, object]] = lambda _seen: {},
) -> int:
    """Print the end of an operation and return its exit status; `more` goes into its JSON document."""
    if seen.started is None or seen.finished is None:
        session.fail("the controller ended without a result", session.CONTROLLER_FAILED)
    if wish.json:
        output.print_json({**output.operation_document(seen.started, seen.hosts, seen.finished), **more(seen)})
    elif not wish.json_lines and seen.started.operation_id:
        table(seen)
        _say_end(seen.started, seen.finished)
    for text in seen.finished.still_running:
        output.say(f"still running: {output.printable(text)}")
    if interrupted:
        return session.INTERRUPTED
    return session.OK if set(seen.finished.counts) <= {"ok"} else session.SOME_NOT_OK


def _say_end(started: "control_pb2.OperationStarted", finished: "control_pb2.OperationFinished") -> None:
    counts = output.totals(finished.counts)
    output.say(f"{started.operation_id}: {counts} in {output.seconds(finished.duration_ms)}")
    if set(finished.counts) - {"ok"}:
        output.say(f"the others again: --retry-of {started.operation_id}")


def outcome_table(seen: Followed) -> None:
    """The table that every fanned-out command ends with."""
    rows = output.outcome_rows(seen.hosts)
    if any(row[3] for row in rows):
        output.table(("HOSTS", "OUTCOME", "TIME", "EVIDENCE", "DETAIL"), rows)
    else:
        output.table(("HOSTS", "OUTCOME", "TIME", "DETAIL"), [(r[0], r[1], r[2], r[4]) for r in rows])


class _Progress:
    """Live totals on a terminal's stderr; lines of JSON where asked; silence otherwise."""

    def __init__(self, wish: Wish) -> None:
        self._lines = wish.json_lines
        self._live = sys.stderr.isatty() and not wish.json_lines
        self._width = 0
        self._drawn_s = 0.0

    def show(self, seen: Followed, event: "control_pb2.OperationEvent") -> None:
        if event.HasField("started") and event.started.warning:
            output.warn(event.started.warning)
        if self._lines:
            self._print_line(event)
            return
        if event.HasField("started"):
            self._say_start(event.started)
        if self._live and seen.started is not None and time.monotonic() - self._drawn_s > _REDRAW_S:
            self._draw(self._totals(seen))
            self._drawn_s = time.monotonic()

    def close(self) -> None:
        if self._live:
            self._draw("")

    def _say_start(self, started: "control_pb2.OperationStarted") -> None:
        if started.incident_id:
            output.say(f"incident {started.incident_id}")
        if not started.operation_id:
            output.say(
                "no --target: nothing was captured; capture: fireline capture -t HOSTS -i " + started.incident_id
            )
            return
        hosts = output.counted(len(started.target.hosts), "host")
        output.say(f"{started.operation_id}: {hosts}: {started.target.folded}")
        if started.worst_case:
            output.say(started.worst_case)

    def _totals(self, seen: Followed) -> str:
        counts: dict[str, int] = {}
        for host in seen.hosts:
            name = output.outcome_name(host.outcome)
            counts[name] = counts.get(name, 0) + 1
        text = output.totals(counts) if counts else "0 done"
        for name, doing in list(seen.doing.items())[:1]:
            text += f" · {name}: {output.printable(doing)}"
        return text[:110]

    def _draw(self, text: str) -> None:
        sys.stderr.write("\r" + text.ljust(self._width) + ("\r" if not text else ""))
        sys.stderr.flush()
        self._width = len(text)

    def _print_line(self, event: "control_pb2.OperationEvent") -> None:
        kind = event.WhichOneof("event")
        if kind == "started":
            output.print_json_line(
                {
                    "event": "started",
                    "operation": event.started.operation_id,
                    "incident": event.started.incident_id,
                    "targets": list(event.started.target.hosts),
                }
                | ({"warning": event.started.warning} if event.started.warning else {})
            )
        elif kind == "progress":
            output.print_json_line({"event": "progress", "host": event.progress.host, "doing": event.progress.doing})
        elif kind == "host":
            output.print_json_line({"event": "host"} | output.host_document(event.host))
        elif kind == "finished":
            output.print_json_line({"event": "finished", "counts": dict(event.finished.counts)})
