"""Whether what an action would destroy is in sealed evidence (I3). Leaves to others: making such evidence."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from fireline_controller.engine.collect import Rooms, public_key
from fireline_controller.model import Evidence, EvidenceError
from fireline_controller.profiles import CollectorOrder, Profile
from fireline_wire import envelope
from fireline_wire.manifest import PAYLOAD_TYPE, Manifest, ManifestError

EARLIER: Final = timedelta(hours=1)  # before the plan was made: evidence that is older may be of another state


async def unkept(rooms: Rooms, hosts: Iterable[str], collectors: Sequence[str], planned_at: datetime) -> list[str]:
    """The hosts of which no evidence of these collectors was sealed since the plan was made, or within an hour before.

    A collector that found nothing to collect counts; one that failed does not.
    """
    since = planned_at - EARLIER
    return [host for host in hosts if not await _is_kept(rooms, host, set(collectors), since)]


def profile(action: str, collectors: Sequence[str]) -> Profile:
    """What to capture before an action; each collector under the host's own limits."""
    orders = tuple(CollectorOrder(name) for name in collectors)
    return Profile("evidence", f"what {action} would destroy", orders)


async def _is_kept(rooms: Rooms, host: str, wanted: set[str], since: datetime) -> bool:
    sealed = await rooms.store.read(lambda tx: tx.evidence_list(host=host))
    kept: set[str] = set()
    for evidence in sealed:
        if evidence.sealed_at >= since:
            kept |= await _collected(rooms, evidence)
    return wanted <= kept


async def _collected(rooms: Rooms, evidence: Evidence) -> set[str]:
    """The collectors that are whole in it; none where it does not verify."""
    try:
        signed = await rooms.vault.read_manifest(evidence)
        manifest = await asyncio.to_thread(_manifest, signed, evidence)
    except (EvidenceError, ManifestError, envelope.EnvelopeError):
        return set()
    broken = {run.name for run in manifest.broken}
    return {run.name for run in manifest.collectors} - broken


def _manifest(signed: bytes, evidence: Evidence) -> Manifest:
    return Manifest.parse(envelope.unseal(signed, PAYLOAD_TYPE, public_key(evidence.host_chain_pem)))
