"""Isolations: what was ordered for which host, and how far it has come."""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Integer, Text

revision = "0002"
down_revision = "0001"

_number = BigInteger().with_variant(Integer(), "sqlite")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "isolations",
        Column("order_id", Text, primary_key=True),
        Column("host", Text, nullable=False, index=True),
        Column("scope", Text, nullable=False),
        Column("phase", Text, nullable=False, index=True),
        Column("operation_id", Text, nullable=False),
        Column("incident_id", Text, nullable=False),
        Column("operator", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("code", Text, nullable=False),
        Column("controllers", Text, nullable=False),
        Column("allowances", Text, nullable=False),
        Column("lease_s", _number, nullable=False),
        Column("fence_token", _number, nullable=False),
        Column("force", Text, nullable=False),
        Column("unproved", Text, nullable=False),
        Column("without_evidence", Boolean, nullable=False),
        Column("ordered_at", Text, nullable=False),
        Column("places", Text, nullable=False),
        Column("proof", Text, nullable=False),
        Column("armed_at", Text),
        Column("committed_at", Text),
        Column("ended_at", Text),
        Column("not_after", Text),
    )


def downgrade() -> None:
    """Refuse: the codes of hosts that are isolated would be lost.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError("isolations hold the codes of isolated hosts; they are not taken away")
