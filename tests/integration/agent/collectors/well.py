"""Writes two artifacts and a finding, as it should."""

from fireline_agent.capture.collector import Context, Sink

VERSION = "7"


def collect(context: Context, sink: Sink) -> None:
    """Write `well/PARAM.txt` and `well/big.bin`."""
    with sink.artifact(f"well/{context.params.get('name', 'a')}.txt", source="/proc/x", method="test") as artifact:
        artifact.write(b"hello ")
        artifact.record({"n": 1})
        artifact.facts["bytes"] = "\udcff"
    with sink.artifact("well/big.bin", source="memory", method="test") as artifact:
        artifact.write(b"x" * (5 << 19))
    sink.finding("warning", "test-finding", "a\udcffb", "s" * 2000)
