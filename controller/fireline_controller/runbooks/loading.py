"""Where runbooks are: the built-in ones, and those in the state folder. A broken one never hides the others.

Leaves to others: what is in them (reading, checking).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from fireline_controller import profiles
from fireline_controller.model import ConfigError, NotFound
from fireline_controller.runbooks.checking import check
from fireline_controller.runbooks.examined import Known
from fireline_controller.runbooks.model import Runbook
from fireline_controller.runbooks.parsing import MAX_BYTES, Problem, RunbookError
from fireline_wire.actions import ActionSpec, catalogue, nearest

MAX_RUNBOOKS: Final = 1000  # in the state folder


@dataclass(frozen=True)
class Source:
    """A runbook's file. `raw` are its bytes, `file` its name for messages."""

    name: str
    file: str
    raw: bytes
    is_built_in: bool


def built_in() -> tuple[Source, ...]:
    """The runbooks that come with Fireline, by name."""
    package = resources.files("fireline_controller.runbooks") / "builtin"
    entries = sorted((e for e in package.iterdir() if e.name.endswith(".yaml")), key=lambda entry: entry.name)
    return tuple(Source(e.name.removesuffix(".yaml"), f"{e.name} (built in)", e.read_bytes(), True) for e in entries)


def sources(folder: Path) -> tuple[Source, ...]:
    """Every runbook, by name: the built-in ones, and `*.yaml` in a folder, which need not be there.

    Raises:
        ConfigError: the folder can't be read, or holds too many.
    """
    try:
        paths = sorted(folder.glob("*.yaml"))
    except OSError as error:
        raise ConfigError(f"{folder}: can't be read: {error.strerror}") from None
    if len(paths) > MAX_RUNBOOKS:
        raise ConfigError(f"{folder}: wanted at most {MAX_RUNBOOKS} runbooks, found {len(paths)}")
    own = tuple(Source(path.stem, str(path), read_file(path), False) for path in paths)
    return tuple(sorted((*built_in(), *own), key=lambda source: (source.name, not source.is_built_in)))


def read_file(path: Path) -> bytes:
    """The bytes of a runbook's file; of one that is too long no more than is needed to see that.

    Raises:
        ConfigError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None


def find(name: str, folder: Path) -> Source:
    """The runbook of a name.

    Raises:
        NotFound: there is none; the message says the nearest.
        ConfigError: two have it, or the folder can't be read.
    """
    found = [source for source in sources(folder) if source.name == name]
    if not found:
        names = [source.name for source in sources(folder)]
        raise NotFound(f"there is no runbook {name!r}; {nearest(name, names)}")
    if len(found) > 1:
        raise ConfigError(f"{found[1].file}: the name {name!r} is that of a built-in runbook: give it another")
    return found[0]


def load(source: Source, known: Known) -> Runbook:
    """A runbook that was found right.

    Raises:
        RunbookError: it is wrong, or its file has another name than it has itself.
    """
    runbook = check(source.raw, known, file=source.file)
    if runbook.name != source.name:
        message = f"the runbook calls itself {runbook.name!r}, its file says {source.name!r}: make them agree"
        raise RunbookError(source.file, [Problem(1, 1, message)])
    return runbook


def known(profile_folders: Sequence[Path], actions: Mapping[str, ActionSpec] | None = None) -> Known:
    """What runbooks may name: this version's actions, and the built-in profiles and those in the folders.

    Raises:
        ConfigError: a profile is wrong.
    """
    loaded = {name: profiles.load(name, folders=profile_folders) for name in profiles.names(profile_folders)}
    collectors = {name: frozenset(c.name for c in profile.collectors) for name, profile in loaded.items()}
    return Known(catalogue() if actions is None else actions, collectors)
