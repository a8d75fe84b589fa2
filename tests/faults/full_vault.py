"""A controller whose vault is on a file system of its own that fills up: `python -m tests.faults.full_vault FOLDER`.

Run it in a mount namespace: the file system is gone with the process. Prints what came of it as JSON.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from tests.fakes.captures import noise
from tests.fakes.capturing import CapturingAgent
from tests.fakes.desk import desk

MIB = 1 << 20


def _mount(folder: Path, size: str) -> None:
    how = ["-o", f"remount,size={size}"] if folder.is_mount() else ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
    subprocess.run(["mount", *how, folder], check=True)


async def _main(folder: Path) -> dict[str, object]:
    await asyncio.to_thread(folder.mkdir, mode=0o700)
    async with desk(folder) as made:
        pass
    await asyncio.to_thread(_mount, folder / "vault", "12m")
    async with desk(folder) as made:
        for name, size in (("db1", 1), ("huge", 20), ("web1", 2)):
            agent = await made.enrol(name)
            agent.contents = {"clocks/state": name.encode(), "large/file": noise(size * MIB, seed=size)}
        first = await made.capture()
        (operation,) = await made.operations()
        problems = [await made.problems()]
        await asyncio.to_thread(_mount, folder / "vault", "64m")
        again = await made.capture(retry_of=operation.id)
        problems.append(await made.problems())
        huge = made.agents["huge"]
        assert isinstance(huge, CapturingAgent)
        return {
            "first": {o.host: [o.outcome, o.reason, o.detail] for o in first.values()},
            "again": {o.host: [o.outcome, o.detail] for o in again.values()},
            "problems": problems,
            "captured": sum(huge.captured.values()),
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_main(Path(sys.argv[1])))))
