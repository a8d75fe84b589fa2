"""DBOS, behind one door: a workflow for each run, a durable step for each of its moves.

The record of a run is ours (store); what DBOS keeps is that the run is to be gone on with, and how far it came, so that
one which lost its process is taken up by another. Its tables are in a database of its own beside ours (ADR 0013).

Imported only once a run is driven: its import and launch take 0.4 s, which no other command pays.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from dbos import DBOS, DBOSConfig, SetWorkflowID, WorkflowHandleAsync

# Runs of any later Fireline go on under the same name, or an upgrade would strand them.
_VERSION: Final = "fireline-runs-1"
_POLL_S: Final = 0.2  # between two looks of its threads: until a run that is taken over begins, until it is closed
_END_S: Final = 2.0

Advance = Callable[[str], Awaitable[bool]]


class Durable:
    """Drives runs. One in a process at a time; belongs to the event loop that launched it.

    Args:
        url: of DBOS's database, as SQLAlchemy has it.
        owner: this process's name; no other process has it.
        advance: one durable step of a run by its id; false: it is over here.
    """

    def __init__(self, url: str, owner: str, advance: Advance) -> None:
        self._queue = f"taken-over-by-{owner}"
        self._is_listening = False
        self._handles: list[WorkflowHandleAsync[Any]] = []
        config = DBOSConfig(
            name="fireline",
            system_database_url=url,
            application_version=_VERSION,
            executor_id=owner,
            log_level="ERROR",
            console_log_level="ERROR",
            enable_otlp=False,
            use_listen_notify=False,
            notification_listener_polling_interval_sec=_POLL_S,  # what closing waits for
        )
        logging.getLogger("dbos").setLevel(logging.ERROR)
        DBOS(config=config)
        DBOS.listen_queues([self._queue])

        @DBOS.step(name="fireline.moves")
        async def moves(run_id: str, _number: int) -> bool:
            return await advance(run_id)

        @DBOS.workflow(name="fireline.run")
        async def run(run_id: str) -> int:
            number = 1
            while await moves(run_id, number):
                number += 1
            return number

        self._run: Any = run
        DBOS.launch()

    async def start(self, workflow_id: str, run_id: str) -> None:
        """Begin to drive a run, under a workflow id that was not used before."""
        with SetWorkflowID(workflow_id):
            self._handles.append(await DBOS.start_workflow_async(self._run, run_id))

    async def is_unfinished(self, workflow_id: str) -> bool:
        """Whether a workflow was begun and has not ended: its process is at work on it, or was lost."""
        status = await DBOS.get_workflow_status_async(workflow_id)
        return status is not None and status.status in ("PENDING", "ENQUEUED")

    async def take_over(self, workflow_id: str) -> None:
        """Go on with the workflow of a lost process, in this one."""
        if not self._is_listening:
            await DBOS.register_queue_async(self._queue, polling_interval_sec=_POLL_S)
            self._is_listening = True
        self._handles.append(await DBOS.resume_workflow_async(workflow_id, queue_name=self._queue))

    async def close(self) -> None:
        """Stop driving; what has not ended can be taken over. What has is given time to be written down."""
        ends = [asyncio.ensure_future(handle.get_result(polling_interval_sec=_POLL_S)) for handle in self._handles]
        if ends:
            _, left = await asyncio.wait(ends, timeout=_END_S)
            for end in left:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        # DBOS had put its own threads in the place of the loop's, and takes them with it.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
        await asyncio.to_thread(DBOS.destroy, destroy_registry=True, workflow_completion_timeout_sec=0)
