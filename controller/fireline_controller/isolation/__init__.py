"""What is decided about isolations: who looks on, whether a host is dark, whom it would hurt. Pure, as `targets` is.

Leaves to others: asking hosts and witnesses (engine), the rules on a host (the agent), keeping the record (store).
"""

from fireline_controller.isolation.harm import Group, groups_hurt, own_host
from fireline_controller.isolation.proof import Verdict, answered, judge, restored
from fireline_controller.isolation.values import IN_FORCE, STANDING, How, Isolation, Phase, Sight
from fireline_controller.isolation.witnesses import candidates

__all__ = [
    "IN_FORCE",
    "STANDING",
    "Group",
    "How",
    "Isolation",
    "Phase",
    "Sight",
    "Verdict",
    "answered",
    "candidates",
    "groups_hurt",
    "judge",
    "own_host",
    "restored",
]
