"""A controller in a process of its own that begins a run and stays in the middle of it, to be killed there.

Arguments: its state folder, the folder of the hosts' ledger, the URL of the store. Prints the run's id.
"""

import asyncio
import sys
from pathlib import Path

from tests.runs.books import Shelf
from tests.runs.killed import BOOKS
from tests.runs.world import LedgerHosts, world


async def main(folder: Path, ledger: Path, url: str) -> None:
    """Begin, and wait for the end of this process."""
    async with world(folder, Shelf(*BOOKS.values()), url=url, hosts=LedgerHosts(ledger)) as here:
        print((await here.start("back")).id, flush=True)
        await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
