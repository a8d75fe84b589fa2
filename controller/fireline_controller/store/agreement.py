"""Verbs for requests for approval, and what operators said on them."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select

from fireline_controller.model import NotFound
from fireline_controller.policy import Approval, Demand, Vote
from fireline_controller.store import schema
from fireline_controller.store.verbs import Verbs, columns_of


class AgreementVerbs(Verbs):
    """Requests for approval."""

    def put_approval(self, approval: Approval) -> None:
        """Keep a request as it is now, in place of what was kept under its id."""
        demands = [columns_of(demand) for demand in approval.demands]
        votes = [columns_of(vote) | {"at": vote.at.isoformat()} for vote in approval.votes]
        self._put(schema.approvals, columns_of(approval) | {"demands": demands, "votes": votes})

    def approval(self, approval_id: str) -> Approval:
        """The request with this id.

        Raises:
            NotFound: there is none.
        """
        table = schema.approvals
        row = self._connection.execute(select(table).where(table.c.id == approval_id)).one_or_none()
        if row is None:
            raise NotFound(f"request {approval_id!r} is not known; `fireline approval list` shows those that are")
        return _approval_of(row)

    def newest_approval(self, digest: str, requester: str) -> Approval | None:
        """The request that this operator asked last for what has this digest; None when there is none."""
        table = schema.approvals
        query = select(table).where(table.c.digest == digest, table.c.requester == requester)
        row = self._connection.execute(query.order_by(table.c.asked_at.desc(), table.c.id.desc()).limit(1)).first()
        return None if row is None else _approval_of(row)

    def approvals(self, limit: int = 100) -> tuple[Approval, ...]:
        """The latest requests, newest first."""
        table = schema.approvals
        query = select(table).order_by(table.c.asked_at.desc(), table.c.id.desc()).limit(limit)
        return tuple(_approval_of(row) for row in self._connection.execute(query))

    def addressed_alone(self, kind: str, operator: str, since: datetime) -> dict[str, datetime]:
        """The hosts of operations of this kind that an operator started after this time without approval, and when."""
        table = schema.operations
        approved = select(schema.approvals.c.used_by)
        query = (
            select(table.c.target_hosts, table.c.started_at)
            .where(table.c.kind == kind, table.c.operator == operator, table.c.started_at > since)
            .where(table.c.id.not_in(approved))
            .order_by(table.c.started_at)
        )
        return {name: row.started_at for row in self._connection.execute(query) for name in row.target_hosts}

    def spend_approval(self, approval_id: str, used_by: str, now: datetime) -> Approval | None:
        """Spend a request: of any number of commands at once, one gets it. None: it has ended, or its time is over."""
        approval = self.approval(approval_id)
        if approval.ended or now >= approval.expires_at:
            return None
        spent = replace(approval, ended="spent", used_by=used_by)
        self.put_approval(spent)
        return spent


def _approval_of(row: Row[Any]) -> Approval:
    values = row._asdict()
    demands = tuple(Demand(d["approvals"], tuple(d["operators"])) for d in values.pop("demands"))
    votes = tuple(_vote_of(v) for v in values.pop("votes"))
    return Approval(**values, demands=demands, votes=votes)


def _vote_of(document: Mapping[str, Any]) -> Vote:
    return Vote(**{**document, "at": datetime.fromisoformat(document["at"])})
