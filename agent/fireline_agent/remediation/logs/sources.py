"""Which logs an action reads, and one pass over all of them within the time that it has.

Leaves to others: files and engines (hands.log_files), what is looked for.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fireline_agent.hands import docker, log_files
from fireline_agent.hands.log_files import Source
from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import ActionError, Params, Tools
from fireline_wire.actions import Kind, Parameter, Result

_MAX_ROWS: Final = 200
_SIGNS: Final = re.compile(r"[*?\[]")  # glob(7)
_TOLD_EVERY_BYTES: Final = 1 << 28

PARAMETERS: Final = (
    Parameter("paths", Kind.PATHS, "files, patterns as /var/log/shop/*.log, or folders with all below", default=[]),
    Parameter("containers", Kind.TEXTS, "names or Compose services whose logs are read as well", default=[]),
    Parameter("rotated", Kind.BOOL, "also what was rotated away, compressed or not", default=True),
    Parameter("written_within", Kind.DURATION, "only files that were written to within this time; 0: all", default=0),
    Parameter("within", Kind.DURATION, "stop after this time with what is known by then", default=90, least=1),
)
RESULTS: Final = (
    Result("sources", Kind.ROWS, "source, bytes: what was read; at most 200"),
    Result("read_bytes", Kind.INT, "after decompression"),
    Result("is_complete", Kind.BOOL, "everything was read, within the time"),
)


@dataclass
class Pass:
    """What one pass has read, and what it could not."""

    read_bytes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    is_complete: bool = True

    def facts(self) -> dict[str, Any]:
        """As JSON values."""
        rows = [{"source": name, "bytes": count} for name, count in self.read_bytes.items()]
        return {
            "sources": rows[:_MAX_ROWS],
            "source_count": len(rows),
            "read_bytes": sum(self.read_bytes.values()),
            "is_complete": self.is_complete and not self.problems,
            "problems": self.problems[:20],
        }


# Told each block: the source, the buffer, where the new lines in it begin and end.
Look = Callable[[Source, bytearray, int, int], None]


def read(tools: Tools, params: Params, look: Look, *, lines_before: int = 0) -> Pass:
    """Go over all lines of the logs that the parameters name, once; the oldest part of each first.

    A log that can't be read, or not to its end, keeps none of the others.

    Raises:
        ActionError: nothing fits.
    """
    done = Pass()
    until = time.monotonic() + params["within"]
    told_bytes = 0
    for source in found(tools, params):
        done.read_bytes.setdefault(source.name, 0)
        try:
            with source.opened() as file:
                for buffer, begin, end in log_files.blocks(file, lines_before=lines_before):
                    look(source, buffer, begin, end)
                    done.read_bytes[source.name] += end - begin
                    told_bytes += end - begin
                    if told_bytes >= _TOLD_EVERY_BYTES:
                        told_bytes = 0
                        tools.tell(f"{source.where}: {sum(done.read_bytes.values()) >> 20} MiB read in all")
                    if time.monotonic() > until:
                        done.is_complete = False
                        done.problems.append(f"stopped in {source.where} after {params['within']} s")
                        return done
        except log_files.READ_ERRORS as error:
            done.problems.append(f"{source.where}: {printable(str(error))}")
    return done


def found(tools: Tools, params: Params) -> Sequence[Source]:
    """The logs.

    Raises:
        ActionError: there are none, or no engine is there to ask for containers'; or the host's policy forbids it.
    """
    if not params["paths"] and not params["containers"]:
        raise ActionError("no logs are named: give `paths` or `containers`", reason="refused")
    since = time.time() - params["written_within"] if params["written_within"] else 0.0
    patterns = [str(tools.roots.root / path.lstrip("/")) for path in params["paths"]]
    for path in params["paths"]:
        if not tools.allows_reading(_fixed(path)):
            raise ActionError(
                f"this host's policy does not allow logs below {_fixed(path)} to be read", reason="denied"
            )
    allows = tools.allows_reading
    sources = log_files.files(patterns, is_rotated=params["rotated"], since=since, allows=allows)
    if params["containers"]:
        try:
            sources += log_files.containers(tools.roots, params["containers"])
        except (docker.EngineAbsent, docker.EngineError) as error:
            raise ActionError(f"logs of containers: {error}", reason="unsupported") from None
    if not sources:
        named = ", ".join(map(printable, [*params["paths"], *params["containers"]]))
        raise ActionError(f"no log is there: looked for {named}", reason="not_found")
    return sources


def _fixed(pattern: str) -> str:
    """The part of a pattern before the first sign that stands for several names."""
    fixed = _SIGNS.split(pattern, maxsplit=1)[0]
    return fixed if fixed == pattern else fixed.rpartition("/")[0] or "/"
