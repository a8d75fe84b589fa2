"""The process that plans, applies or takes back one action, and ends. Its standard output is lines of JSON.

It is bound by a control group, dies with the agent, and works in the host's own mount namespace. Standard input brings
the order and the host's means, a line each, and later the word to stop. Leaves to others: deadlines, and how the end
of a process is told that was killed (runner).
"""

import json
import os
import resource
import select
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands import process
from fireline_agent.hands.cgroup import Group
from fireline_agent.hands.printable import printable
from fireline_agent.hands.roots import Roots
from fireline_agent.policy import is_below
from fireline_agent.remediation import applying
from fireline_agent.remediation.action import Action, ActionError, Change, Plan, Tools, load
from fireline_agent.remediation.order import APPLY, PLAN, UNDO, Means, Order, key
from fireline_agent.remediation.record import RecordFile, Written, ending
from fireline_wire.actions import MAX_RESULT_BYTES, BadValue, bounded

_TOLD_EVERY_S: Final = 0.2
_MAX_SENTENCE: Final = 4000  # characters of what is told of an end
_MAX_TEXT: Final = 1000  # characters of one text of a plan
_MAX_WARNINGS: Final = 100
_MAX_IN_DOUBT: Final = 200
_END_RESULT_BYTES: Final = 64 << 10  # a host remembers it with the request id
_SPARE_ADDRESS_BYTES: Final = 512 << 20  # what the interpreter and its libraries map
_REASONS: Final = {"not_found": "not_found", "unsupported": "unsupported", "denied": "policy_denied"}


@dataclass
class _Progress:
    """Tells how far it is, not more often than a person can read."""

    say: Callable[[Mapping[str, Any]], None]
    done: int = 0
    count: int = 0
    told_s: float = 0.0

    def tell(self, doing: str) -> None:
        """A sentence on what is done now."""
        self.told_s = time.monotonic()
        self.say({"event": "progress", "done": self.done, "count": self.count, "doing": printable(doing)})

    def tell_sometimes(self, doing: str) -> None:
        """The same, where nothing was told for a while."""
        if time.monotonic() - self.told_s >= _TOLD_EVERY_S:
            self.tell(doing)


@dataclass
class _Told:
    """A record that also tells its progress and remembers what it holds."""

    file: RecordFile
    written: Written
    progress: _Progress
    current: dict[int, Change] = field(default_factory=dict)

    def planned(self, plan: Plan) -> None:
        """See Record."""
        self.file.planned(plan)
        self.written.is_planned, self.written.count = True, len(plan.changes)
        self.progress.count = len(plan.changes)

    def starting(self, index: int, change: Change) -> None:
        """See Record."""
        self.file.starting(index, change)
        self.current[index] = change
        self.progress.tell_sometimes(change.does)

    def done(self, index: int, kept: Mapping[str, Any]) -> None:
        """See Record."""
        self.file.done(index, kept)
        self.written.done[index] = applying.Done(self.current.pop(index), kept)
        self.progress.done += 1

    def failed(self, index: int, why: str) -> None:
        """See Record."""
        self.file.failed(index, why)
        self.current.pop(index, None)


class _Stop:
    """Whether the agent said to stop, and its word for why; looked at between two changes."""

    def __init__(self) -> None:
        self.word: dict[str, str] = {}

    def is_said(self) -> bool:
        """Look once."""
        if not self.word and select.select([0], [], [], 0)[0]:
            raw = os.read(0, 1 << 16)
            self.word = json.loads(raw) if raw else {"status": "interrupted", "why": "the agent ended"}
        return bool(self.word)


def run(order: Order, means: Means, say: Callable[[Mapping[str, Any]], None]) -> None:
    """Do what was ordered and say how it went; what an action raises by its own fault ends here."""
    try:
        action = load(order.action)
        if order.kind != UNDO:
            order = replace(order, params=action.spec.check(order.params))
        if order.kind == PLAN:
            say(_plan(action, order, means, say))
        elif order.kind == APPLY:
            _apply(action, order, means, say)
        else:
            _undo(action, order, means, say)
    except BadValue as error:
        say(_refused("invalid_request", str(error)))
    except ActionError as error:
        say(_refused(_REASONS.get(error.reason, "action_refused"), str(error)))
    except applying.PlanChanged as error:
        say(_refused("plan_changed", f"{error}; now it would be: {error.plan.summary}"))


def _plan(action: Action, order: Order, means: Means, say: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
    lack = process.enter_host_mounts()
    plan = applying.planned(action, _tools(order, means, _Progress(say)), order.params)
    document = plan.to_document()
    for change in document["changes"]:
        for name in ("kind", "subject", "does"):
            change[name] = printable(change[name], limit=_MAX_TEXT)
    warned = [*([lack] if lack else []), *document["warnings"]]
    warnings = [printable(text, limit=_MAX_TEXT) for text in warned[:_MAX_WARNINGS]]
    return {
        "event": "planned",
        **document,
        "summary": printable(document["summary"], limit=_MAX_TEXT),
        "warnings": warnings,
        "result": bounded(document["result"], MAX_RESULT_BYTES),
        "plan_sha256": plan.sha256(order.action, order.params),
        "risk": action.spec.risk,
    }


def _apply(action: Action, order: Order, means: Means, say: Callable[[Mapping[str, Any]], None]) -> None:
    progress, stop = _Progress(say), _Stop()
    file = RecordFile(Path(means.records) / key(order.request_id), is_bulk=action.is_bulk)
    told = _Told(file, Written(order), progress)
    _enter()
    try:
        applied = applying.apply(
            action,
            _tools(order, means, progress),
            order.params,
            plan_sha256=order.plan_sha256,
            record=told,
            is_stopped=stop.is_said,
        )
    except (ActionError, applying.PlanChanged):
        raise
    except Exception as error:  # noqa: BLE001 -- an action's fault ends here, on record
        traceback.print_exc()
        doubt = [change.subject for change in told.current.values()]
        end: Mapping[str, Any] = ending(told.written, "failed", _fault(error), in_doubt=_short(doubt))
    else:
        end = _ended(told.written, applied, stop)
    file.ended(end)
    say({"event": "ended", **end})


def _ended(written: Written, applied: applying.Applied, stop: _Stop) -> Mapping[str, Any]:
    said = applied.verified.sentence
    status = "ok" if applied.verified.is_good else stop.word.get("status", "failed")
    why = f"{stop.word['why']}: " if stop.word and not applied.verified.is_good else ""
    return ending(
        written,
        status,
        printable(f"{why}{applied.error or said}", limit=_MAX_SENTENCE),
        verified="" if applied.error else printable(said, limit=_MAX_SENTENCE),
        result=bounded(applied.result, _END_RESULT_BYTES),
    )


def _undo(action: Action, order: Order, means: Means, say: Callable[[Mapping[str, Any]], None]) -> None:
    folder = Path(means.records)
    applied_folder = folder / key(order.applied)
    before = Written.read(applied_folder)
    own, theirs = RecordFile(folder / key(order.request_id)), RecordFile(applied_folder)
    _enter()
    numbers = sorted(before.done)
    progress, stop, said = _Progress(say, count=len(numbers)), _Stop(), list[str]()
    written = Written(order, is_planned=True, count=len(numbers))

    def undone(index: int, sentence: str) -> None:
        number = numbers[index]
        theirs.undone(number, sentence)
        written.done[number] = before.done[number]
        said.append(sentence)
        progress.done += 1
        progress.tell_sometimes(sentence)

    own.write({"event": "planned", "count": len(numbers), "summary": f"undo of {order.applied}"}, is_synced=True)
    # The folder where things were put aside is named by the application.
    tools = _tools(order, means, progress, request_id=order.applied)
    left: list[str] = []
    for index in reversed(range(len(numbers))):
        if stop.is_said():
            break
        left += _undo_one(action, tools, before.done[numbers[index]], partial(undone, index))
    end = _undone(written, said, left, before, stop)
    own.ended(end)
    say({"event": "ended", **end})


def _undo_one(action: Action, tools: Tools, done: applying.Done, on_undone: Callable[[str], None]) -> list[str]:
    try:
        return applying.undo(action, tools, (done,), lambda _index, sentence: on_undone(sentence))
    except Exception as error:  # noqa: BLE001 -- one that can't be taken back keeps none of the others
        traceback.print_exc()
        return [f"{done.change.subject}: {_fault(error)}"]


def _undone(written: Written, said: list[str], left: list[str], before: Written, stop: _Stop) -> Mapping[str, Any]:
    doubtful = [*left, *before.in_doubt]
    counted = f"{len(said)} of {written.count} changes were taken back"
    status = stop.word.get("status", "failed" if doubtful else "ok")
    why = f"{stop.word['why']}: " if stop.word else ""
    sentences = "; ".join([*left[:5], *said[:5]])
    detail = printable(f"{why}{counted}{': ' if sentences else ''}{sentences}", limit=_MAX_SENTENCE)
    return ending(written, status, detail, verified=detail, can_undo=False, in_doubt=_short(doubtful))


def _tools(order: Order, means: Means, progress: _Progress, *, request_id: str = "") -> Tools:
    return Tools(
        roots=Roots(docker_socket=Path(means.docker_socket), state=Path(means.state)),
        request_id=request_id or order.request_id,
        tell=progress.tell,
        allows_path=lambda path: _allows(means, means.writable, path),
        allows_reading=lambda path: _allows(means, means.readable, path),
    )


def _allows(means: Means, allowed: Sequence[str], path: str) -> bool:
    """Both the path as it is spelt and the place that it leads to."""
    spellings = (path, os.path.realpath(path))
    is_inside = all(any(is_below(spelt, folder) for folder in allowed) for spelt in spellings)
    return is_inside and not any(is_below(spelt, folder) for spelt in spellings for folder in means.forbidden)


def _refused(reason: str, message: str) -> Mapping[str, Any]:
    return {"event": "refused", "reason": reason, "message": printable(message, limit=_MAX_SENTENCE)}


def _fault(error: Exception) -> str:
    """Its text may hold anything of the host: that stands in the agent's log."""
    return f"a fault in the action ({type(error).__name__}); the agent's log on the host explains it"


def _short(subjects: list[str]) -> list[str]:
    return [printable(subject) for subject in subjects[:_MAX_IN_DOUBT]]


def _enter() -> None:
    """Leave the agent's sandbox: actions work on the host as it is."""
    if lack := process.enter_host_mounts():
        print(lack, file=sys.stderr)  # noqa: T201 -- complaints go to the agent's log


def _confine(order: Order, means: Means) -> None:
    process.die_with_parent()
    if os.getppid() != means.agent_pid:
        sys.exit("the agent ended before its action began")
    group = means.hierarchy.group(order.group)
    if means.hierarchy.kind != "none":
        group.join()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not _binds_memory(group):
        most = means.memory_bytes + _SPARE_ADDRESS_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _binds_memory(group: Group) -> bool:
    return "memory" in group.folders


def main() -> None:
    """Read the order and the means, and do it."""
    # Unbuffered: the word to stop may follow at once, and is waited for on the descriptor.
    with os.fdopen(0, "rb", buffering=0, closefd=False) as asked:
        order, means = Order.from_json(asked.readline()), Means.from_json(asked.readline())
    # What an action or a library prints must not be taken for a line of ours.
    lines = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def say(event: Mapping[str, Any]) -> None:
        lines.write(json.dumps(event).encode() + b"\n")
        lines.flush()

    _confine(order, means)
    run(order, means, say)


if __name__ == "__main__":
    main()
