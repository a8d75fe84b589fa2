"""Runs of runbooks with their moves, and who alone may change a host."""

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary, Text, UniqueConstraint

revision = "0004"
down_revision = "0003"

_NUMBER = BigInteger().with_variant(Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "runs",
        Column("id", Text, primary_key=True),
        Column("runbook", Text, nullable=False),
        Column("version", _NUMBER, nullable=False),
        Column("sha256", Text, nullable=False),
        Column("content", LargeBinary, nullable=False),
        Column("params", Text, nullable=False),
        Column("hosts", Text, nullable=False),
        Column("labels", Text, nullable=False),
        Column("spelled", Text, nullable=False),
        Column("incident_id", Text, nullable=False, index=True),
        Column("operator", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("started_at", Text, nullable=False),
        Column("state", Text, nullable=False, index=True),
        Column("why", Text, nullable=False),
        Column("wish", Text, nullable=False),
        Column("wished_by", Text, nullable=False),
        Column("position", Text, nullable=False),
        Column("finished_at", Text),
        Column("owner", Text, nullable=False),
        Column("owned_until", Text),
        Column("tenure", _NUMBER, nullable=False),
    )
    op.create_table(
        "run_moves",
        Column("run_id", Text, ForeignKey("runs.id"), primary_key=True),
        Column("seq", _NUMBER, primary_key=True, autoincrement=False),
        Column("key", Text, nullable=False),
        Column("move", Text, nullable=False),
        Column("started_at", Text, nullable=False),
        Column("finished_at", Text),
        Column("ends", Text),
        UniqueConstraint("run_id", "key", name="uq_run_moves_run_id_key"),
    )
    op.create_table(
        "host_locks",
        Column("host", Text, primary_key=True),
        Column("owner", Text, nullable=False, index=True),
        Column("operator", Text, nullable=False),
        Column("what", Text, nullable=False),
        Column("since", Text, nullable=False),
        Column("expires_at", Text, nullable=False),
    )


def downgrade() -> None:
    """Take the tables away; the journal keeps what was done."""
    op.drop_table("host_locks")
    op.drop_table("run_moves")
    op.drop_table("runs")
