"""Puts the raw image of a disk together from exported evidence that verifies: one capture of it, or several in parts.

Segments of one host and one source only. Leaves to others: how segments are laid out (fireline_wire.image).
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fireline_controller.model import EvidenceError
from fireline_controller.vault import container
from fireline_controller.vault.receipts import open_manifest
from fireline_controller.vault.verify import VerifyReport, verify_container
from fireline_wire import image
from fireline_wire.image import BadImage, Segment
from fireline_wire.manifest import Artifact
from fireline_wire.transfer import CHUNK_BYTES

_FOLDER = "disk/"


@dataclass(frozen=True)
class Image:
    """What was put together."""

    host: str
    source: str
    size: int
    sha256: str
    segments: int


@dataclass(frozen=True)
class _Piece:
    """A segment with the place of its bytes."""

    host: str
    source: str
    segment: Segment
    path: Path
    offset: int


def assemble(paths: Sequence[Path], ca_pem: bytes, out: Path) -> Image:
    """Verify the containers and write the image that their segments make; nothing is left where they make none.

    Raises:
        EvidenceError: a container does not verify, or the segments make no whole image of one source; the message
            says where the next capture has to go on.
        OSError: a file can't be read or written.
    """
    pieces = [piece for path in paths for piece in _pieces(path, ca_pem)]
    if not pieces:
        raise EvidenceError("there is no whole segment of a disk image in this evidence")
    subjects = sorted({(piece.host, piece.source) for piece in pieces})
    if len(subjects) > 1:
        raise EvidenceError(
            f"segments of several disks: {', '.join(f'{s} on {h}' for h, s in subjects)}; give one disk's"
        )
    # Captured twice, the first of them is taken.
    chosen = {piece.segment.start: piece for piece in reversed(pieces)}
    ordered = [chosen[start] for start in sorted(chosen)]
    try:
        with out.open("xb") as file:
            sha256 = image.assemble(((p.segment, _data(p)) for p in ordered), file)
    except BaseException as error:
        if not isinstance(error, FileExistsError):
            with suppress(OSError):
                out.unlink()
        if isinstance(error, BadImage):
            raise EvidenceError(str(error)) from None
        raise
    [(host, source)] = subjects
    return Image(host, source, ordered[-1].segment.source_size, sha256, len(ordered))


def _pieces(path: Path, ca_pem: bytes) -> Iterator[_Piece]:
    report = verify_container(path, ca_pem)
    if report.problems:
        raise EvidenceError(f"{path}: does not verify: {'; '.join(report.problems[:3])}")
    for evidence in report.evidence:
        signed = _entry(path, report, f"{evidence.id}/{container.MANIFEST}")
        manifest = open_manifest(signed, evidence.host_chain_pem.encode())
        for artifact in manifest.artifacts:
            if artifact.name.startswith(_FOLDER) and artifact.name.endswith(".img") and not artifact.truncated:
                place = report.entries[f"{evidence.id}/{container.ARTIFACTS}{artifact.name}"]
                yield _Piece(manifest.host, artifact.source, _segment(path, artifact), path, place.offset)


def _segment(path: Path, artifact: Artifact) -> Segment:
    try:
        found = Segment.from_facts(artifact.name, artifact.facts)
    except BadImage as error:
        raise EvidenceError(f"{path}: {error}") from None
    if found.data_bytes != artifact.size:
        raise EvidenceError(f"{path}: {artifact.name} holds {artifact.size} bytes and tells of {found.data_bytes}")
    return found


def _entry(path: Path, report: VerifyReport, name: str) -> bytes:
    entry = report.entries[name]
    with path.open("rb") as file:
        file.seek(entry.offset)
        return file.read(entry.size)


def _data(piece: _Piece) -> Iterator[bytes]:
    left = piece.segment.data_bytes
    with piece.path.open("rb") as file:
        file.seek(piece.offset)
        while left and (block := file.read(min(left, CHUNK_BYTES))):
            left -= len(block)
            yield block
