"""Whom an isolation would hurt: groups that lose their last healthy member, and the controller itself."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fireline_controller.model import Host


@dataclass(frozen=True)
class Group:
    """Hosts with one value of the group label: those that would be cut off, and those that may carry on, by name."""

    label: str
    value: str
    cut: tuple[str, ...]
    others: tuple[str, ...]

    def hurt(self, healthy: Collection[str]) -> str:
        """Why this group must not lose these members, or nothing: one of the others is healthy."""
        if set(self.others) & set(healthy):
            return ""
        lost = ", ".join(self.cut)
        why = f"none of the others ({', '.join(self.others)}) can be reached" if self.others else "it has no other"
        return f"{self.label}={self.value} would lose its last healthy member{'s' * (len(self.cut) > 1)} {lost}: {why}"


def groups_hurt(
    hosts: Sequence[Host], *, targeted: Collection[str], isolated: Collection[str], label: str
) -> tuple[Group, ...]:
    """The groups that would lose a member which is not isolated yet, with who is left of each, sorted by value.

    Whether those that are left can be reached is for the caller to find out.
    """
    members: defaultdict[str, list[str]] = defaultdict(list)
    for host in hosts:
        if not host.removed and host.name not in isolated and host.labels.get(label):
            members[host.labels[label]].append(host.name)
    return tuple(
        Group(label, value, cut, tuple(sorted(set(names) - set(cut))))
        for value, names in sorted(members.items())
        if (cut := tuple(sorted(set(names) & set(targeted))))
    )


def own_host(
    *, machine_id: str, addresses: Collection[str], own_machine_id: str, own_addresses: Collection[str]
) -> str:
    """Why a host that says this of itself may be the controller's own, or nothing.

    It is the host's own word: one that is in the wrong hands may say it in order to be spared.
    """
    if machine_id and machine_id == own_machine_id:
        return f"it says that its machine id is {machine_id}, which is this controller's own"
    ours = sorted(set(addresses) & set(own_addresses))
    return f"it says that its address is {ours[0]}, which is this controller's own" if ours else ""
