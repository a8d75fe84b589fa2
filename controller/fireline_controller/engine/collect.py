"""One host's capture, from the order to sealed evidence in the vault.

Everything that comes from the host is checked here before it is believed: the manifest against the certificate that
this controller issued, every chunk against the manifest (I8). A broken connection is taken up again where it ended.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from fireline_controller import vault
from fireline_controller.config import Settings
from fireline_controller.engine.operations import Running
from fireline_controller.engine.values import Progress
from fireline_controller.hosts import (
    CaptureOrder,
    CaptureSealed,
    CollectorEnded,
    CollectorStarted,
    Command,
    HostClient,
)
from fireline_controller.model import (
    Certificate,
    Entry,
    Evidence,
    EvidenceError,
    Finding,
    Host,
    HostError,
    HostFailed,
    HostOutcome,
    NotFound,
    Outcome,
    Unreachable,
)
from fireline_controller.pki import Authority
from fireline_controller.profiles import Profile
from fireline_controller.store import Store, Transaction
from fireline_wire import envelope
from fireline_wire.identity import Identity, Role
from fireline_wire.manifest import MAX_MANIFEST_BYTES, PAYLOAD_TYPE, Manifest, ManifestError

_T = TypeVar("_T")

# A host that was cut off in the middle may come back: try again after these pauses, then call it unreachable.
_RECONNECT_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0)
# A cancelled capture must have stopped on the host within two seconds; the rest is for the way there and back.
_CANCEL_S = 4.0
_FORGET_S = 3.0
# The envelope is the manifest in base64, with its frame.
MAX_ENVELOPE_BYTES: Final = MAX_MANIFEST_BYTES * 4 // 3 + 4096


@dataclass(frozen=True)
class Rooms:
    """What a collection works with."""

    store: Store
    vault: vault.Vault
    authority: Authority
    settings: Settings
    now: Callable[[], datetime]


class Collection:
    """The capture of one host within an operation."""

    def __init__(
        self, rooms: Rooms, running: Running, host: Host, client: HostClient, profile: Profile, request_id: str
    ) -> None:
        self._rooms = rooms
        self._running = running
        self._host = host
        self._client = client
        self._profile = profile
        self._command = replace(running.command, request_id=request_id)
        self._started_s = time.monotonic()
        self._was_reached = False

    async def run(self) -> HostOutcome:
        """Capture, fetch, verify, keep and seal.

        Returns:
            The outcome ok with the evidence, or cancelled with what is known of the host.

        Raises:
            HostError: the host's capture failed; the message says where and why.
            FirelineError: the controller itself failed.
        """
        try:
            sealed = await self._again_when_cut(self._ordered)
            return await self._keep(sealed)
        except asyncio.CancelledError:
            raise asyncio.CancelledError(await self._stop_on_host()) from None
        except EvidenceError as error:
            raise HostFailed(f"{self._host.name}: {error}", reason="tampered") from None
        except ManifestError as error:
            raise HostFailed(f"{self._host.name}: bad manifest: {error}", reason="tampered") from None
        except vault.DiskFull as error:
            raise HostFailed(f"{self._host.name}: not kept: {error}", reason="disk_full", retry_helps=True) from None

    async def _ordered(self) -> CaptureSealed:
        described = await self._client.describe(timeout_s=self._rooms.settings.fanout.command_deadline_s)
        seq, head = self._running.journal_head
        order = CaptureOrder(
            command=self._command,
            profile=self._profile,
            clock_offset_ns=described.clock_offset_ns,
            clock_round_trip_ns=described.clock_round_trip_ns,
            journal_seq=seq,
            journal_hash=head,
        )
        async for news in self._client.capture(order, idle_s=self._rooms.settings.fanout.idle_s):
            if isinstance(news, CaptureSealed):
                return news
            if isinstance(news, CollectorStarted):
                self._tell(f"collecting {news.name} ({news.index + 1} of {news.count})")
            elif isinstance(news, CollectorEnded):
                self._tell(f"collected {news.name}: {news.status}")
        raise HostFailed(f"{self._host.name}: the capture ended without a seal", reason="internal")

    async def _keep(self, sealed: CaptureSealed) -> HostOutcome:
        signed = await self._again_when_cut(lambda: self._manifest(sealed))
        certificate = await self._signer(signed)
        manifest = self._believed(signed, certificate)
        key = f"{self._command.request_id}.{self._host.name}"
        async with self._rooms.vault.receive(key, manifest.artifacts, envelope=signed) as receiving:
            await self._again_when_cut(lambda: self._fetch(receiving))
            await receiving.finish()
        evidence = await self._seal(signed, manifest, certificate)
        await self._forget()
        return self._outcome(evidence, manifest, receiving)

    async def _manifest(self, sealed: CaptureSealed) -> bytes:
        name, most = self._host.name, MAX_ENVELOPE_BYTES
        if sealed.manifest_bytes > most:
            raise HostFailed(f"{name}: manifest of {sealed.manifest_bytes} bytes: at most {most}", reason="tampered")
        signed = bytearray()
        parts = self._client.fetch_manifest(
            self._command, self._command.request_id, offset=0, idle_s=self._rooms.settings.fanout.idle_s
        )
        async for part in parts:
            signed += part
            if len(signed) > sealed.manifest_bytes:
                raise HostFailed(f"{name}: sent more manifest than it announced", reason="tampered")
        digest = hashlib.sha256(signed).hexdigest()
        if digest != sealed.manifest_sha256:
            wanted = sealed.manifest_sha256[:16]
            raise HostFailed(f"{name}: manifest hashes to {digest[:16]}, announced {wanted}", reason="tampered")
        return bytes(signed)

    async def _signer(self, signed: bytes) -> Certificate:
        """The certificate that this controller issued for the key that signed."""
        try:
            (key_id,) = envelope.signers(signed)
            certificate = await self._rooms.store.run(lambda tx: tx.certificate_by_key(key_id))
        except (ValueError, NotFound):
            message = f"{self._host.name}: the manifest is not signed by a key that this controller certified"
            raise HostFailed(message, reason="tampered") from None
        wanted = Identity(Role.AGENT, self._host.name)
        if certificate.identity != str(wanted) or certificate.generation != self._host.generation:
            message = f"{self._host.name}: the manifest is signed by {certificate.identity}, wanted {wanted}"
            raise HostFailed(message, reason="tampered")
        return certificate

    def _believed(self, signed: bytes, certificate: Certificate) -> Manifest:
        """The manifest, once signature, form and every field that this controller knows itself are right."""
        try:
            manifest = Manifest.parse(envelope.unseal(signed, PAYLOAD_TYPE, public_key(certificate.pem)))
        except envelope.EnvelopeError as error:
            raise HostFailed(f"{self._host.name}: {error}", reason="tampered") from None
        said = (manifest.host, manifest.request_id, manifest.incident_id, manifest.profile)
        asked = (self._host.name, self._command.request_id, self._command.incident_id, self._profile.name)
        if said != asked:
            raise HostFailed(f"{self._host.name}: the manifest is of {said}, asked for {asked}", reason="tampered")
        total, most = sum(a.size for a in manifest.artifacts), self._rooms.settings.evidence.host_bytes
        if total > most:
            message = f"{self._host.name}: {total} bytes of evidence: at most {most} are allowed (evidence.host_bytes)"
            raise HostFailed(message, reason="disk_full")
        return manifest

    async def _fetch(self, receiving: vault.Receiving) -> None:
        total = 0
        while wanted := await receiving.wanted():
            chunks = self._client.fetch_chunks(
                self._command, self._command.request_id, wanted, idle_s=self._rooms.settings.fanout.idle_s
            )
            async for data in chunks:
                await receiving.keep(data)
                total += len(data)
                self._tell("fetching", total)

    async def _seal(self, signed: bytes, manifest: Manifest, certificate: Certificate) -> Evidence:
        digest = hashlib.sha256(signed).hexdigest()
        evidence = Evidence(
            id=vault.evidence_id(digest),
            host=manifest.host,
            incident_id=manifest.incident_id,
            operation_id=manifest.operation_id,
            profile=manifest.profile,
            sealed_at=self._rooms.now(),
            artifacts=len(manifest.artifacts),
            total_bytes=sum(a.size for a in manifest.artifacts),
            partial=manifest.partial,
            manifest_sha256=digest,
            manifest_bytes=len(signed),
            host_chain_pem=certificate.pem + self._rooms.authority.ca_pem.decode(),
        )

        def record(tx: Transaction) -> Evidence:
            seq, head = tx.head()
            authority = self._rooms.authority
            signer = vault.Signer(authority.journal_key, authority.journal_chain_pem)
            signed_receipt = vault.receipt(evidence, journal_seq=seq, journal_hash=head, signer=signer)
            sealed = replace(evidence, receipt=signed_receipt)
            tx.put_evidence(sealed)
            tx.append(_sealed_entry(sealed, manifest, self._command.operator, self._sealed_ms()))
            return sealed

        return await self._rooms.store.run(record)

    async def _forget(self) -> None:
        """Let the host delete its copy. Failing that, its own time limit does."""
        with suppress(HostError):
            await self._client.forget_capture(self._also("forget"), self._command.request_id, timeout_s=_FORGET_S)

    async def _stop_on_host(self) -> str:
        """Stop the capture on the host; what is known then, as a text."""
        try:
            answer = await self._client.cancel_capture(
                self._also("cancel"), self._command.request_id, timeout_s=_CANCEL_S
            )
        except HostError as error:
            self._running.still_running.append(f"{self._host.name}: its capture may go on: {error}")
            return "the host could not be told"
        if answer.unkillable_pids:
            pids = ", ".join(map(str, answer.unkillable_pids))
            self._running.still_running.append(f"{self._host.name}: processes {pids} are in uninterruptible sleep")
        return "stopped on the host; what was gathered is sealed there" if answer.stopped else "had ended on the host"

    def _also(self, verb: str) -> Command:
        """The command for a second request about the same capture; it needs a request id of its own."""
        return replace(self._command, request_id=f"{self._command.request_id}-{verb}")

    async def _again_when_cut(self, step: Callable[[], Awaitable[_T]]) -> _T:
        """Do the step, and do it again when the connection is cut in the middle; a host never reached fails at once."""
        for pause_s in _RECONNECT_PAUSES_S:
            try:
                return await step()
            except Unreachable as error:
                if not (self._was_reached and error.retry_helps):
                    raise
                self._tell(f"cut off ({error.reason}), trying again")
                await asyncio.sleep(pause_s)
        return await step()

    def _tell(self, doing: str, total_bytes: int = 0) -> None:
        self._was_reached = True
        self._running.tell(Progress(self._host.name, doing, total_bytes))

    def _sealed_ms(self) -> int:
        return self._running.elapsed_ms()

    def _outcome(self, evidence: Evidence, manifest: Manifest, receiving: vault.Receiving) -> HostOutcome:
        broken = [c.name for c in manifest.collectors if c.status not in ("ok", "absent")]
        detail = f"partial: {manifest.partial_reason}" if manifest.partial else ""
        if broken and not detail:
            detail = f"without {', '.join(broken)}"
        return HostOutcome(
            host=self._host.name,
            outcome=Outcome.OK,
            detail=detail,
            duration_ms=round((time.monotonic() - self._started_s) * 1000),
            evidence_id=evidence.id,
            partial=evidence.partial,
            artifacts=evidence.artifacts,
            total_bytes=evidence.total_bytes,
            resent_bytes=receiving.resent_bytes,
            deduplicated_bytes=receiving.deduplicated_bytes,
            sealed_ms=self._sealed_ms(),
            findings=tuple(
                Finding(f.severity, f.code, f.subject, f.summary, f.collector, self._host.name)
                for f in manifest.findings
            ),
        )


def public_key(certificate_pem: str) -> EllipticCurvePublicKey:
    """The key of a certificate that the authority issued; such keys are always on P-256."""
    key = x509.load_pem_x509_certificate(certificate_pem.encode()).public_key()
    if not isinstance(key, EllipticCurvePublicKey):
        raise EvidenceError("the certificate's key is not on an elliptic curve")
    return key


def _sealed_entry(evidence: Evidence, manifest: Manifest, operator: str, sealed_ms: int) -> Entry:
    grave = sorted({f.code for f in manifest.findings if f.severity != "notice"})
    stands_out = f"; stands out: {', '.join(grave)}" if grave else ""
    return Entry(
        kind="evidence.sealed",
        actor=operator,
        at=evidence.sealed_at,
        summary=f"{evidence.id} sealed: {evidence.artifacts} artifacts, {evidence.total_bytes} bytes{stands_out}",
        incident_id=evidence.incident_id,
        operation_id=evidence.operation_id,
        host=evidence.host,
        data={
            "evidence": evidence.id,
            "manifest_sha256": evidence.manifest_sha256,
            "receipt_sha256": hashlib.sha256(evidence.receipt).hexdigest(),
            "partial": evidence.partial,
            "sealed_ms": sealed_ms,
            "clock_offset_us": manifest.clock_offset_ns // 1000,
        },
    )
