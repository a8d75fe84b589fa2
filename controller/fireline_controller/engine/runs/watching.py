"""Who watches a run in this process is woken when something changes, and sees what the hosts are doing."""

import asyncio
from contextlib import suppress


class Bell:
    """Of one run; belongs to one event loop. What is on record is not told here: whoever is woken looks there."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self.doing: dict[tuple[str, str], str] = {}

    def ring(self) -> None:
        """Wake everybody who waits."""
        self._rung.set()
        self._rung = asyncio.Event()

    async def wait(self, within_s: float) -> None:
        """Until it is rung, or the time is over."""
        rung = self._rung
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await rung.wait()

    def tell(self, step: str, host: str, doing: str) -> None:
        """A host is doing something; empty: nothing any more."""
        if doing:
            self.doing[step, host] = doing
        else:
            self.doing.pop((step, host), None)
        self.ring()

    def quiet(self, step: str) -> None:
        """Nothing is done for a step any more."""
        self.doing = {key: doing for key, doing in self.doing.items() if key[0] != step}
        self.ring()
