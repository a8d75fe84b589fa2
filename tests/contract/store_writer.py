"""A program that writes to a store until it is done or killed, and says on its output what was acknowledged.

Arguments: URL, file of the journal's key, anchor, what to do (append, incidents), how often (0: without end).
"""

import sys
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fireline_controller.model import Entry, Severity
from fireline_controller.store import Store, Transaction

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def append(tx: Transaction, turn: int) -> list[str]:
    """One to three lines, now and then with a checkpoint."""
    lines = tx.append(*[Entry("incident.note", "alice", NOW, f"turn {turn}")] * (1 + turn % 3))
    if turn % 7 == 0:
        tx.checkpoint()
    return [f"{line.seq} {line.hash}" for line in lines]


def incident(tx: Transaction, turn: int) -> list[str]:
    """An incident and a fence token, journaled."""
    opened = tx.new_incident(Severity.P1, f"turn {turn}", "alice", "all", NOW)
    tx.append(Entry("incident.opened", "alice", NOW, opened.title, incident_id=opened.id))
    return [f"{opened.id} {tx.next_fence_token()}"]


def main(url: str, key_file: str, anchor: str, what: str, often: str) -> None:
    """Write, and acknowledge each turn once it is committed."""
    key = load_pem_private_key(Path(key_file).read_bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    store = Store.open(url, journal_key=key, anchor_path=Path(anchor))
    work = {"append": append, "incidents": incident}[what]
    for turn in range(int(often)) if int(often) else count():
        print(*store.run_now(partial(work, turn=turn)), sep="\n", flush=True)
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
