"""Whether a command may be done, and whose word on it counts."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase

from fireline_controller import targets
from fireline_controller.policy.values import (
    Allowed,
    Approval,
    Circumstances,
    Demand,
    Needs,
    Proposal,
    Refused,
    Rule,
    Verdict,
    standing,
)


def binding(rules: Iterable[Rule], proposal: Proposal, around: Circumstances) -> tuple[Rule, ...]:
    """The rules that bind a command; one that addresses no host is bound whatever the number."""
    return tuple(rule for rule in rules if _binds(rule, proposal, around))


def _binds(rule: Rule, proposal: Proposal, around: Circumstances) -> bool:
    if proposal.action not in rule.actions or not _is_such(rule, proposal):
        return False
    if not proposal.target.hosts:
        return True
    counted = _counted(rule, proposal, around)
    return not counted.isdisjoint(proposal.target.hosts) and len(counted) > rule.above


def _is_such(rule: Rule, proposal: Proposal) -> bool:
    """Whether one of the actions that a command may do is of the kind that a rule is for.

    Its parameter `actions` has their names with the risks of each. One that doesn't say them may be of every kind.
    """
    actions: Mapping[str, Collection[str]] | None = proposal.parameters.get("actions")
    if proposal.action != "remediate" or not (rule.named or rule.risks) or actions is None:
        return True
    named = [risks for name, risks in actions.items() if any(fnmatchcase(name, p) for p in rule.named or ("*",))]
    return any(not rule.risks or not frozenset(rule.risks).isdisjoint(risks) for risks in named)


def _counted(rule: Rule, proposal: Proposal, around: Circumstances) -> frozenset[str]:
    """The hosts that a rule counts: the command's that it selects, and those that the requester addressed before."""
    earlier = {name for name, at in around.alone.items() if around.now - at < rule.within}
    return targets.selected(rule.target, around.hosts) & earlier.union(proposal.target.hosts)


def decide(rules: Sequence[Rule], proposal: Proposal, around: Circumstances, *, approval: Approval | None) -> Verdict:
    """Whether a command may be done now. Every rule that binds it must be satisfied.

    Args:
        rules: as they are now, not as they were when approval was asked.
        proposal: the command.
        around: what else it depends on.
        approval: the newest request for it, if there is one.
    """
    bound = binding(rules, proposal, around)
    if not bound:
        return Allowed()
    may_break = all(rule.break_glass for rule in bound)
    demands = tuple(dict.fromkeys(Demand(rule.approvals, rule.operators) for rule in bound))
    others = around.operators - {proposal.requester}
    if why := _out_of_reach(demands, others):
        return Refused(why, may_break)
    if approval is not None and _is_of(approval, proposal, around.now):
        if why := _denial(approval, demands, others):
            return Refused(why, may_break)
        approved = frozenset(vote.by for vote in approval.votes if vote.approves)
        if all(len(approved & _voices(demand, others)) >= demand.approvals for demand in demands):
            return Allowed(tuple(sorted(approved & frozenset().union(*(_voices(d, others) for d in demands)))))
    return Needs(demands, min(rule.expires for rule in bound), may_break, _earlier(bound, proposal, around))


def _earlier(bound: Iterable[Rule], proposal: Proposal, around: Circumstances) -> tuple[str, ...]:
    found: set[str] = set()
    for rule in bound:
        counted, own = _counted(rule, proposal, around), frozenset(proposal.target.hosts)
        if len(counted & own) <= rule.above:
            found |= counted - own
    return tuple(sorted(found))


def objection(approval: Approval, by: str, *, operators: Collection[str], now: datetime) -> str:
    """Why this operator's word on a request can't count; empty when it can."""
    others = frozenset(operators) - {approval.requester}
    if by == approval.requester:
        return f"{by} asked for it: somebody else must decide"
    if (found := standing(approval, now)) != "open":
        return f"it is {found}{_since(approval, found)}"
    if any(vote.by == by for vote in approval.votes):
        return f"{by} has approved it already"
    if not any(by in _voices(demand, others) for demand in approval.demands):
        return f"{by} has no say in it: it needs {in_words(approval.demands)}"
    return ""


def is_met(approval: Approval, operators: Collection[str]) -> bool:
    """Whether enough of those whose word counts have approved a request, by the demands that it was asked with."""
    others = frozenset(operators) - {approval.requester}
    approved = frozenset(vote.by for vote in approval.votes if vote.approves)
    return all(len(approved & _voices(demand, others)) >= demand.approvals for demand in approval.demands)


def in_words(demands: Iterable[Demand]) -> str:
    """What a command needs, in words."""
    return " and ".join(map(str, demands))


def _since(approval: Approval, found: str) -> str:
    if found == "expired":
        return f" since {approval.expires_at:%Y-%m-%d %H:%M:%S} UTC"
    if found == "spent":
        return f", by {approval.used_by}"
    return "".join(f", by {vote.by}" for vote in approval.votes if not vote.approves)


def _is_of(approval: Approval, proposal: Proposal, now: datetime) -> bool:
    """Whether what was said on a request holds for this command now."""
    same = (approval.digest, approval.requester) == (proposal.digest, proposal.requester)
    return same and approval.ended in ("", "denied") and now < approval.expires_at


def _voices(demand: Demand, others: frozenset[str]) -> frozenset[str]:
    """Who can meet a demand."""
    return others & frozenset(demand.operators) if demand.operators else others


def _out_of_reach(demands: Iterable[Demand], others: frozenset[str]) -> str:
    """What can't be met, however long one waits; empty when all can."""
    for demand in demands:
        voices = _voices(demand, others)
        if len(voices) < demand.approvals:
            who = f"only {', '.join(sorted(voices))} can give one" if voices else "nobody can give one"
            return f"it needs {demand}, and {who}; add operators: fireline operator add NAME"
    return ""


def _denial(approval: Approval, demands: Iterable[Demand], others: frozenset[str]) -> str:
    heard = frozenset().union(*(_voices(demand, others) for demand in demands))
    for vote in approval.votes:
        if not vote.approves and vote.by in heard:
            because = f": {vote.reason}" if vote.reason else ""
            until = f"{approval.expires_at:%H:%M:%S} UTC"
            return f"{vote.by} denied it ({approval.id}){because}; it can't be asked again before {until}"
    return ""
