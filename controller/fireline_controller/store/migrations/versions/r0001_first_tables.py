"""The first tables: fleet, operations, incidents, evidence, journal."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, Text

revision = "0001"
down_revision = None

_number = BigInteger().with_variant(Integer(), "sqlite")


def upgrade() -> None:
    """Make all tables."""
    _fleet()
    _work()
    _record()


def _fleet() -> None:
    op.create_table(
        "hosts",
        Column("name", Text, primary_key=True),
        Column("address", Text, nullable=False),
        Column("labels", Text, nullable=False),
        Column("generation", _number, nullable=False),
        Column("enrolled_at", Text, nullable=False),
        Column("certificate_serial", Text, nullable=False),
        Column("certificate_not_after", Text, nullable=False),
        Column("removed", Boolean, nullable=False),
    )
    op.create_table(
        "certificates",
        Column("serial", Text, primary_key=True),
        Column("identity", Text, nullable=False, index=True),
        Column("generation", _number, nullable=False),
        Column("key_id", Text, nullable=False, index=True),
        Column("pem", Text, nullable=False),
        Column("not_before", Text, nullable=False),
        Column("not_after", Text, nullable=False),
        Column("revoked_at", Text, index=True),
    )
    op.create_table(
        "tokens",
        Column("secret_sha256", Text, primary_key=True),
        Column("host", Text, nullable=False),
        Column("labels", Text, nullable=False),
        Column("created_by", Text, nullable=False),
        Column("expires_at", Text, nullable=False),
        Column("spent_at", Text),
    )


def _work() -> None:
    op.create_table(
        "operations",
        Column("id", Text, primary_key=True),
        Column("kind", Text, nullable=False),
        Column("incident_id", Text, nullable=False, index=True),
        Column("operator", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("target_hosts", Text, nullable=False),
        Column("target_sha256", Text, nullable=False),
        Column("target_folded", Text, nullable=False),
        Column("target_spelled", Text, nullable=False),
        Column("started_at", Text, nullable=False),
        Column("finished_at", Text, index=True),
        Column("profile", Text, nullable=False),
        Column("retry_of", Text, nullable=False),
        Column("outcomes", Text, nullable=False),
    )
    op.create_table(
        "incidents",
        Column("id", Text, primary_key=True),
        Column("severity", Text, nullable=False),
        Column("title", Text, nullable=False),
        Column("phase", Text, nullable=False),
        Column("opened_at", Text, nullable=False),
        Column("opened_by", Text, nullable=False),
        Column("target", Text, nullable=False),
    )


def _record() -> None:
    op.create_table(
        "evidence",
        Column("id", Text, primary_key=True),
        Column("host", Text, nullable=False, index=True),
        Column("incident_id", Text, nullable=False, index=True),
        Column("operation_id", Text, nullable=False),
        Column("profile", Text, nullable=False),
        Column("sealed_at", Text, nullable=False),
        Column("artifacts", _number, nullable=False),
        Column("total_bytes", _number, nullable=False),
        Column("partial", Boolean, nullable=False),
        Column("manifest_sha256", Text, nullable=False),
        Column("manifest_bytes", _number, nullable=False),
        Column("receipt", LargeBinary, nullable=False),
        Column("host_chain_pem", Text, nullable=False),
    )
    op.create_table("packs", Column("pack", Text, primary_key=True))
    op.create_table(
        "chunks",
        Column("sha256", LargeBinary, primary_key=True),
        Column("pack", Text, sa.ForeignKey("packs.pack"), nullable=False),
        Column("offset", _number, nullable=False),
        Column("stored_bytes", _number, nullable=False),
        Column("raw_bytes", _number, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "journal",
        Column("seq", _number, primary_key=True, autoincrement=False),
        Column("hash", Text, nullable=False),
        Column("incident_id", Text, nullable=False),
        Column("canonical", LargeBinary, nullable=False),
    )
    op.create_index("ix_journal_incident_id_seq", "journal", ["incident_id", "seq"])
    op.create_table(
        "checkpoints",
        Column("seq", _number, primary_key=True, autoincrement=False),
        Column("hash", Text, nullable=False),
        Column("envelope", LargeBinary, nullable=False),
    )
    counters = op.create_table(
        "counters", Column("name", Text, primary_key=True), Column("value", _number, nullable=False)
    )
    op.bulk_insert(
        counters,
        [{"name": "fence_token", "value": 0}, {"name": "deny_list", "value": 0}, {"name": "fleet", "value": 0}],
    )


def downgrade() -> None:
    """Refuse: a journal is never taken away.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError("the first tables hold the journal; they are not taken away")
