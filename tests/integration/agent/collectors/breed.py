"""Forks children that eat: CPU, memory, or the table of processes; or only stay behind."""

import os
import time

from fireline_agent.capture.collector import Context, Sink

VERSION = "1"


def collect(context: Context, sink: Sink) -> None:
    """Fork children that do as told, and wait for them or leave them behind."""
    what = context.params["what"]
    with sink.artifact("breed.txt", source="test", method="test") as artifact:
        for _ in range(context.params.get("count", 1)):
            artifact.record({"pid": _child(what)})
        if what == "memory":
            artifact.record({"status": os.wait()[1]})
        elif what == "cpu":
            time.sleep(context.params["s"])


def _child(what: str) -> int:
    try:
        pid = os.fork()
    except BlockingIOError:
        return 0
    if pid:
        return pid
    os.setsid()
    if what == "leave" and os.fork():
        os._exit(0)
    hoard = []
    while what == "memory":
        hoard.append(bytearray(os.urandom(1 << 20)))
    while what == "cpu":
        sum(range(1000))
    time.sleep(600)
    os._exit(0)
