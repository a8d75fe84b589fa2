"""The door to the nft program: put one transaction in force, list what is there.

The program, not libnftables: it is on hosts that have no library for Python, and its end does not end the agent. It
acts in the network namespace of the calling thread. Leaves to others: what the rules are, reading rulesets as evidence
(nftables). Source: nft(8).
"""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# Never PATH: on a suspect host another program may stand there.
PLACES: Final = (Path("/usr/sbin/nft"), Path("/sbin/nft"), Path("/usr/local/sbin/nft"), Path("/usr/bin/nft"))
_TIMEOUT_S: Final = 10.0  # 10,000 rules are listed in a quarter of a second
_MAX_COMPLAINT: Final = 600  # characters of what nft says
_ENVIRONMENT: Final = {"LANG": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


class NftError(Exception):
    """nft refused or did not answer, and nothing was changed; the message is its own complaint, shortened."""


@dataclass(frozen=True)
class Nft:
    """The program at a place. Every method blocks for at most ten seconds and raises NftError."""

    path: Path

    def apply(self, transaction: str) -> None:
        """Put all of it in force in one kernel transaction, or nothing."""
        self._run("-f", "-", text=transaction)

    def ruleset(self) -> str:
        """Every rule in this network namespace, without counters and what is left of time-outs (`-s`)."""
        return self._run("-s", "list", "ruleset")

    def tables(self) -> list[tuple[str, str]]:
        """The (family, name) of every table."""
        return [
            (str(entry["table"]["family"]), str(entry["table"]["name"]))
            for entry in self._json("list", "tables")
            if "table" in entry
        ]

    def written(self, family: str, name: str) -> str:
        """A table as `ruleset` writes it."""
        return self._run("-s", "list", "table", family, name)

    def table(self, family: str, name: str) -> list[dict[str, Any]]:
        """The parts of a table as libnftables-json(5) has them, with counters and what is left of time-outs."""
        return self._json("list", "table", family, name)

    def version(self) -> str:
        """As `1.0.6`; empty where the program does not say."""
        words = self._run("--version").split()
        return words[1].removeprefix("v") if len(words) > 1 else ""

    def _json(self, *arguments: str) -> list[dict[str, Any]]:
        answer = self._run("-j", *arguments)
        try:
            found = json.loads(answer)["nftables"] if answer.strip() else []
        except (ValueError, KeyError, TypeError, RecursionError):
            raise NftError(f"{self.path} {' '.join(arguments)}: wanted JSON, found something else") from None
        return [entry for entry in found if isinstance(entry, dict)]

    def _run(self, *arguments: str, text: str = "") -> str:
        try:
            ended = subprocess.run(
                (str(self.path), *arguments),
                input=text.encode(),
                capture_output=True,
                timeout=_TIMEOUT_S,
                cwd="/",
                env=_ENVIRONMENT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NftError(f"{self.path} did not end within {_TIMEOUT_S:g} s") from None
        except OSError as error:
            raise NftError(f"{self.path} can't be started: {error.strerror}") from None
        if ended.returncode != 0:
            complaint = " ".join(ended.stderr.decode(errors="replace").split())
            raise NftError(f"{self.path}: {complaint[:_MAX_COMPLAINT] or f'exit status {ended.returncode}'}")
        return ended.stdout.decode(errors="backslashreplace")


def find(places: Sequence[Path] = PLACES) -> Nft | None:
    """The program on this host, or None where it is missing."""
    return next((Nft(place) for place in places if os.access(place, os.X_OK)), None)
