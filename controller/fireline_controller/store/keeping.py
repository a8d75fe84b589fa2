"""Verbs for what was gathered: sealed evidence, and where the vault keeps its chunks."""

from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import delete, insert, select

from fireline_controller.model import ChunkPlace, Evidence, NotFound
from fireline_controller.store import schema
from fireline_controller.store.verbs import Verbs, columns_of, value_of

_BATCH = 500  # values in one IN list: under every limit of both databases


class KeepingVerbs(Verbs):
    """Evidence and chunks."""

    def put_evidence(self, evidence: Evidence) -> None:
        """Keep the head of sealed evidence; the same manifest sealed again takes its place."""
        self._put(schema.evidence, columns_of(evidence))

    def evidence(self, evidence_id: str) -> Evidence:
        """The evidence with this id.

        Raises:
            NotFound: there is none.
        """
        query = select(schema.evidence).where(schema.evidence.c.id == evidence_id)
        row = self._connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"evidence {evidence_id!r} is not known; `fireline evidence list` shows what is kept")
        return value_of(Evidence, row)

    def evidence_list(self, incident_id: str = "", host: str = "") -> tuple[Evidence, ...]:
        """Evidence in the order in which it was sealed; of one incident, of one host, or of both."""
        table = schema.evidence
        query = select(table).order_by(table.c.sealed_at, table.c.id)
        if incident_id:
            query = query.where(table.c.incident_id == incident_id)
        if host:
            query = query.where(table.c.host == host)
        return tuple(value_of(Evidence, row) for row in self._connection.execute(query))

    def chunk_places(self, sha256s: Iterable[str]) -> dict[str, ChunkPlace]:
        """Where these chunks are kept; those that are not kept are left out."""
        table = schema.chunks
        found = {}
        for batch in _batches(list(dict.fromkeys(sha256s))):
            query = select(table).where(table.c.sha256.in_(batch))
            found.update({row.sha256: value_of(ChunkPlace, row) for row in self._connection.execute(query)})
        return found

    def put_chunks(self, places: Sequence[ChunkPlace]) -> None:
        """Remember where chunks are kept. A chunk that is known already gets the new place: the old one may be lost."""
        self._put_packs({p.pack for p in places})
        latest = {p.sha256: p for p in places}
        table = schema.chunks
        for batch in _batches(list(latest)):
            self._connection.execute(delete(table).where(table.c.sha256.in_(batch)))
        if latest:
            self._connection.execute(insert(table), [columns_of(p) for p in latest.values()])

    def _put_packs(self, names: set[str]) -> None:
        table = schema.packs
        for name in sorted(names):
            if self._connection.execute(select(table.c.pack).where(table.c.pack == name)).first() is None:
                self._connection.execute(insert(table).values(pack=name))

    def packs(self) -> set[str]:
        """The packs for which any place was ever put."""
        return set(self._connection.execute(select(schema.packs.c.pack)).scalars())


def _batches(digests: list[str]) -> Iterator[list[str]]:
    return (digests[start : start + _BATCH] for start in range(0, len(digests), _BATCH))
