"""Verify a container offline: every bit of it against signatures, and those against the authority's certificate.

Reads once from start to end and holds no artifact. Goes on after a problem where it can, so that each is named;
after `MAX_PROBLEMS` it stops. Needs no store, no vault and no network.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

from fireline_controller.model import Evidence, EvidenceError
from fireline_controller.vault import container, receipts, statements, tar
from fireline_wire.manifest import Artifact
from fireline_wire.transfer import CHUNK_BYTES

MAX_PROBLEMS: Final = 100

# What is read into memory may not be larger: a chain, a receipt, a README; a manifest's envelope; a seal over as many
# artifacts as one manifest may have, several times.
_SMALL_BYTES: Final = 1 << 20
_ENVELOPE_BYTES: Final = 96 << 20
_LINE_BYTES: Final = 2 << 20


@dataclass(frozen=True)
class VerifyReport:
    """What was found. Without problems, all that the container holds is as it was sealed at `sealed_at`.

    `entries` says where each of its files is.
    """

    problems: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    artifacts: int
    total_bytes: int
    sealed_at: datetime | None
    entries: Mapping[str, tar.Entry] = field(repr=False)


def verify_container(path: Path, ca_pem: bytes) -> VerifyReport:
    """Verify the file that `export` wrote. Blocks for about as long as two SHA-256 over it take.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        return _Verification(file, ca_pem).report()


class _TooMany(Exception):
    """There are more problems than anybody reads."""


@dataclass
class _Folder:
    """The evidence that is being read: its three small files, then what is still to come of its artifacts."""

    name: str = ""
    parts: dict[str, bytes] = field(default_factory=dict)
    is_open: bool = False
    to_come: dict[str, Artifact] = field(default_factory=dict)


class _Verification:
    def __init__(self, file: BinaryIO, ca_pem: bytes) -> None:
        self._reader = tar.Reader(file)
        self._ca_pem = ca_pem
        self._problems: list[str] = []
        self._blamed: set[str] = set()
        self._folder = _Folder()
        self._evidence: list[Evidence] = []
        self._witnessed: dict[int, str] = {}
        self._entries: dict[str, tar.Entry] = {}
        self._digests: list[tuple[str, str]] = []
        self._sealed_at: datetime | None = None

    def report(self) -> VerifyReport:
        try:
            self._read()
        except _TooMany:
            self._problems.append("there are more problems; the rest was not looked at")
        return VerifyReport(
            problems=tuple(self._problems),
            evidence=tuple(self._evidence),
            artifacts=sum(e.artifacts for e in self._evidence),
            total_bytes=sum(e.total_bytes for e in self._evidence),
            sealed_at=self._sealed_at,
            entries=self._entries,
        )

    def _read(self) -> None:
        try:
            for entry in self._reader.entries():
                if entry.name in self._entries:
                    self._blame(entry.name, "is there twice")
                self._entries[entry.name] = entry
                self._take(entry)
        except EvidenceError as error:
            self._note(str(error))
            return  # where the next entry begins is not known
        self._leave()
        if container.SEAL not in self._entries:
            self._blame(container.SEAL, "is missing: nobody answers for this file")
        elif next(reversed(self._entries)) != container.SEAL:
            self._note("there is something after the seal")

    def _take(self, entry: tar.Entry) -> None:
        folder, _, part = entry.name.partition("/")
        if folder != self._folder.name:
            self._leave()
            self._folder = _Folder(folder)
        if entry.name == container.SEAL:
            self._seal(entry)
        elif part in (container.HOST_CHAIN, container.RECEIPT, container.MANIFEST):
            self._part(entry, part)
        elif part.startswith(container.ARTIFACTS):
            self._artifact(entry, part.removeprefix(container.ARTIFACTS))
        elif entry.name == container.JOURNAL:
            self._journal(entry)
        else:
            self._digest(entry)
            if entry.name != container.README:
                self._blame(entry.name, "does not belong into a container: it was added")

    def _digest(self, entry: tar.Entry) -> None:
        whole = hashlib.sha256()
        for data in self._reader.content(entry, piece_bytes=CHUNK_BYTES):
            whole.update(data)
        self._digests.append((entry.name, whole.hexdigest()))

    def _small(self, entry: tar.Entry, limit: int) -> bytes:
        if entry.size > limit:
            raise EvidenceError(f"{entry.name}: it has {entry.size} bytes, at most {limit} are read")
        return b"".join(self._reader.content(entry, piece_bytes=CHUNK_BYTES))

    def _part(self, entry: tar.Entry, part: str) -> None:
        data = self._small(entry, _ENVELOPE_BYTES if part == container.MANIFEST else _SMALL_BYTES)
        self._digests.append((entry.name, hashlib.sha256(data).hexdigest()))
        self._folder.parts[part] = data
        if part == container.MANIFEST:
            self._open(self._folder)

    def _open(self, folder: _Folder) -> None:
        """Check manifest, receipt and certificate; they stand before the artifacts, the manifest last."""
        wanted = (container.MANIFEST, container.RECEIPT, container.HOST_CHAIN)
        signed, receipt, host_chain = (folder.parts.get(name, b"") for name in wanted)
        try:
            evidence, manifest = receipts.check(signed, receipt, host_chain, self._ca_pem)
            seq, digest = receipts.witnessed(receipt, self._ca_pem)
        except EvidenceError as error:
            self._blamed.add(f"{folder.name}/{str(error).partition(':')[0]}")
            self._note(f"{folder.name}/{error}")
            return
        if evidence.id != folder.name:
            self._note(f"{folder.name}: its manifest is that of {evidence.id}")
        self._evidence.append(evidence)
        self._witnessed |= {manifest.journal_seq: manifest.journal_hash, seq: digest}
        folder.is_open, folder.to_come = True, {a.name: a for a in manifest.artifacts}

    def _leave(self) -> None:
        """Name what the folder that is over should have had."""
        folder = self._folder
        if folder.parts and container.MANIFEST not in folder.parts:
            self._blame(f"{folder.name}/{container.MANIFEST}", "is missing")
        for name in folder.to_come:
            self._blame(f"{folder.name}/{container.ARTIFACTS}{name}", "is missing: the manifest names it")

    def _artifact(self, entry: tar.Entry, name: str) -> None:
        artifact = self._folder.to_come.pop(name, None)
        if artifact is not None:
            self._compare(entry, artifact)
            return
        self._digest(entry)
        if self._folder.is_open:
            self._blame(entry.name, "is not in the manifest: it was added")
        elif container.MANIFEST not in self._folder.parts:
            self._blame(entry.name, "does not follow on its manifest")

    def _compare(self, entry: tar.Entry, artifact: Artifact) -> None:
        whole = hashlib.sha256()
        for index, data in enumerate(self._reader.content(entry, piece_bytes=CHUNK_BYTES)):
            whole.update(data)
            if index >= len(artifact.chunks) or hashlib.sha256(data).hexdigest() != artifact.chunks[index]:
                self._blame(entry.name, f"chunk {index} (from byte {index * CHUNK_BYTES}) does not match the manifest")
        self._digests.append((entry.name, whole.hexdigest()))
        if whole.hexdigest() != artifact.sha256:
            self._blame(entry.name, "does not match the manifest's SHA-256")

    def _journal(self, entry: tar.Entry) -> None:
        whole = hashlib.sha256()
        last_seq, last_hash = 0, ""
        for raw in self._lines(entry):
            whole.update(raw)
            digest = hashlib.sha256(raw[:-1]).hexdigest()
            seq, previous = _seq_and_previous(raw)
            if seq <= last_seq or (seq == last_seq + 1 and last_hash and previous != last_hash):
                self._blame(entry.name, f"line {seq} does not follow on line {last_seq}")
            if digest != self._witnessed.get(seq, digest):
                self._blame(entry.name, f"line {seq} is not the one that a host or a receipt was a witness of")
            last_seq, last_hash = seq, digest
        self._digests.append((entry.name, whole.hexdigest()))

    def _lines(self, entry: tar.Entry) -> Iterator[bytes]:
        rest = b""
        for data in self._reader.content(entry, piece_bytes=CHUNK_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            yield from (line + b"\n" for line in lines)
            if len(rest) > _LINE_BYTES:
                break
        if rest:
            raise EvidenceError(f"{entry.name}: a line of it is too long, or has no end")

    def _seal(self, entry: tar.Entry) -> None:
        try:
            seal = statements.verify(self._small(entry, _ENVELOPE_BYTES), container.SEAL_KIND, self._ca_pem)
        except EvidenceError as error:
            self._blame(entry.name, str(error))
            return
        self._sealed_at = seal.at
        if list(seal.subjects) == self._digests:
            return
        sealed, found = dict(seal.subjects), dict(self._digests)
        for name in sealed.keys() - found.keys():
            self._blame(name, "is missing: the seal names it")
        for name in found.keys() - sealed.keys():
            self._blame(name, "is not in the seal: it was added")
        for name in (n for n in sealed.keys() & found.keys() if sealed[n] != found[n]):
            self._blame(name, "does not match the seal")
        if not self._problems:
            self._note("the entries are in another order than the seal says")

    def _blame(self, name: str, what: str) -> None:
        """Note a problem of an entry, one for each entry: the first says most."""
        if name not in self._blamed:
            self._blamed.add(name)
            self._note(f"{name} {what}" if what.startswith(("is ", "does ")) else f"{name}: {what}")

    def _note(self, problem: str) -> None:
        self._problems.append(problem)
        if len(self._problems) >= MAX_PROBLEMS:
            raise _TooMany


def _seq_and_previous(raw: bytes) -> tuple[int, str]:
    try:
        line = json.loads(raw)
        return int(line["seq"]), str(line["prev"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        raise EvidenceError(f"journal.jsonl: {raw[:60]!r} is no journal line") from None
