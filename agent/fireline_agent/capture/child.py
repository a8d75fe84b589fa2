"""What happens inside the forked process of one collector: bind itself, collect, note how it ended, exit.

Leaves to others: when to fork it and when to end it (worker).
"""

import gc
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Final, NoReturn

from fireline_agent.capture.collector import Absent, Context, OutputLimit
from fireline_agent.capture.order import CollectorOrder, Folder, Order
from fireline_agent.capture.sink import FolderSink, clean
from fireline_agent.hands import process
from fireline_agent.hands.cgroup import Group
from fireline_agent.hands.roots import Roots

_NOTES_BYTES: Final = 64 << 20  # a collector's notes and complaints, beside its artifacts
_MAX_DETAIL: Final = 2000  # characters; the manifest takes 4096


class Stop(BaseException):
    """Raised inside a collector whose time is over. No Exception: collectors survive those one by one."""


@dataclass(frozen=True)
class Task:
    """One collector to run in the process that `run` is called in."""

    order: Order
    folder: Folder
    index: int
    module: ModuleType
    # None where the host has no control groups.
    group: Group | None
    output_bytes: int
    max_artifacts: int
    max_findings: int

    @property
    def collector(self) -> CollectorOrder:
        """What was ordered of this collector."""
        return self.order.collectors[self.index]


def run(task: Task) -> NoReturn:
    """Run the collector and end the process, whatever happens; how it ended stands in its notes."""
    status = 1
    try:
        _leave_parent()
        sink = FolderSink(
            task.folder,
            task.index,
            limit_bytes=task.output_bytes,
            max_artifacts=task.max_artifacts,
            max_findings=task.max_findings,
        )
        _confine(task, sink)
        outcome, detail = _collect(task, sink)
        sink.note("result", status=outcome, detail=clean(detail, _MAX_DETAIL))
        status = 0
    except BaseException:  # noqa: BLE001 -- the edge of the process: nothing above but the parent's stack
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        # No exit handlers and no flushing: those are the parent's.
        os._exit(status)


def _leave_parent() -> None:
    """Undo what the parent set up for itself."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _stop)
    # Neither the life-line nor the progress may be held open or written by a collector's children.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    gc.enable()
    process.die_with_parent()


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Stop


def _confine(task: Task, sink: FolderSink) -> None:
    group = task.group
    if group is not None:
        try:
            group.join()
        except OSError as error:
            sink.note("lack", sentence=f"cgroup: {task.collector.name} ran outside its group ({error})")
            group = None
    binds_memory = group is not None and "memory" in group.folders
    process.yield_to_others()
    process.limit(
        file_bytes=task.output_bytes + _NOTES_BYTES,
        address_bytes=None if binds_memory else task.collector.limits.memory_bytes,
    )


def _collect(task: Task, sink: FolderSink) -> tuple[str, str]:
    """Run the collector; returns its status and a sentence on it."""
    order = task.order
    context = Context(
        params=task.collector.params,
        roots=Roots(docker_socket=Path(order.docker_socket), state=Path(order.state)),
        clock_offset_ns=order.clock_offset_ns,
        clock_round_trip_ns=order.clock_round_trip_ns,
        agent_pid=order.agent_pid,
        output_bytes=task.output_bytes,
        deadline_s=task.collector.limits.deadline_s,
    )
    try:
        task.module.collect(context, sink)
    except Absent as error:
        return "absent", str(error)
    except OutputLimit as error:
        return "failed", str(error)
    except Stop:
        return "failed", "told to end"  # the parent knows why and says so
    except Exception as error:  # noqa: BLE001 -- a collector's fault is a finding about the collector, never more
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {error}"
    return "ok", ""
