"""`fireline evidence`: list, show, verify, export and import what was sealed."""

import json as jsonlib
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fireline_controller.cli import options, output, session

if TYPE_CHECKING:
    from fireline_wire.v1 import control_pb2
    from fireline_wire.v1.control_pb2_grpc import ControlStub

app = typer.Typer(help="Sealed evidence: list, show, verify, export, import, image.", no_args_is_help=True)

_ID = "ev-3f1c0a9be2d47a60"
_VERIFY_HELP = options.manual(
    "Verify evidence: hashes, signatures, receipt, certificates.",
    "Every artifact against its hashes, the manifest against the host's signature, the receipt against the "
    "controller's, the certificates against the authority.",
    "With a file it needs nothing but the authority's certificate and works on a machine that never saw the incident.",
    examples=(
        f"fireline evidence verify {_ID}",
        "fireline evidence verify INC-20260102-030405.fireline --ca ca.pem",
    ),
    exits="Exit status: 0 it verifies; 1 it does not, and why is said; 2 no such file; 3 no such evidence.",
)
_PART_BYTES = 1 << 20


_LIST_HELP = options.manual(
    "List sealed evidence, the newest first.",
    examples=("fireline evidence list", "fireline evidence list -i INC-20260102-030405 --host web1"),
    exits="Exit status: 0 listed, also when there is none; 3 no such incident.",
)


@app.command("list", help=_LIST_HELP)
def list_evidence(
    incident: options.IncidentId = "",
    host: Annotated[str, typer.Option("--host", metavar="NAME", help="Only this host's.", show_default=False)] = "",
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """List sealed evidence, the newest first."""
    session.run(session.folder(state), lambda control: _list(control, incident, host, json))


async def _list(control: "ControlStub", incident: str, host: str, json: bool) -> int:
    from fireline_wire.v1 import control_pb2

    reply = await control.ListEvidence(control_pb2.ListEvidenceRequest(incident_id=incident, host=host))
    if json:
        output.print_json({"evidence": [record_document(e) for e in reply.evidence]})
    else:
        print_records(reply.evidence)
    return session.OK


def record_document(record: "control_pb2.EvidenceRecord") -> dict[str, Any]:
    """A sealed capture with its stable keys."""
    return {
        "evidence_id": record.id,
        "host": record.host,
        "incident": record.incident_id,
        "operation": record.operation_id,
        "profile": record.profile,
        "sealed_at": output.moment(record.sealed_at),
        "artifacts": record.artifacts,
        "bytes": record.total_bytes,
        "partial": record.partial,
        "manifest_sha256": record.manifest_sha256,
    }


def print_records(records: "Iterable[control_pb2.EvidenceRecord]") -> None:
    """Sealed captures as a table."""
    rows = [
        (e.id, e.host, e.profile + (" (partial)" if e.partial else ""), output.moment(e.sealed_at),
         str(e.artifacts), output.size(e.total_bytes), e.incident_id)
        for e in records
    ]  # fmt: skip
    if rows:
        output.table(("EVIDENCE", "HOST", "PROFILE", "SEALED", "ARTIFACTS", "SIZE", "INCIDENT"), rows)
    else:
        output.say("no evidence; capture some: fireline capture -t all")


_SHOW_HELP = options.manual(
    "Show collectors, artifacts and findings of one capture.",
    "Looking is a line in the journal, with your name and the reason.",
    examples=(f'fireline evidence show {_ID} --reason "what runs there"',),
)


@app.command("show", help=_SHOW_HELP)
def show(
    evidence: Annotated[str, typer.Argument(metavar="EVIDENCE", help=f"Such as {_ID}.")],
    reason: options.Reason = "",
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Show the manifest."""
    session.run(session.folder(state), lambda control: _show(control, evidence, reason, json))


async def _show(control: "ControlStub", evidence_id: str, reason: str, json: bool) -> int:
    from fireline_wire.v1 import control_pb2

    reply = await control.ShowEvidence(control_pb2.ShowEvidenceRequest(id=evidence_id, reason=reason))
    statement = jsonlib.loads(reply.statement_json)
    if json:
        output.print_json({"statement": statement, "receipt": jsonlib.loads(reply.receipt_json)})
    else:
        _print_statement(reply.record, statement["predicate"])
    return session.OK


def _print_statement(record: "control_pb2.EvidenceRecord", manifest: dict[str, Any]) -> None:
    print(f"{record.id}  {record.host}  {record.profile}  sealed {output.moment(record.sealed_at)}")
    print(f"clock {manifest['clock_offset_ns'] / 1e6:+.1f} ms against the controller's; boot {manifest['boot_id']}\n")
    output.table(
        ("COLLECTOR", "STATUS", "WALL", "CPU", "SIZE", "DETAIL"),
        [
            (c["name"], c["status"], f"{c['wall_ms']} ms", f"{c['cpu_ms']} ms",
             output.size(c["total_bytes"]), c["detail"])
            for c in manifest["collectors"]
        ],
    )  # fmt: skip
    print()
    output.table(
        ("ARTIFACT", "SIZE", "SHA-256", "SOURCE", "METHOD"),
        [
            (a["name"], output.size(a["size"]), a["sha256"][:16], a["source"], a["method"])
            for a in manifest["artifacts"]
        ],
    )
    if manifest["findings"]:
        print()
        order = sorted(manifest["findings"], key=lambda f: output.SEVERITIES.index(f["severity"]))
        output.table(
            ("SEVERITY", "FINDING", "SUBJECT", "WHAT"),
            [(f["severity"], f["code"], f["subject"], f["summary"]) for f in order],
        )


@app.command("verify", help=_VERIFY_HELP)
def verify(
    evidence: Annotated[str, typer.Argument(metavar="EVIDENCE|FILE", help="An evidence id or an exported file.")],
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca", metavar="PEM", help="The authority's certificate, for a file. Default: this state folder's."
        ),
    ] = None,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Verify evidence."""
    place = session.folder(state)
    if ca is not None or evidence.endswith(".fireline") or Path(evidence).exists():
        raise SystemExit(_verify_file(Path(evidence), ca or place / "keys" / "ca.pem", json))
    session.run(place, lambda control: _verify(control, evidence, json))


def _verify_file(file: Path, ca: Path, json: bool) -> int:
    import warnings

    from fireline_controller import vault

    # A flipped bit may make it negative. What is printed says more of that certificate.
    warnings.filterwarnings("ignore", "Parsed a serial number")
    for path in (file, ca):
        if not path.is_file():
            session.fail(f"{path}: no such file", session.USAGE)
    report = vault.verify_container(file, ca.read_bytes())
    return _print_verdict(str(file), report.problems, report.artifacts, report.total_bytes, json)


async def _verify(control: "ControlStub", evidence_id: str, json: bool) -> int:
    from fireline_wire.v1 import control_pb2

    reply = await control.VerifyEvidence(control_pb2.VerifyEvidenceRequest(id=evidence_id))
    return _print_verdict(evidence_id, list(reply.problems), reply.artifacts, reply.total_bytes, json)


def _print_verdict(name: str, problems: Iterable[str], artifacts: int, total_bytes: int, json: bool) -> int:
    found = list(problems)
    if json:
        output.print_json({"verified": not found, "problems": found, "artifacts": artifacts, "bytes": total_bytes})
    elif found:
        print(f"{name}: NOT VERIFIED")
        for problem in found:
            print(f"  {output.printable(problem)}")
    else:
        print(
            f"{name}: verified: {output.counted(artifacts, 'artifact')}, {output.size(total_bytes)}, every hash and "
            "signature holds"
        )
    return session.SOME_NOT_OK if found else session.OK


_EXPORT_HELP = options.manual(
    "Write one file that verifies anywhere with ca.pem alone.",
    "It holds manifests, receipts, certificates and artifacts, and of an incident its lines of the journal. "
    "Exporting is a line in the journal.",
    examples=(
        'fireline evidence export INC-20260102-030405 --reason "for the insurer"',
        f"fireline evidence export {_ID} -o web1.fireline",
    ),
    exits="Exit status: 0 written; 2 the file exists already; 3 nothing of that name; 5 it can't be written.",
)


@app.command("export", help=_EXPORT_HELP)
def export(
    evidence: Annotated[
        str, typer.Argument(metavar="EVIDENCE|INCIDENT", help="One evidence id, or all of an incident.")
    ],
    output_file: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Default: NAME.fireline here.", show_default=False),
    ] = None,
    reason: options.Reason = "",
    state: options.State = None,
) -> None:
    """Write one file that verifies anywhere."""
    file = output_file or Path(f"{evidence}.fireline")
    if file.exists():
        session.fail(f"{file} exists already; name another with --output", session.USAGE)
    session.run(session.folder(state), lambda control: _export(control, evidence, file, reason))


async def _export(control: "ControlStub", evidence_id: str, file: Path, reason: str) -> int:
    from fireline_wire.v1 import control_pb2

    partial = file.with_name(file.name + ".partial")
    total = 0
    try:
        with partial.open("wb") as out:
            async for part in control.ExportEvidence(control_pb2.ExportEvidenceRequest(id=evidence_id, reason=reason)):
                total += out.write(part.data)
            out.flush()
            os.fsync(out.fileno())
        partial.rename(file)
    except OSError as error:
        session.fail(f"{file}: can't be written: {error.strerror}; free some space or name another", 5)
    finally:
        partial.unlink(missing_ok=True)
    output.say(f"{file}: {output.size(total)}; verify it: fireline evidence verify {file}")
    output.say("whoever gets it verifies it with --ca and a copy of keys/ca.pem, which is in your state folder")
    return session.OK


_IMPORT_HELP = options.manual(
    "Verify an exported file and keep its evidence here too.",
    "Nothing is kept of a file that does not verify. Evidence of another authority needs that authority's certificate.",
    examples=("fireline evidence import INC-20260102-030405.fireline --ca their-ca.pem",),
    exits="Exit status: 0 imported; 1 it does not verify; 2 no such file.",
)


@app.command("import", help=_IMPORT_HELP)
def import_file(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file that `evidence export` wrote.", exists=True, dir_okay=False)
    ],
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="PEM", help="The authority it must verify against. Default: this state folder's."),
    ] = None,
    json: options.Json = False,
    state: options.State = None,
) -> None:
    """Import an exported file."""
    place = session.folder(state)
    authority = ca or place / "keys" / "ca.pem"
    if not authority.is_file():
        session.fail(f"{authority}: no such file", session.USAGE)
    session.run(place, lambda control: _import(control, file, authority.read_bytes(), json))


async def _import(control: "ControlStub", file: Path, authority: bytes, json: bool) -> int:
    import grpc

    from fireline_wire import status

    try:
        reply = await control.ImportEvidence(_parts(file, authority))
    except grpc.aio.AioRpcError as error:
        refusal = status.from_error(error)
        if refusal is None or refusal.reason != "tampered":
            raise
        session.fail(f"{file} is not imported: {output.printable(refusal.message)}", session.SOME_NOT_OK)
    if json:
        output.print_json({"evidence": [record_document(e) for e in reply.evidence]})
    else:
        print_records(reply.evidence)
    return session.OK


async def _parts(file: Path, authority: bytes) -> "AsyncIterator[control_pb2.FilePart]":
    from fireline_wire.v1 import control_pb2

    yield control_pb2.FilePart(data=authority)
    with file.open("rb") as source:
        while part := source.read(_PART_BYTES):
            yield control_pb2.FilePart(data=part)


_IMAGE_HELP = options.manual(
    "Put the raw image of a disk together from exported evidence.",
    "Every file is verified first. The segments of several captures, taken in parts or after an interruption, make one "
    "image; where one lacks it is said at which offset to capture on. Places without data stay holes in the file.",
    examples=("fireline evidence image part1.fireline part2.fireline --output vda.img --ca ca.pem",),
    exits="Exit status: 0 written, and its hash is said; 1 a file does not verify, or segments lack; 2 usage.",
)


@app.command("image", help=_IMAGE_HELP)
def image(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="What `evidence export` wrote.", exists=True, dir_okay=False)
    ],
    output_file: Annotated[Path, typer.Option("--output", "-o", metavar="IMAGE", help="The image to write.")],
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="PEM", help="The authority to verify against. Default: this state folder's."),
    ] = None,
    state: options.State = None,
) -> None:
    """Put an image together."""
    from fireline_controller.model import EvidenceError
    from fireline_controller.vault import imaging

    authority = ca or session.folder(state) / "keys" / "ca.pem"
    if not authority.is_file():
        session.fail(f"{authority}: no such file", session.USAGE)
    if output_file.exists():
        session.fail(f"{output_file} exists already; name another with --output", session.USAGE)
    try:
        made = imaging.assemble(files, authority.read_bytes(), output_file)
    except EvidenceError as error:
        session.fail(output.printable(str(error)), session.SOME_NOT_OK)
    except OSError as error:
        session.fail(f"{output_file}: can't be written: {error.strerror}; free some space or name another", 5)
    print(f"{output_file}: {output.size(made.size)} of {output.printable(made.source)} on {made.host}")
    print(f"SHA-256 {made.sha256}, over {output.counted(made.segments, 'segment')}; taken while the host ran")
