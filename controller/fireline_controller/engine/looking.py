"""Asking the witnesses of one host what they see of it, before it is cut off and after."""

import asyncio
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence

from fireline_controller.config import Isolation
from fireline_controller.hosts import Fleet, vantage
from fireline_controller.isolation import Sight, answered
from fireline_controller.model import Host, HostError

Views = dict[str, tuple[Sight, ...]]

CONTROLLER = "this controller"
# Beside the ports that listen: the discard service's (RFC 863), where nearly nothing does. The host's refusal there is
# an answer too, so that a host which serves nothing can be proved dark all the same.
_BLANK_PORT = 9
# A host with more is looked at in part: all of them would take longer than a lease.
_MOST_PLACES = 256
_MORE_S = 3.0  # for the way to a witness and back, and for others that it looks for, beyond the time of one look
_PAUSE_S = 0.1


class Witnesses:
    """Who looks at one host. `candidates` are asked in their order until enough have answered."""

    def __init__(self, fleet: Fleet, candidates: Sequence[Host], settings: Isolation) -> None:
        self._fleet = fleet
        self._waiting = deque(candidates)
        self._settings = settings
        self._chosen: dict[str, Host] = {}

    async def before(self, addresses: Sequence[str], ports: Collection[int], agent_port: int) -> Views:
        """What each vantage sees now. Without a witness that sees an answer, what this controller itself sees.

        The agent's own port stays open to controllers, so this controller can't tell by it.
        """
        looked_at = (*ports, _BLANK_PORT)[: max(_MOST_PLACES // max(len(addresses), 1), 2)]
        places = [(address, port) for address in addresses[: _MOST_PLACES // 2] for port in looked_at]
        if not places:
            return {}
        views = await self._asked(places)
        if not answered(views):
            own = [place for place in places if place[1] != agent_port]
            views[CONTROLLER] = await self._own(own)
        return views

    async def again(self, before: Views) -> Views:
        """What the same vantages see now of all that answered before. One that can't be asked is left out."""
        places = answered(before)
        seen = await asyncio.gather(*(self._again(name, places) for name in before))
        return dict(view for view in seen if view is not None)

    async def at(self, places: Collection[tuple[str, int]], *, open_port: int = 0) -> Views:
        """What is seen of these places, by the first witnesses that answer or, without any, by this controller.

        `open_port` is the one that stays open to this controller, by which it can't tell.
        """
        own = [place for place in places if place[1] != open_port]
        return await self._asked(places) or {CONTROLLER: await self._own(own)}

    async def _asked(self, places: Collection[tuple[str, int]]) -> Views:
        asked = await asyncio.gather(*(self._one(places) for _ in range(self._settings.witnesses)))
        return dict(view for view in asked if view is not None)

    async def _one(self, places: Collection[tuple[str, int]]) -> tuple[str, tuple[Sight, ...]] | None:
        while self._waiting:
            host = self._waiting.popleft()
            if (seen := await self._ask(host, places)) is not None:
                self._chosen[host.name] = host
                return host.name, seen
        return None

    async def _again(self, name: str, places: Collection[tuple[str, int]]) -> tuple[str, tuple[Sight, ...]] | None:
        if name == CONTROLLER:
            return name, await self._own(places)
        seen = await self._ask(self._chosen[name], places)
        return None if seen is None else (name, seen)

    async def _ask(self, host: Host, places: Collection[tuple[str, int]]) -> tuple[Sight, ...] | None:
        addresses, ports = _product(places)
        client, within_s = self._fleet.client(host), self._settings.look_s
        until_s = time.monotonic() + within_s + _MORE_S
        while (left_s := until_s - time.monotonic()) > 0:
            try:
                return _only(await client.look(addresses, ports, within_s=within_s, timeout_s=left_s), places)
            except HostError as error:
                if error.reason != "busy":
                    return None
            await asyncio.sleep(_PAUSE_S)  # it looks for others: many hosts may lean on one witness
        return None

    async def _own(self, places: Collection[tuple[str, int]]) -> tuple[Sight, ...]:
        addresses, ports = _product(places)
        return _only(await vantage.look(addresses, ports, within_s=self._settings.look_s), places)


def _product(places: Collection[tuple[str, int]]) -> tuple[list[str], list[int]]:
    return sorted({address for address, _ in places}), sorted({port for _, port in places})


def _only(seen: Iterable[Sight], places: Collection[tuple[str, int]]) -> tuple[Sight, ...]:
    wanted = set(places)
    return tuple(sight for sight in seen if sight.place in wanted)
