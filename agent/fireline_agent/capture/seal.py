"""Seal a capture: hash what a killed collector left open, build the manifest, sign it with the host's key.

Runs in a process of its own, so that neither the signing libraries nor a manifest of many artifacts weigh on the agent.
It is started with the capture, has everything imported when the work ends, and then reads one line from standard input:
a JSON object with `partial_reason`. The same call seals what a crash left behind, and if
the agent dies meanwhile it seals by itself. The answer is the file `sealed.json`.
"""

import errno
import fcntl
import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fireline_agent.capture.order import Folder, Order, lines, timestamp
from fireline_agent.capture.sink import Digests
from fireline_agent.hands import facts
from fireline_agent.hands.facts import Facts
from fireline_wire import durable, envelope
from fireline_wire.manifest import MAX_ARTIFACTS, PAYLOAD_TYPE, Artifact, CollectorRun, Finding, Manifest

_WORKER_END_S: Final = 3.0  # a worker whose agent died ends within its two graces
_SYNC_THREADS: Final = 8  # files are made durable together: the file system then needs few commits
_READ_BYTES: Final = 1 << 20
_UNKNOWN_TIME: Final = "1970-01-01T00:00:00.000000Z"


def seal(folder: Folder, key: EllipticCurvePrivateKey, *, partial_reason: str, machine: Facts) -> None:
    """Write the signed manifest and the answer, durably; a capture that is sealed already stays as it is.

    Args:
        folder: the capture; its worker has ended.
        key: the host's key.
        partial_reason: why not everything that was ordered could run; empty where it could.
        machine: what this host is.
    """
    if folder.sealed.exists():
        return
    order = Order.from_json(folder.order.read_bytes())
    progress = lines(folder.progress)
    notes = {index: lines(folder.notes(index)) for index in range(len(order.collectors))}
    artifacts, files = _artifacts(folder, order, notes)
    manifest = Manifest(
        host=order.host,
        request_id=order.request_id,
        operation_id=order.operation_id,
        incident_id=order.incident_id,
        operator=order.operator,
        reason=order.reason,
        profile=order.profile,
        agent_version=order.agent_version,
        boot_id=machine.boot_id,
        machine_id=machine.machine_id,
        started_at=order.started_at,
        ended_at=timestamp(time.time()),
        clock_offset_ns=order.clock_offset_ns,
        clock_round_trip_ns=order.clock_round_trip_ns,
        journal_seq=order.journal_seq,
        journal_hash=order.journal_hash,
        partial=bool(partial_reason),
        partial_reason=partial_reason,
        lacks=_lacks(order, progress, notes),
        collectors=_runs(order, progress, partial_reason),
        artifacts=artifacts,
        findings=_findings(order, notes),
    )
    _make_durable(folder)
    _write(folder, manifest, files, envelope.seal(manifest.statement(), PAYLOAD_TYPE, key))


def _artifacts(
    folder: Folder, order: Order, notes: dict[int, list[dict[str, Any]]]
) -> tuple[tuple[Artifact, ...], dict[str, str]]:
    """Every artifact that was opened, and the file of each by its name."""
    artifacts: list[Artifact] = []
    files: dict[str, str] = {}
    for index, collector in enumerate(order.collectors):
        kept = {n["file"]: n for n in notes[index] if n["event"] == "kept"}
        for opened in (n for n in notes[index] if n["event"] == "opened"):
            if len(artifacts) == MAX_ARTIFACTS:
                break
            # Two collectors that chose one name must not cost the capture.
            name = opened["artifact"] if opened["artifact"] not in files else f"{opened['file']}/{opened['artifact']}"
            end = kept.get(opened["file"]) or _unfinished(folder.files / opened["file"])
            files[name] = opened["file"]
            artifacts.append(
                Artifact(
                    name=name,
                    size=end["size"],
                    sha256=end["sha256"],
                    chunks=tuple(end["chunks"]),
                    collector=collector.name,
                    source=opened["source"],
                    method=opened["method"],
                    started_at=opened["at"],
                    ended_at=end["at"],
                    truncated=end["truncated"],
                    facts=end["facts"],
                )
            )
    return tuple(artifacts), files


def _unfinished(path: Path) -> dict[str, Any]:
    """What a killed collector had written of an artifact."""
    digests = Digests()
    ended_at = _UNKNOWN_TIME
    if path.exists():
        ended_at = timestamp(path.stat().st_mtime)
        for data in _blocks(path):
            digests.update(data)
    return {**digests.finish(), "at": ended_at, "truncated": True, "facts": {}}


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while data := file.read(_READ_BYTES):
            yield data


def _runs(order: Order, progress: list[dict[str, Any]], partial_reason: str) -> tuple[CollectorRun, ...]:
    started = {e["index"]: e["at"] for e in progress if e["event"] == "started"}
    ended = {e["index"]: e for e in progress if e["event"] == "ended"}
    runs = []
    for index, collector in enumerate(order.collectors):
        at = started.get(index, _UNKNOWN_TIME)
        status, detail = ("failed", "lost in its work") if index in started else ("cancelled", "not started")
        lost = {"status": status, "detail": f"{detail}: {partial_reason}", "version": "", "started_at": at, "at": at}
        end = ended.get(index) or {**lost, "wall_ms": 0, "cpu_ms": 0, "total_bytes": 0}
        runs.append(
            CollectorRun(
                name=collector.name,
                version=end["version"],
                status=end["status"],
                detail=end["detail"][:4000],
                started_at=end["started_at"],
                ended_at=end["at"],
                wall_ms=end["wall_ms"],
                cpu_ms=end["cpu_ms"],
                total_bytes=end["total_bytes"],
            )
        )
    return tuple(runs)


def _findings(order: Order, notes: dict[int, list[dict[str, Any]]]) -> tuple[Finding, ...]:
    return tuple(
        Finding(n["severity"], n["code"], n["subject"], n["summary"], collector.name)
        for index, collector in enumerate(order.collectors)
        for n in notes[index]
        if n["event"] == "finding"
    )


def _lacks(order: Order, progress: list[dict[str, Any]], notes: dict[int, list[dict[str, Any]]]) -> tuple[str, ...]:
    noted = [*progress, *(n for found in notes.values() for n in found)]
    sentences = (*order.lacks, *(n["sentence"] for n in noted if n["event"] == "lack"))
    return tuple(dict.fromkeys(s[:4000] for s in sentences))[:200]


def _make_durable(folder: Folder) -> None:
    with ThreadPoolExecutor(_SYNC_THREADS) as threads:
        list(threads.map(_sync, folder.files.iterdir() if folder.files.exists() else ()))
    if folder.files.exists():
        durable.sync_folder(folder.files)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(folder: Folder, manifest: Manifest, files: dict[str, str], sealed: bytes) -> None:
    """The envelope first: the answer's presence is what makes a capture sealed."""
    answer = {
        "manifest_sha256": hashlib.sha256(sealed).hexdigest(),
        "manifest_bytes": len(sealed),
        "artifacts": len(manifest.artifacts),
        "total_bytes": sum(a.size for a in manifest.artifacts),
        "partial": manifest.partial,
        "partial_reason": manifest.partial_reason,
    }
    sizes = {a.name: a.size for a in manifest.artifacts}
    places = {name: {"file": file, "size": sizes[name]} for name, file in files.items()}
    durable.replace(folder.manifest, sealed)
    durable.replace(folder.places, json.dumps(places).encode())
    durable.replace(folder.sealed, json.dumps(answer).encode())


@contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    """Wait until neither a worker nor another sealer holds the capture, and hold it while the block lasts.

    A worker that does not end in time (its collector in the kernel's hands) is left to itself.
    """
    until = time.monotonic() + _WORKER_END_S
    with folder.progress.open("ab") as file:
        while time.monotonic() < until:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.02)
        yield


def main() -> None:
    """Seal the capture in the folder named by the first argument with the key in the file named by the second."""
    folder, key_path = Folder(Path(sys.argv[1])), Path(sys.argv[2])
    word = json.loads(sys.stdin.readline() or '{"partial_reason": "the agent ended"}')
    # Read late: the key may have been renewed while the collectors worked.
    key = load_pem_private_key(key_path.read_bytes(), None)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise TypeError(f"{key_path}: wanted an EC key")
    try:
        with _alone(folder):
            seal(
                folder,
                key,
                partial_reason=word["partial_reason"],
                machine=facts.read(),
            )
    except OSError as error:
        traceback.print_exc()
        sys.exit(errno.ENOSPC if error.errno in (errno.ENOSPC, errno.EDQUOT) else 1)


if __name__ == "__main__":
    main()
