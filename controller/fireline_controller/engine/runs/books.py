"""Runbooks for runs: found by name, and compiled from the very bytes that a run is pinned to."""

from pathlib import Path
from typing import Final

from fireline_controller.runbooks import checking, loading
from fireline_controller.runbooks.evaluation import CheckedExpressions
from fireline_controller.runbooks.filling import Expressions
from fireline_controller.runbooks.model import Runbook

_KEPT: Final = 16  # compiled runbooks


class Bookshelf:
    """The built-in runbooks, and those in `runbooks` of the state folder. See Books."""

    def __init__(self, folder: Path) -> None:
        self._runbooks = folder / "runbooks"
        self._profiles = (folder / "profiles",)
        self._compiled: dict[bytes, tuple[Runbook, Expressions]] = {}

    def find(self, name: str) -> bytes:
        """See Books."""
        source = loading.find(name, self._runbooks)
        loading.load(source, loading.known(self._profiles))
        return source.raw

    def compile(self, content: bytes, name: str) -> tuple[Runbook, Expressions]:
        """See Books. The last few are kept: whoever watches or goes on with a run asks for the same one."""
        if (found := self._compiled.get(content)) is not None:
            return found
        known = loading.known(self._profiles)
        runbook = checking.check(content, known, file=f"{name}, as its run is pinned to it")
        while len(self._compiled) >= _KEPT:
            del self._compiled[next(iter(self._compiled))]
        found = self._compiled[content] = runbook, CheckedExpressions(runbook, known.catalogue)
        return found
