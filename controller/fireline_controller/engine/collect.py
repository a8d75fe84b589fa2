"""One host's capture, from the order to sealed evidence in the vault.

Everything that comes from the host is checked here before it is believed: the manifest against the certificate that
this controller issued, every chunk against the manifest (I8). A broken connection is taken up again where it ended.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from fireline_controller import vault
from fireline_controller.config import Settings
from fireline_controller.engine import telling
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
from fireline_controller.hosts.wire import text
from fireline_controller.model import (
    Certificate,
    Denied,
    Evidence,
    EvidenceError,
    Host,
    HostError,
    HostFailed,
    HostOutcome,
    NotFound,
    Operation,
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
# No clock that `describe` accepts is farther off; the journal's numbers, in microseconds, end a little above.
_MOST_OFFSET_NS: Final = 8_000_000_000 * 10**9


@dataclass(frozen=True)
class Rooms:
    """What a collection works with."""

    store: Store
    vault: vault.Vault
    authority: Callable[[], Authority]
    settings: Settings
    now: Callable[[], datetime]


class Collection:
    """The capture of one host within an operation, or within one of those that it retries."""

    def __init__(
        self, rooms: Rooms, running: Running, host: Host, client: HostClient, profile: Profile, request_id: str,
        retried: Sequence[Operation],
    ) -> None:  # fmt: skip
        self._rooms = rooms
        self._running = running
        self._host = host
        self._client = client
        self._profile = profile
        self._command = replace(running.command, request_id=request_id)
        self._operations = {running.operation.id, *(o.id for o in retried)}
        self._started_s = time.monotonic()
        self._was_reached = False

    async def run(self) -> HostOutcome:
        """Capture, fetch, verify, keep and seal.

        Returns:
            The outcome with the evidence: ok, or failed (incomplete) where something that was ordered is missing.

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
            raise self._tampered(text(str(error))) from None
        except ManifestError as error:
            raise self._tampered(f"bad manifest: {text(str(error))}") from None
        except vault.DiskFull as error:
            raise HostFailed(f"{self._host.name}: not kept: {error}", reason="disk_full", retry_helps=True) from None

    async def _ordered(self) -> CaptureSealed:
        described = await self._client.describe(timeout_s=self._rooms.settings.fanout.command_deadline_s)
        self._was_reached = True
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
        # A thread, since a lying host may have filled a manifest with as much as it may hold.
        manifest = await asyncio.to_thread(self._believed, signed, certificate)
        key = f"{self._command.request_id}.{self._host.name}"
        async with self._rooms.vault.receive(key, manifest.artifacts, envelope=signed) as receiving:
            await self._again_when_cut(lambda: self._fetch(receiving))
            await receiving.finish()
        sealing = asyncio.ensure_future(self._seal(signed, manifest, certificate))
        try:
            evidence = await asyncio.shield(sealing)
            await self._forget()
        except asyncio.CancelledError:
            evidence = await sealing  # it gets on record in any case: a clock that ends now makes it no less sealed
        return self._outcome(evidence, manifest, receiving)

    async def _manifest(self, sealed: CaptureSealed) -> bytes:
        if sealed.manifest_bytes > MAX_ENVELOPE_BYTES:
            raise self._tampered(f"manifest of {sealed.manifest_bytes} bytes: at most {MAX_ENVELOPE_BYTES}")
        signed = bytearray()
        parts = self._client.fetch_manifest(
            self._command, self._command.request_id, offset=0, idle_s=self._rooms.settings.fanout.idle_s
        )
        async for part in parts:
            signed += part
            if len(signed) > sealed.manifest_bytes:
                raise self._tampered(f"sent more manifest than the {sealed.manifest_bytes} bytes that it announced")
        digest = hashlib.sha256(signed).hexdigest()
        if digest != sealed.manifest_sha256:
            raise self._tampered(f"manifest hashes to {digest[:16]}, announced {sealed.manifest_sha256[:16]}")
        return bytes(signed)

    async def _signer(self, signed: bytes) -> Certificate:
        """The certificate that this controller issued for the key that signed."""
        try:
            (key_id,) = await asyncio.to_thread(envelope.signers, signed)
            certificate = await self._rooms.store.read(lambda tx: tx.certificate_by_key(key_id))
        except (ValueError, NotFound):
            raise self._tampered("the manifest is not signed by a key that this controller certified") from None
        found = (certificate.identity, certificate.generation)
        wanted = (str(Identity(Role.AGENT, self._host.name)), self._host.generation)
        if found != wanted:
            signer, owner = (f"{identity} (generation {number})" for identity, number in (found, wanted))
            raise self._tampered(f"the manifest is signed by {signer}, wanted {owner}")
        if certificate.revoked_at is not None:
            raise self._removed(f"its certificate was revoked at {certificate.revoked_at:%Y-%m-%d %H:%M:%S} UTC")
        return certificate

    def _believed(self, signed: bytes, certificate: Certificate) -> Manifest:
        """The manifest, once signature, form and every field that this controller knows itself are right."""
        try:
            manifest = Manifest.parse(envelope.unseal(signed, PAYLOAD_TYPE, public_key(certificate.pem)))
        except envelope.EnvelopeError as error:
            raise self._tampered(str(error)) from None
        said = (manifest.host, manifest.request_id, manifest.incident_id, manifest.profile)
        asked = (self._host.name, self._command.request_id, self._command.incident_id, self._profile.name)
        if said != asked:
            raise self._tampered(f"the manifest is of {said}, asked for {asked}")
        if manifest.operation_id not in self._operations:
            wanted = " or ".join(sorted(self._operations))
            raise self._tampered(f"the manifest is of operation {manifest.operation_id!r}, asked for {wanted}")
        if abs(manifest.clock_offset_ns) > _MOST_OFFSET_NS:
            raise self._tampered(f"a clock offset of {manifest.clock_offset_ns} ns: wanted at most {_MOST_OFFSET_NS}")
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
            partial=not manifest.is_complete,
            manifest_sha256=digest,
            manifest_bytes=len(signed),
            host_chain_pem=certificate.pem + self._rooms.authority().ca_pem.decode(),
        )

        def record(tx: Transaction) -> Evidence:
            with suppress(NotFound):
                return self._sealed_before(tx.evidence(evidence.id), digest)
            seq, head = tx.head()
            authority = self._rooms.authority()
            signer = vault.Signer(authority.journal_key, authority.journal_chain_pem)
            signed_receipt = vault.receipt(evidence, journal_seq=seq, journal_hash=head, signer=signer)
            sealed = replace(evidence, receipt=signed_receipt)
            tx.put_evidence(sealed)
            tx.append(telling.sealed_entry(sealed, manifest, self._command.operator, self._sealed_ms()))
            return sealed

        return await self._rooms.store.run(record)

    def _sealed_before(self, known: Evidence, digest: str) -> Evidence:
        if known.manifest_sha256 != digest:
            raise self._tampered(f"another manifest of it is kept as {known.id}: the two were made to look alike")
        return known

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
                await self._require_enrolled()
        return await step()

    async def _require_enrolled(self) -> None:
        """A host that was removed meanwhile was cut off for good: nobody dials it again."""
        host = await self._rooms.store.read(lambda tx: tx.host(self._host.name))
        if host.removed or host.generation != self._host.generation:
            raise self._removed("it was removed from the fleet")

    def _removed(self, what: str) -> Denied:
        return Denied(f"{self._host.name}: {what}", reason="certificate_revoked")

    def _tampered(self, what: str) -> HostFailed:
        return HostFailed(f"{self._host.name}: {what}", reason="tampered")

    def _tell(self, doing: str, total_bytes: int = 0) -> None:
        self._was_reached = True
        self._running.tell(Progress(self._host.name, doing, total_bytes))

    def _sealed_ms(self) -> int:
        return self._running.elapsed_ms()

    def _outcome(self, evidence: Evidence, manifest: Manifest, receiving: vault.Receiving) -> HostOutcome:
        return HostOutcome(
            host=self._host.name,
            outcome=Outcome.OK if manifest.is_complete else Outcome.FAILED,
            detail=telling.detail(manifest),
            reason="" if manifest.is_complete else "incomplete",
            duration_ms=round((time.monotonic() - self._started_s) * 1000),
            evidence_id=evidence.id,
            partial=evidence.partial,
            artifacts=evidence.artifacts,
            total_bytes=evidence.total_bytes,
            resent_bytes=receiving.resent_bytes,
            deduplicated_bytes=receiving.deduplicated_bytes,
            sealed_ms=self._sealed_ms(),
            findings=telling.findings(manifest),
        )


def public_key(certificate_pem: str) -> EllipticCurvePublicKey:
    """The key of a certificate that the authority issued; such keys are always on P-256."""
    key = x509.load_pem_x509_certificate(certificate_pem.encode()).public_key()
    if not isinstance(key, EllipticCurvePublicKey):
        raise EvidenceError("the certificate's key is not on an elliptic curve")
    return key
