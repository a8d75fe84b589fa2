"""The tables, as the code of today reads and writes them. Their history is in `migrations`; a test holds both together.

A column has the name of the model's field that it keeps.
"""

from typing import Final

from sqlalchemy import Boolean, Column, ForeignKey, Index, LargeBinary, MetaData, Table, Text, UniqueConstraint

from fireline_controller.isolation import Phase
from fireline_controller.model import Severity
from fireline_controller.runbooks.record import RunState, RunWish
from fireline_controller.store.columns import Choice, Digest, Instant, Json, Number, Words

HEAD: Final = "0004"  # the migration at which these tables are; a store that is stamped with it needs no alembic

metadata = MetaData()

hosts = Table(
    "hosts",
    metadata,
    Column("name", Words, primary_key=True),
    Column("address", Words, nullable=False),
    Column("labels", Json, nullable=False),
    Column("generation", Number, nullable=False),
    Column("enrolled_at", Instant, nullable=False),
    Column("certificate_serial", Words, nullable=False),
    Column("certificate_not_after", Instant, nullable=False),
    Column("removed", Boolean, nullable=False),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", Words, primary_key=True),
    Column("identity", Words, nullable=False, index=True),
    Column("generation", Number, nullable=False),
    Column("key_id", Words, nullable=False, index=True),
    Column("pem", Words, nullable=False),
    Column("not_before", Instant, nullable=False),
    Column("not_after", Instant, nullable=False),
    Column("revoked_at", Instant, index=True),
)

tokens = Table(
    "tokens",
    metadata,
    Column("secret_sha256", Words, primary_key=True),
    Column("host", Words, nullable=False),
    Column("labels", Json, nullable=False),
    Column("created_by", Words, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("spent_at", Instant),
)

operations = Table(
    "operations",
    metadata,
    Column("id", Words, primary_key=True),
    Column("kind", Words, nullable=False),
    Column("incident_id", Words, nullable=False, index=True),
    Column("operator", Words, nullable=False),
    Column("reason", Words, nullable=False),
    Column("target_hosts", Json, nullable=False),
    Column("target_sha256", Words, nullable=False),
    Column("target_folded", Words, nullable=False),
    Column("target_spelled", Words, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("finished_at", Instant, index=True),
    Column("profile", Words, nullable=False),
    Column("retry_of", Words, nullable=False),
    # Written once, read whole: a document costs a tenth of a row for each of 1,000 hosts.
    Column("outcomes", Json, nullable=False),
)

isolations = Table(
    "isolations",
    metadata,
    Column("order_id", Words, primary_key=True),
    Column("host", Words, nullable=False, index=True),
    Column("scope", Words, nullable=False),
    Column("phase", Choice(Phase), nullable=False, index=True),
    Column("operation_id", Words, nullable=False),
    Column("incident_id", Words, nullable=False),
    Column("operator", Words, nullable=False),
    Column("reason", Words, nullable=False),
    Column("code", Words, nullable=False),
    Column("controllers", Json, nullable=False),
    Column("allowances", Json, nullable=False),
    Column("lease_s", Number, nullable=False),
    Column("fence_token", Number, nullable=False),
    Column("force", Words, nullable=False),
    Column("unproved", Words, nullable=False),
    Column("without_evidence", Boolean, nullable=False),
    Column("ordered_at", Instant, nullable=False),
    Column("places", Json, nullable=False),
    Column("proof", Words, nullable=False),
    Column("armed_at", Instant),
    Column("committed_at", Instant),
    Column("ended_at", Instant),
    Column("not_after", Instant),
)

incidents = Table(
    "incidents",
    metadata,
    Column("id", Words, primary_key=True),
    Column("severity", Choice(Severity), nullable=False),
    Column("title", Words, nullable=False),
    Column("phase", Words, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("opened_by", Words, nullable=False),
    Column("target", Words, nullable=False),
)

evidence = Table(
    "evidence",
    metadata,
    Column("id", Words, primary_key=True),
    Column("host", Words, nullable=False, index=True),
    Column("incident_id", Words, nullable=False, index=True),
    Column("operation_id", Words, nullable=False),
    Column("profile", Words, nullable=False),
    Column("sealed_at", Instant, nullable=False),
    Column("artifacts", Number, nullable=False),
    Column("total_bytes", Number, nullable=False),
    Column("partial", Boolean, nullable=False),
    Column("manifest_sha256", Words, nullable=False),
    Column("manifest_bytes", Number, nullable=False),
    Column("receipt", LargeBinary, nullable=False),
    Column("host_chain_pem", Words, nullable=False),
)

packs = Table("packs", metadata, Column("pack", Words, primary_key=True))

# Without a row id: one tree instead of two for the table that grows with every MiB of evidence.
chunks = Table(
    "chunks",
    metadata,
    Column("sha256", Digest, primary_key=True),
    Column("pack", Words, ForeignKey("packs.pack"), nullable=False),
    Column("offset", Number, nullable=False),
    Column("stored_bytes", Number, nullable=False),
    Column("raw_bytes", Number, nullable=False),
    sqlite_with_rowid=False,
)

# The canonical bytes are the truth; incident_id is their filing, and `journal.verify` compares both.
lines = Table(
    "journal",
    metadata,
    Column("seq", Number, primary_key=True, autoincrement=False),
    Column("hash", Text, nullable=False),
    Column("incident_id", Words, nullable=False),
    Column("canonical", LargeBinary, nullable=False),
    Index("ix_journal_incident_id_seq", "incident_id", "seq"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("seq", Number, primary_key=True, autoincrement=False),
    Column("hash", Text, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", Words, primary_key=True),
    Column("digest", Words, nullable=False, index=True),
    Column("action", Words, nullable=False),
    Column("summary", Words, nullable=False),
    Column("hosts", Words, nullable=False),
    Column("parameters", Json, nullable=False),
    Column("requester", Words, nullable=False),
    Column("reason", Words, nullable=False),
    Column("incident_id", Words, nullable=False),
    Column("asked_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("demands", Json, nullable=False),
    Column("votes", Json, nullable=False),
    Column("ended", Words, nullable=False),
    Column("used_by", Words, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Words, primary_key=True),
    Column("runbook", Words, nullable=False),
    Column("version", Number, nullable=False),
    Column("sha256", Words, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("params", Json, nullable=False),
    Column("hosts", Json, nullable=False),
    Column("labels", Json, nullable=False),
    Column("spelled", Words, nullable=False),
    Column("incident_id", Words, nullable=False, index=True),
    Column("operator", Words, nullable=False),
    Column("reason", Words, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("state", Choice(RunState), nullable=False, index=True),
    Column("why", Words, nullable=False),
    Column("wish", Choice(RunWish), nullable=False),
    Column("wished_by", Words, nullable=False),
    Column("position", Words, nullable=False),
    Column("finished_at", Instant),
    Column("owner", Words, nullable=False),
    Column("owned_until", Instant),
    Column("tenure", Number, nullable=False),
)

# The moves of a run in the order in which they were begun. The outcomes are written once, read whole.
run_moves = Table(
    "run_moves",
    metadata,
    Column("run_id", Words, ForeignKey("runs.id"), primary_key=True),
    Column("seq", Number, primary_key=True, autoincrement=False),
    Column("key", Words, nullable=False),
    Column("move", Json, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("finished_at", Instant),
    Column("ends", Json),
    UniqueConstraint("run_id", "key", name="uq_run_moves_run_id_key"),
)

host_locks = Table(
    "host_locks",
    metadata,
    Column("host", Words, primary_key=True),
    Column("owner", Words, nullable=False, index=True),
    Column("operator", Words, nullable=False),
    Column("what", Words, nullable=False),
    Column("since", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
)

# Numbers that only grow: fence_token, deny_list.
counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Number, nullable=False),
)
