"""What freezing and pausing share: taking over what is stopped already, ending its lease, letting it go.

Blocking.
"""

from dataclasses import replace
from pathlib import Path

from fireline_agent.hands import freezer
from fireline_agent.isolation import holds
from fireline_agent.isolation.containers import Containers
from fireline_agent.isolation.holds import Hold
from fireline_agent.isolation.means import MeansError
from fireline_agent.isolation.model import table_name
from fireline_wire.isolation import IsolationOrder


def let_go(folder: Path, name: str, hold: Hold) -> None:
    """Let go on what is stopped, where it was.

    Raises:
        MeansError: the engine does not answer.
    """
    found = freezer.find()
    if found is not None and hold.is_of_this_boot:
        group = found.group(name)
        group.thaw()
        origins = {member.pid: member.origin for member in hold.members}
        for pid in group.pids():  # children that were born on the way in go where nobody else is
            found.put_back(pid, origins.get(pid, ""))
        group.remove()
    for container_id in hold.containers:
        _unpause(Containers(Path(hold.socket)), container_id)
    holds.forget(folder, name)


def _unpause(containers: Containers, container_id: str) -> None:
    """One that is gone, or goes on already, is what was wanted."""
    try:
        containers.unpause(container_id)
    except MeansError as error:
        if "not paused" not in str(error) and "o such container" not in str(error):
            raise


def taken_over(folder: Path, name: str, replaced: tuple[str, ...]) -> Hold | None:
    """What is stopped already, by this order or by those that it takes the place of; theirs is forgotten."""
    found = [hold for n in (name, *map(table_name, replaced)) if (hold := holds.load(folder, n)) is not None]
    living = [hold for hold in found if hold.is_of_this_boot]
    if not living:
        return found[0] if found else None
    return replace(
        living[0],
        members=tuple(member for hold in living for member in hold.members),
        containers=tuple(dict.fromkeys(one for hold in living for one in hold.containers)),
    )


def forget_replaced(folder: Path, replaced: tuple[str, ...]) -> None:
    """Their part is another order's now."""
    for name in map(table_name, replaced):
        holds.forget(folder, name)


def make_permanent(folder: Path, order: IsolationOrder) -> None:
    """End the lease.

    Raises:
        MeansError: it has run out.
    """
    name = table_name(order.order_id)
    hold = holds.load(folder, name)
    if hold is None or hold.left_ms == 0:
        raise MeansError("the lease ran out")
    holds.save(folder, name, replace(hold, until=None))


def lift(folder: Path, order: IsolationOrder) -> None:
    """Let go of what is stopped for an order.

    Raises:
        MeansError: the engine does not answer.
    """
    name = table_name(order.order_id)
    hold = holds.load(folder, name)
    if hold is not None:
        let_go(folder, name, hold)
