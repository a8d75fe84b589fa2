"""Writes a little and then sleeps for ever; deaf to SIGTERM if told so."""

import signal
import time

from fireline_agent.capture.collector import Context, Sink

VERSION = "1"


def collect(context: Context, sink: Sink) -> None:
    """Write `hang.txt` and hang."""
    if context.params.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with sink.artifact("hang.txt", source="test", method="test") as artifact:
        artifact.facts["is_open"] = True
        for _ in range(100_000):
            artifact.write(b"tick\n" * 20_000)
            time.sleep(0.3)
