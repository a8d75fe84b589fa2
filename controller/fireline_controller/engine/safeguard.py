"""Whether what an action would destroy is in sealed evidence (I3), and which capture would keep it.

A collector that is told by the action's parameters what to keep counts only where it was told the same. The host signs
the profile's name, so that name says what the collectors were told.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from fireline_controller.engine.collect import Rooms, public_key
from fireline_controller.model import Evidence, EvidenceError
from fireline_controller.profiles import CollectorOrder, Profile
from fireline_wire import envelope
from fireline_wire.manifest import PAYLOAD_TYPE, Manifest, ManifestError

EARLIER: Final = timedelta(hours=1)  # before the plan was made: evidence that is older may be of another state
_NAME: Final = "evidence"
_DIGITS: Final = 12  # of a digest in a profile's name, which may have 200 letters

Orders = Mapping[str, Mapping[str, Any]]


def profile(what: str, orders: Orders) -> Profile:
    """What to capture before an action: its `evidence_orders`, each collector under the host's own limits."""
    told = "".join(f" {name}={_digest(params)}" for name, params in sorted(orders.items()) if params)
    collectors = tuple(CollectorOrder(name, params) for name, params in orders.items())
    return Profile(f"{_NAME}{told}", f"what {what} would destroy", collectors)


async def unkept(rooms: Rooms, hosts: Iterable[str], orders: Orders, planned_at: datetime) -> list[str]:
    """The hosts of which not all of this was sealed since the plan was made, or within an hour before.

    A collector that found nothing to collect counts; one that failed does not.
    """
    since = planned_at - EARLIER
    return [host for host in hosts if not await _is_kept(rooms, host, orders, since)]


async def _is_kept(rooms: Rooms, host: str, orders: Orders, since: datetime) -> bool:
    sealed = await rooms.store.read(lambda tx: tx.evidence_list(host=host))
    kept: set[str] = set()
    for evidence in sealed:
        if evidence.sealed_at >= since:
            kept |= {name for name in await _collected(rooms, evidence) if _was_told(evidence, name, orders)}
    return kept.issuperset(orders)


def _was_told(evidence: Evidence, collector: str, orders: Orders) -> bool:
    params = orders.get(collector)
    return not params or f"{collector}={_digest(params)}" in evidence.profile.split()[1:]


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


def _digest(params: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(params), sort_keys=True).encode()).hexdigest()[:_DIGITS]
