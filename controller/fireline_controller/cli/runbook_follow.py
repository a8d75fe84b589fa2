"""A run as it goes: a line for every move, what the hosts do now, and how it ended as an exit status."""

import json as jsonlib
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fireline_controller.cli import output, session

if TYPE_CHECKING:
    from fireline_wire.v1 import runs_pb2
    from fireline_wire.v1.control_pb2_grpc import ControlStub

_REDRAW_S: Final = 0.1
_WIDTH: Final = 110
_ENDED: Final = ("succeeded", "failed", "cancelled", "rolled_back")


@dataclass(frozen=True)
class View:
    """How it is shown."""

    json: bool = False
    json_lines: bool = False


async def told(control: "ControlStub", run_id: str) -> frozenset[str]:
    """The moves that had ended before, which a person who goes on with a run need not read again."""
    from fireline_wire.v1 import runs_pb2

    found = await control.ShowRun(runs_pb2.ShowRunRequest(id=run_id))
    return frozenset(_key(move.move) for move in found.moves if move.is_over)


async def follow(
    control: "ControlStub", run_id: str, view: View, *, is_here: bool, told: frozenset[str] = frozenset()
) -> int:
    """Show a run until it has ended or is parked; the exit status.

    `is_here`: it is driven by this very process. `told`: moves that are not shown as lines.

    An interrupt leaves the run: a daemon goes on with it, and in this process it is parked.
    """
    import asyncio

    from fireline_wire.v1 import runs_pb2

    shown = _Shown(view, told)
    left = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, left.set)
    events = control.FollowRun(runs_pb2.FollowRunRequest(id=run_id))
    waiting = asyncio.ensure_future(left.wait())
    try:
        while True:
            reading = asyncio.ensure_future(events.read())
            await asyncio.wait([reading, waiting], return_when=asyncio.FIRST_COMPLETED)
            if left.is_set():
                reading.cancel()
                shown.close()
                _say_left(run_id, is_here=is_here)
                return session.INTERRUPTED
            event = reading.result()
            if not isinstance(event, runs_pb2.RunEvent):
                break
            shown.event(event)
    finally:
        waiting.cancel()
        shown.close()
    return shown.end()


def _say_left(run_id: str, *, is_here: bool) -> None:
    if is_here:
        output.say(
            f"{run_id} is parked: go on with it: fireline runbook resume {run_id} (a daemon does when it starts)"
        )
    else:
        output.say(f"{run_id} goes on without you: watch it: fireline runbook resume {run_id}")
    output.say(f"end it: fireline runbook cancel {run_id}; take it back: fireline runbook rollback {run_id}")


class _Shown:
    """What was shown so far."""

    def __init__(self, view: View, told: frozenset[str]) -> None:
        self._view = view
        self._told = told
        self._is_live = sys.stderr.isatty() and not view.json and not view.json_lines
        self._run: runs_pb2.RunRecord | None = None
        self._moves: list[dict[str, Any]] = []
        self._can_go_back = False
        self._doing: dict[tuple[str, str], str] = {}
        self._width = 0
        self._drawn_s = 0.0

    def event(self, event: "runs_pb2.RunEvent") -> None:
        kind = event.WhichOneof("event")
        if kind == "seen":
            self._seen(event.seen)
        elif kind == "begun":
            self._line({"event": "begun", "at": output.moment(event.begun.at), **_move(event.begun.move)})
        elif kind == "ended":
            self._ended(event.ended)
        elif kind == "doing":
            self._hosts(event.doing)

    def close(self) -> None:
        """Take the live line away."""
        if self._is_live:
            self._draw("")

    def end(self) -> int:
        """Say how it ended; the exit status."""
        if self._run is None:
            session.fail("the controller ended without a word about the run", session.CONTROLLER_FAILED)
        run = self._run
        if self._view.json:
            output.print_json({**run_document(run), "moves": self._moves})
        if run.state in _ENDED:
            _say_end(run, can_go_back=self._can_go_back)
            return session.OK if run.state == "succeeded" else session.SOME_NOT_OK
        why = f": {output.printable(run.why)}" if run.why else ""
        output.say(f"{run.id} is not driven by any controller ({run.state}){why}: fireline runbook resume {run.id}")
        return session.CONTROLLER_FAILED

    def _seen(self, seen: "runs_pb2.RunSeen") -> None:
        is_first = self._run is None
        self._run = seen.run
        self._line({"event": "run", **run_document(seen.run), "note": seen.note})
        if self._is_silent:
            return
        self.close()
        if is_first:
            output.say(f"{seen.run.id}: {seen.run.runbook} version {seen.run.version} on {seen.run.hosts}")
        for note in filter(None, seen.note.split("\n")):
            output.say(output.printable(note))
        if seen.run.wish and seen.run.state not in _ENDED:
            output.say(f"{seen.run.wished_by} wants: {seen.run.wish}")

    def _ended(self, ended: "runs_pb2.MoveEnded") -> None:
        document = move_document(ended)
        self._moves.append(document)
        self._can_go_back |= ended.can_go_back
        self._line({"event": "ended", **document})
        if self._is_silent or _key(ended.move) in self._told or (ended.move.part == "begin" and not ended.hosts):
            return
        self.close()
        for row in move_lines(ended):
            print(row, flush=True)

    def _hosts(self, doing: "runs_pb2.HostDoing") -> None:
        self._line({"event": "doing", "step": doing.step, "host": doing.host, "doing": doing.doing})
        self._doing[doing.step, doing.host] = doing.doing
        if self._is_live and time.monotonic() - self._drawn_s > _REDRAW_S:
            self._drawn_s = time.monotonic()
            self._draw(f"{doing.step}: {doing.host}: {output.printable(doing.doing)}")

    @property
    def _is_silent(self) -> bool:
        return self._view.json or self._view.json_lines

    def _line(self, document: Mapping[str, Any]) -> None:
        if self._view.json_lines:
            output.print_json_line(document)

    def _draw(self, text: str) -> None:
        text = text[:_WIDTH]
        sys.stderr.write("\r" + text.ljust(self._width) + ("\r" if not text else ""))
        sys.stderr.flush()
        self._width = len(text)


def _say_end(run: "runs_pb2.RunRecord", *, can_go_back: bool) -> None:
    lasted = run.finished_at.ToMilliseconds() - run.started_at.ToMilliseconds()
    why = f": {output.printable(run.why)}" if run.why else ""
    output.say(f"{run.id}: {run.state.replace('_', ' ')} in {output.seconds(lasted)}{why}")
    if can_go_back and run.state in ("succeeded", "failed"):
        output.say(f"take it back: fireline runbook rollback {run.id}")


def move_lines(ended: "runs_pb2.MoveEnded") -> Sequence[str]:
    """A move for a person: what came of it, and a line for each host that is not ok."""
    move = ended.move
    attempt = f" (attempt {move.attempt})" if move.attempt > 1 else ""
    lines = [f"{output.moment(ended.at)}  {move.step}  {output.printable(ended.words)}{attempt}  {move.hosts}".rstrip()]
    for host in ended.hosts:
        name = output.outcome_name(host.outcome)
        if host.host and name not in ("ok", "skipped"):
            lines.append(f"    {host.host}: {name}: {output.printable(host.detail)}")
        elif host.effect:
            lines.append(f"    {host.host}: {output.printable(host.effect)}")
    return lines


def run_document(run: "runs_pb2.RunRecord") -> dict[str, Any]:
    """A run with its stable keys."""
    return {
        "run": run.id,
        "runbook": run.runbook,
        "version": run.version,
        "sha256": run.sha256,
        "params": jsonlib.loads(run.params_json or "{}"),
        "hosts": run.hosts,
        "target": run.target,
        "incident": run.incident_id,
        "operator": run.operator,
        "reason": run.reason,
        "state": run.state,
        "why": run.why,
        "wish": run.wish,
        "position": run.position,
        "driven": run.driven,
        "started_at": output.moment(run.started_at),
        "finished_at": output.moment(run.finished_at),
    }


def move_document(ended: "runs_pb2.MoveEnded") -> dict[str, Any]:
    """A move with its stable keys."""
    return {
        **_move(ended.move),
        "at": output.moment(ended.at),
        "words": ended.words,
        "hosts": [
            {
                "host": host.host,
                "outcome": output.outcome_name(host.outcome),
                "detail": host.detail,
                "reason": host.reason,
                "result": jsonlib.loads(host.result_json or "{}"),
                "evidence": host.evidence_id,
            }
            for host in ended.hosts
        ],
    }


def _key(move: "runs_pb2.RunMove") -> str:
    return f"{move.step}/{move.part}/{move.batch}/{move.attempt}"


def _move(move: "runs_pb2.RunMove") -> dict[str, Any]:
    return {"step": move.step, "part": move.part, "batch": move.batch, "attempt": move.attempt}
