"""Two persons for what one must not do alone: asks for approval, hears it, and lets a command pass once it is there.

Which commands that are is decided by `policy` from `policy.toml` in the state folder, read anew each time. A permit is
spent in the transaction that puts the command on record, so that one approval serves one command.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from fireline_controller import policy
from fireline_controller.engine import permits
from fireline_controller.engine.permits import Permit
from fireline_controller.engine.values import Wish
from fireline_controller.model import ConfigError, PolicyError, Target
from fireline_controller.policy import Approval, Proposal, Vote
from fireline_controller.store import Store, Transaction

_MAX_RULES_BYTES: Final = 1 << 20  # a policy is a page of text; this protects against a wrong path


class Approvals:
    """Requests for approval.

    Args:
        store: where they are kept.
        file: the policy; without it nothing needs approval.
        operators: who is an operator at a time.
        now: the clock.
    """

    def __init__(
        self,
        store: Store,
        file: Path,
        operators: Callable[[Transaction, datetime], frozenset[str]],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._file = file
        self._operators = operators
        self._now = now

    async def rules(self) -> Sequence[policy.Rule]:
        """The rules that are in force.

        Raises:
            ConfigError: the file is wrong or can't be read; nothing that a rule could bind passes until it is mended.
        """
        return await asyncio.to_thread(_read, self._file)

    async def require(
        self, action: str, target: Target, parameters: Mapping[str, Any], wish: Wish, *, summary: str
    ) -> Permit:
        """Let a command pass, or ask the others.

        Args:
            action: one of `policy.ACTIONS`.
            target: frozen.
            parameters: JSON values, all that changes what happens on a host; an approval is for exactly these.
            wish: by whom and why; `break_glass` passes without approval where every rule allows it.
            summary: what is to be done, in words, for those who approve.

        Raises:
            PolicyError: approval_required: the message names the request, who must approve, until when and how;
                policy_denied: it was denied, or can't be approved by anybody.
            ConfigError: the policy is wrong.
        """
        rules = [rule for rule in await self.rules() if action in rule.actions]
        if not rules:
            return Permit()
        proposal, now = Proposal(action, target, parameters, wish.operator), self._now()

        def judge(tx: Transaction) -> Permit | PolicyError:
            """An error is returned, not raised, since raising it would take back the request that it names."""
            return self._judged(tx, rules, proposal, wish, summary, now)

        found = await self._store.run(judge)
        if isinstance(found, PolicyError):
            raise found
        return found

    def _judged(
        self,
        tx: Transaction,
        rules: Sequence[policy.Rule],
        proposal: Proposal,
        wish: Wish,
        summary: str,
        now: datetime,
    ) -> Permit | PolicyError:
        around = self._around(tx, rules, proposal, now)
        if not policy.binding(rules, proposal, around):
            return Permit(check=partial(self._require_unbound, rules, proposal, summary))
        approval = _expired(tx, tx.newest_approval(proposal.digest, proposal.requester), now)
        verdict = policy.decide(rules, proposal, around, approval=approval)
        if isinstance(verdict, policy.Allowed):
            return Permit(approval)
        if wish.break_glass:
            return permits.broken(verdict, proposal, wish, summary, now)
        if isinstance(verdict, policy.Refused):
            return PolicyError(f"{summary}: {verdict.why}", reason="policy_denied")
        if approval is None or policy.standing(approval, now) != "open" or approval.demands != verdict.demands:
            approval = permits.asked(proposal, verdict, wish, summary, now)
            tx.put_approval(approval)
            words = f"{wish.operator} asks for approval: {summary}"
            tx.append(permits.entry(approval, "asked", wish.operator, now, words, reason=wish.reason))
        return PolicyError(permits.request(approval, verdict), reason="approval_required")

    async def outlook(self, action: str, target: Target, parameters: Mapping[str, Any], operator: str) -> str:
        """What `require` would want of others now, in words; empty for nothing. Asks nobody.

        Raises:
            ConfigError: the policy is wrong.
        """
        rules = [rule for rule in await self.rules() if action in rule.actions]
        if not rules:
            return ""
        proposal, now = Proposal(action, target, parameters, operator), self._now()

        def judge(tx: Transaction) -> policy.Verdict:
            approval = tx.newest_approval(proposal.digest, operator)
            return policy.decide(rules, proposal, self._around(tx, rules, proposal, now), approval=approval)

        verdict = await self._store.read(judge)
        if isinstance(verdict, policy.Needs):
            return f"needs {policy.in_words(verdict.demands)}"
        return f"refused: {verdict.why}" if isinstance(verdict, policy.Refused) else ""

    def _around(
        self, tx: Transaction, rules: Sequence[policy.Rule], proposal: Proposal, now: datetime
    ) -> policy.Circumstances:
        since = now - max(rule.within for rule in rules)
        alone = tx.addressed_alone(proposal.action, proposal.requester, since)
        return policy.Circumstances(now, tx.hosts(), self._operators(tx, now), alone)

    def _require_unbound(
        self, rules: Sequence[policy.Rule], proposal: Proposal, summary: str, tx: Transaction, at: datetime
    ) -> None:
        if policy.binding(rules, proposal, self._around(tx, rules, proposal, at)):
            message = f"{summary}: needs approval, for you did more alone meanwhile: repeat the command to ask for it"
            raise PolicyError(message, reason="approval_required")

    async def newest(self, limit: int) -> Sequence[Approval]:
        """The newest requests first."""
        return await self._store.read(lambda tx: tx.approvals(limit))

    async def show(self, approval_id: str) -> Approval:
        """One request.

        Raises:
            NotFound: it is not known.
        """
        return await self._store.read(lambda tx: tx.approval(approval_id))

    def standing(self, approval: Approval) -> str:
        """What has become of a request by now: `open`, `spent`, `denied` or `expired`."""
        return policy.standing(approval, self._now())

    async def decide(self, approval_id: str, *, operator: str, approves: bool, reason: str) -> Approval:
        """Approve or deny a request, once for each operator. One denial ends it.

        Raises:
            NotFound: it is not known.
            PolicyError: this operator's word can't count: the requester, nobody whom the rules name, or too late.
        """
        now = self._now()

        def record(tx: Transaction) -> Approval | PolicyError:
            approval = tx.approval(approval_id)
            _expired(tx, approval, now)
            if why := policy.objection(approval, operator, operators=self._operators(tx, now), now=now):
                return PolicyError(f"{approval_id}: {why}", reason="policy_denied")
            vote = Vote(operator, now, approves, reason)
            heard = replace(approval, votes=(*approval.votes, vote), ended="" if approves else "denied")
            tx.put_approval(heard)
            word = "approved" if approves else "denied"
            tx.append(
                permits.entry(heard, word, operator, now, f"{operator} {word}: {approval.summary}", reason=reason)
            )
            return heard

        found = await self._store.run(record)
        if isinstance(found, PolicyError):
            raise found
        return found


def _read(file: Path) -> Sequence[policy.Rule]:
    try:
        with file.open("rb") as source:
            raw = source.read(_MAX_RULES_BYTES + 1)
        if len(raw) > _MAX_RULES_BYTES:
            raise ConfigError(f"{file}: over {_MAX_RULES_BYTES} bytes: this is no policy")
        return policy.parse(raw.decode(), file=str(file))
    except FileNotFoundError:
        return ()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text at byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"{file}: can't be read: {error.strerror}") from None


def _expired(tx: Transaction, approval: Approval | None, now: datetime) -> Approval | None:
    """The request as it is; that its time ran out unused is put on record by whoever finds it."""
    if approval is not None and not approval.ended and policy.standing(approval, now) == "expired":
        approval = replace(approval, ended="expired")
        tx.put_approval(approval)
        tx.append(permits.entry(approval, "expired", "controller", now, "expired without being used"))
    return approval
