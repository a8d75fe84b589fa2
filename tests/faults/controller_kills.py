"""A controller that a test kills: `python -m tests.faults.controller_kills FOLDER` captures until it is told to stop.

Prints the id of each operation as it starts. With `--retry-of ID` it retries that one.
"""

import argparse
import asyncio
from pathlib import Path

import uvloop

from fireline_controller import state
from fireline_controller.daemon import Controller
from fireline_controller.engine import Finished, Started, TargetSpec, Wish
from fireline_controller.model import HostOutcome


async def _main(folder: Path, retry_of: str) -> None:
    opened = state.open_state(folder)
    store = opened.open_store()
    controller = Controller(opened, store)
    await controller.settle()
    spec = TargetSpec(retry_of=retry_of) if retry_of else TargetSpec(("all",))
    async for news in controller.engine.capture(Wish("alice", spec, reason="drill"), "initial"):
        if isinstance(news, Started):
            print(f"started {news.operation_id}", flush=True)
        elif isinstance(news, HostOutcome):
            print(f"{news.host} {news.outcome} {news.detail}", flush=True)
        elif isinstance(news, Finished):
            print("finished", flush=True)
    await controller.close()
    store.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--retry-of", default="")
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(given.folder, given.retry_of))
