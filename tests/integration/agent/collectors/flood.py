"""Writes without end: bytes, artifacts or findings."""

from fireline_agent.capture.collector import Context, Sink

VERSION = "1"


def collect(context: Context, sink: Sink) -> None:
    """Write until stopped."""
    what = context.params["what"]
    number = 0
    while what == "artifacts":
        with sink.artifact(f"flood/{number}", source="test", method="test"):
            number += 1
    if what == "findings":
        for number in range(5000):
            sink.finding("notice", "flood", str(number), "again")
        return
    with sink.artifact("flood.bin", source="test", method="test") as artifact:
        while True:
            artifact.write(b"z" * 100_000)
