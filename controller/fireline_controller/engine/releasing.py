"""One host's release: everything on it is let back, and it is looked at whether it answers again as before."""

from collections.abc import Sequence
from dataclasses import replace

from fireline_controller import isolation as judging
from fireline_controller.engine import isolation_entries as entries
from fireline_controller.engine.grounds import Subject, how_restored, require_enrolled
from fireline_controller.engine.values import Progress
from fireline_controller.hosts import Command, Released
from fireline_controller.isolation import IN_FORCE, STANDING, Isolation, Phase
from fireline_controller.model import HostFailed, HostOutcome, Outcome, Unreachable
from fireline_controller.store import Transaction


class HostRelease:
    """The release of one host within an operation."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._rooms = subject.rooms
        self._running = subject.running
        self._host = subject.host
        self._client = subject.client

    async def run(self) -> HostOutcome:
        """Let the host back.

        Returns:
            ok once nothing of ours is in force; the detail says what is not as it was before.

        Raises:
            HostError: the host can't be reached, refuses, or keeps something in force.
            FirelineError: the controller itself failed.
        """
        command, standing = await self._intend()
        withdrawn = [one for one in standing if one.phase is Phase.PENDING]
        timeout_s = self._subject.command_s
        try:
            back = await self._client.release(command, "", timeout_s=timeout_s)
            left = await self._client.isolation_status(timeout_s=timeout_s)
        except Unreachable as error:
            also = "; the order that waited for it is withdrawn" if withdrawn else ""
            stays = "; it may stay cut off until it is released again" if len(standing) > len(withdrawn) else ""
            raise Unreachable(f"{error}{stays}{also}", reason=error.reason, retry_helps=True) from None
        ours = [state for state in left.isolations if state.phase != "none" and state.order_id in back.order_ids]
        if ours:
            kept = ", ".join(state.scope for state in ours)
            raise HostFailed(
                f"{self._host.name}: released, and it says that {kept} is still in force", reason="internal"
            )
        released = await self._ended(command, back)
        return await self._seen_again(released, back, withdrawn)

    async def _intend(self) -> tuple[Command, tuple[Isolation, ...]]:
        """Put it on record with a fence token of its own: older orders that come late are refused by the host.

        Returns:
            The command, and what stood on record until now; what waited of that is withdrawn.
        """
        operation, now = self._running.operation, self._rooms.now()

        def record(tx: Transaction) -> tuple[int, tuple[Isolation, ...]]:
            require_enrolled(tx, self._host)
            fence = tx.next_fence_token()
            standing = tx.isolations(STANDING, self._host.name)
            for one in (one for one in standing if one.phase is Phase.PENDING):
                ended = replace(one, phase=Phase.WITHDRAWN, ended_at=now)
                tx.put_isolation(ended)
                tx.append(
                    entries.ended(ended, now, f"the waiting order is withdrawn by {operation.operator}'s release")
                )
            tx.append(entries.releasing(self._host.name, operation, now, fence))
            return fence, standing

        fence, standing = await self._rooms.store.run(record)
        self._running.tell(Progress(self._host.name, "releasing"))
        request_id = f"{operation.id}-release"
        return replace(self._running.command, request_id=request_id, fence_token=fence), standing

    async def _ended(self, command: Command, back: Released) -> tuple[Isolation, ...]:
        """End on record what was ordered before; an isolation that was ordered since is another's."""
        now = self._rooms.now()

        def record(tx: Transaction) -> tuple[Isolation, ...]:
            in_force = tx.isolations(IN_FORCE, self._host.name)
            ended = tuple(
                replace(one, phase=Phase.RELEASED, ended_at=now)
                for one in in_force
                if one.fence_token < command.fence_token
            )
            for one in ended:
                tx.put_isolation(one)
            return ended

        return await self._rooms.store.run(record)

    async def _seen_again(
        self, released: Sequence[Isolation], back: Released, withdrawn: Sequence[Isolation]
    ) -> HostOutcome:
        places = sorted({place for one in released for place in one.places})
        said = [how_restored(back)] if back.order_ids else ["nothing was in force"]
        if withdrawn:
            said.append("the order that waited for it is withdrawn")
        if places:
            witnesses = self._subject.witnesses(set())
            verdict = judging.restored(places, await witnesses.at(places))
            said.append(verdict.sentence)
        now, operation = self._rooms.now(), self._running.operation
        summary = f"{self._host.name} released: {'; '.join(said)}"
        entry = entries.released(self._host.name, operation, now, summary, back)
        await self._rooms.store.run(lambda tx: tx.append(entry))
        return HostOutcome(self._host.name, Outcome.OK, "; ".join(said))
