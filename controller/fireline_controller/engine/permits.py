"""Leave to do one command: how it is asked for, in which words, how it is spent, and what the journal says of it."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from fireline_controller import policy, targets
from fireline_controller.engine.values import Wish
from fireline_controller.model import Entry, PolicyError
from fireline_controller.policy import Approval, Needs, Proposal
from fireline_controller.store import Transaction


@dataclass(frozen=True)
class Permit:
    """Leave to do one command. `warning` is a sentence for everybody to see: the glass was broken.

    `check` raises where what was below a rule's number is so no more, since another command came before it.
    """

    approval: Approval | None = None
    warning: str = ""
    broken: Entry | None = None
    check: Callable[[Transaction, datetime], None] | None = None

    def spend(self, tx: Transaction, *, used_by: str, at: datetime) -> None:
        """Use it, in the transaction that puts the command on record.

        Raises:
            PolicyError: another command used the approval meanwhile, or its time is over; or it needs one now.
        """
        if self.check is not None:
            self.check(tx, at)
        operation_id = used_by if used_by.startswith("op-") else ""
        if self.broken is not None:
            tx.append(replace(self.broken, at=at, operation_id=operation_id))
        if self.approval is None:
            return
        spent = tx.spend_approval(self.approval.id, used_by, at)
        if spent is None:
            message = f"{self.approval.id} was used or has expired meanwhile: repeat the command to ask again"
            raise PolicyError(message, reason="approval_required")
        tx.append(replace(entry(spent, "spent", spent.requester, at, f"used by {used_by}"), operation_id=operation_id))


def asked(proposal: Proposal, needs: Needs, wish: Wish, summary: str, now: datetime) -> Approval:
    """A new request."""
    return Approval(
        id=f"apr-{int(now.timestamp() * 1000):011x}-{secrets.token_hex(4)}",
        digest=proposal.digest,
        action=proposal.action,
        summary=summary,
        hosts=proposal.target.folded,
        parameters=dict(proposal.parameters),
        requester=proposal.requester,
        reason=wish.reason,
        incident_id=wish.incident_id,
        asked_at=now,
        expires_at=now + needs.expires,
        demands=needs.demands,
    )


def request(approval: Approval, needs: Needs) -> str:
    """What an operator is told whose command needs approval."""
    had = ", ".join(vote.by for vote in approval.votes)
    earlier = f" (with what you did alone before: {targets.fold(needs.earlier)})" if needs.earlier else ""
    wanted = f"{policy.in_words(needs.demands)}{f' (so far: {had})' if had else ''}"
    until = f"{approval.expires_at:%Y-%m-%d %H:%M:%S} UTC"
    return (
        f"{approval.summary}{earlier}: needs {wanted} until {until}: fireline approval approve {approval.id};"
        " then repeat the same command"
    )


def broken(
    verdict: Needs | policy.Refused, proposal: Proposal, wish: Wish, summary: str, now: datetime
) -> Permit | PolicyError:
    """Leave by broken glass, or why it can't be broken here."""
    without = policy.in_words(verdict.demands) if isinstance(verdict, Needs) else verdict.why
    if not verdict.break_glass:
        message = f"{summary}: the policy does not allow to break the glass here: {without}"
        return PolicyError(message, reason="policy_denied")
    warning = f"glass broken by {wish.operator}: {summary}, against the policy ({without}): {wish.break_glass}"
    data = {
        "action": proposal.action,
        "digest": proposal.digest,
        "hosts": proposal.target.folded,
        "parameters": dict(proposal.parameters),
        "reason": wish.break_glass,
        "without": without,
    }
    entry = Entry("policy.broken_glass", wish.operator, now, warning, incident_id=wish.incident_id, data=data)
    return Permit(warning=warning, broken=entry)


def entry(approval: Approval, what: str, actor: str, at: datetime, words: str, *, reason: str = "") -> Entry:
    """A line of the journal about a request: asked, approved, denied, expired, spent."""
    data = {
        "approval": approval.id,
        "digest": approval.digest,
        "action": approval.action,
        "hosts": approval.hosts,
        "parameters": dict(approval.parameters),
        "reason": reason,
        "expires_at": approval.expires_at.isoformat(),
    }
    summary = f"{approval.id}: {words}"
    return Entry(f"approval.{what}", actor, at, summary, incident_id=approval.incident_id, data=data)
