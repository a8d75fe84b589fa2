"""Reads a file of a file system that never answers."""

from pathlib import Path

from fireline_agent.capture.collector import Context, Sink

VERSION = "1"


def collect(context: Context, sink: Sink) -> None:
    """Write `stuck.txt`, then read the file named in the parameters."""
    with sink.artifact("stuck.txt", source="test", method="test") as artifact:
        artifact.write(b"before")
        Path(context.params["path"]).read_bytes()
