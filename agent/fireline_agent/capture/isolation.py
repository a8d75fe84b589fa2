"""Collects what an isolation of this host left: who was connected when it was cut off, the rulesets, what was done.

The files are the agent's own, written by it when it armed, drifted and released. Leaves to others: the rules that are
in force now (firewall), the connections that are open now (sockets).
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from fireline_agent.capture.collector import Absent, Context, Sink
from fireline_agent.capture.params import refuse_unknown

VERSION = "1"

_NAME: Final = re.compile(r"fireline_[0-9a-f]{8}\Z")
_RULESETS: Final = ("before", "during", "after")
_BLOCK_BYTES: Final = 1 << 16


def collect(context: Context, sink: Sink) -> None:
    """Write `isolation/history.jsonl`, `isolation/connections.jsonl`, `isolation/orders.jsonl` and the rulesets.

    Rulesets are `isolation/TABLE/before.nft`, `during.nft` and `after.nft`, as `nft -s list ruleset` writes them.

    Raises:
        Absent: this host was never isolated.
        ValueError: a parameter is unknown.
    """
    refuse_unknown(context.params)
    folder = context.roots.state / "isolation"
    if not folder.is_dir():
        raise Absent(f"this host was never isolated: {folder} is not there")
    _write_lines(sink, "isolation/history.jsonl", [folder / "history.jsonl"])
    _write_lines(sink, "isolation/connections.jsonl", _files(folder, "cut"))
    with sink.artifact("isolation/orders.jsonl", source=str(folder), method="file") as out:
        for path in _files(folder, "json"):
            out.record({"table": path.stem, **_order(path)})
    for path in (path for when in _RULESETS for path in _files(folder, when)):
        _write_ruleset(sink, path)


def _write_lines(sink: Sink, name: str, paths: Sequence[Path]) -> None:
    with sink.artifact(name, source=str(paths[0].parent) if paths else "", method="file") as out:
        for path in paths:
            table = {"table": path.stem} if _NAME.match(path.stem) else {}
            for entry in _lines(path):
                out.record({**table, **entry})


def _write_ruleset(sink: Sink, path: Path) -> None:
    name = f"isolation/{path.stem}/{path.suffix.removeprefix('.')}.nft"
    with sink.artifact(name, source=str(path), method="file") as out, path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            out.write(block)


def _files(folder: Path, kind: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"*.{kind}") if _NAME.match(path.stem))


def _order(path: Path) -> dict[str, Any]:
    """The record without the nonce, which proves a controller until the isolation is confirmed."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        return {"lacks": str(error)}
    return {k: v for k, v in document.items() if k != "nonce_hex"} if isinstance(document, dict) else {}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file; a torn line is told as it is."""
    if not path.exists():
        return
    for raw in path.read_bytes().splitlines():
        try:
            found = json.loads(raw)
        except ValueError:
            found = {"torn": raw.decode(errors="backslashreplace")}
        if isinstance(found, dict):
            yield found
