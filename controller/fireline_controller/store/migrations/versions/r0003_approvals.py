"""Requests for other operators' approval."""

from alembic import op
from sqlalchemy import Column, Text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "approvals",
        Column("id", Text, primary_key=True),
        Column("digest", Text, nullable=False, index=True),
        Column("action", Text, nullable=False),
        Column("summary", Text, nullable=False),
        Column("hosts", Text, nullable=False),
        Column("parameters", Text, nullable=False),
        Column("requester", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("incident_id", Text, nullable=False),
        Column("asked_at", Text, nullable=False),
        Column("expires_at", Text, nullable=False),
        Column("demands", Text, nullable=False),
        Column("votes", Text, nullable=False),
        Column("ended", Text, nullable=False),
        Column("used_by", Text, nullable=False),
    )


def downgrade() -> None:
    """Take the table away; the journal keeps what was asked, approved and denied."""
    op.drop_table("approvals")
