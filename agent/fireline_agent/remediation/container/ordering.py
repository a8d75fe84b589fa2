"""In which order containers are started: those that others depend on first. Pure."""

from collections.abc import Sequence

from fireline_agent.remediation.container.selection import Container


def dependencies_first(found: Sequence[Container]) -> tuple[list[Container], list[str]]:
    """The containers with every service after those of its project that it needs, by name where nothing says more.

    Returns: the containers, and a warning for each circle, which is cut at the service that comes first by name.
    """
    services = sorted({(c.project, c.service) for c in found})
    wants = {
        (c.project, c.service): sorted({(c.project, need) for need in c.needs if (c.project, need) in set(services)})
        for c in found
    }
    order, warnings = _sorted(services, wants)
    place = {service: index for index, service in enumerate(order)}
    return sorted(found, key=lambda c: (place[c.project, c.service], c.name, c.id)), warnings


def _sorted(
    services: Sequence[tuple[str, str]], wants: dict[tuple[str, str], list[tuple[str, str]]]
) -> tuple[list[tuple[str, str]], list[str]]:
    order: list[tuple[str, str]] = []
    warnings: list[str] = []
    left = list(services)
    while left:
        free = [one for one in left if all(need in order or need == one for need in wants[one])]
        if not free:
            warnings.append(f"services {', '.join(service for _, service in left)} depend on each other in a circle")
        taken = free[0] if free else left[0]
        order.append(taken)
        left.remove(taken)
    return order, warnings
