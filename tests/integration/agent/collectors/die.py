"""Ends in the way it is told: by an exception, by a signal, by leaving."""

import os
import signal
import sys

from fireline_agent.capture.collector import Absent, Context, Sink

VERSION = "1"


def collect(context: Context, sink: Sink) -> None:
    """Write some of `die.txt`, then end."""
    with sink.artifact("die.txt", source="test", method="test") as artifact:
        artifact.write(b"first words" * 10_000)
        how = context.params["how"]
        if how == "raise":
            raise LookupError("nothing \udcff there")
        if how == "absent":
            raise Absent("no such thing in /x")
        if how == "signal":
            os.kill(os.getpid(), signal.SIGSEGV)
        if how == "exit":
            sys.exit(3)
        os._exit(4)
