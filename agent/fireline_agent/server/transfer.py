"""The raw stream that evidence leaves on: chunks read off the event loop, one ahead of what is being sent."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from itertools import chain
from typing import Any, Final

import grpc

from fireline_agent.capture.order import Folder
from fireline_agent.capture.spool import Piece, Spool, chunk_pieces, manifest_piece, read_piece, read_sealed
from fireline_agent.errors import RefusedError
from fireline_agent.policy import Policy
from fireline_agent.server.commands import checked
from fireline_agent.server.edge import Context, Places, unary
from fireline_wire import transfer
from fireline_wire.v1 import capture_pb2

_MAX_RANGES: Final = 200_000


class Transfer:
    """Serves `fireline_wire.transfer.METHOD`."""

    def __init__(self, *, policy: Policy, spool: Spool, threads: Executor, places: Places, idle_s: float) -> None:
        self._policy = policy
        self._spool = spool
        self._threads = threads
        self._places = places
        self._idle_s = idle_s

    def handler(self) -> grpc.GenericRpcHandler:
        """For `add_generic_rpc_handlers`."""
        fetch: grpc.RpcMethodHandler[Any, Any] = grpc.unary_stream_rpc_method_handler(
            self.Fetch, request_deserializer=capture_pb2.FetchRequest.FromString, response_serializer=None
        )
        return grpc.method_handlers_generic_handler(transfer.SERVICE, {transfer.METHOD.rpartition("/")[2]: fetch})

    @unary
    async def Fetch(self, request: capture_pb2.FetchRequest, context: Context) -> None:
        """Send the manifest, or chunks, in the order asked."""
        self._policy.require_service("Capture")
        checked("Fetch", request)
        with self._places.taken():
            await self._send(iter(await self._off_loop(self._chunks, request)), context)

    async def _send(self, chunks: Iterator[bytes], context: Context) -> None:
        ahead = self._off_loop(next, chunks, None)
        while (data := await ahead) is not None:
            ahead = self._off_loop(next, chunks, None)
            try:
                async with asyncio.timeout(self._idle_s):
                    await context.write(data)
            except TimeoutError:
                raise RefusedError("invalid_request", f"nothing was taken for {self._idle_s:g} s") from None

    def _chunks(self, request: capture_pb2.FetchRequest) -> Iterator[bytes]:
        folder = self._spool.find(request.capture_request_id)
        if folder is None or read_sealed(folder) is None:
            raise RefusedError("not_found", f"this host has no sealed capture {request.capture_request_id[:100]!r}")
        return chain.from_iterable(map(read_piece, _pieces(request, folder)))

    def _off_loop(self, work: Any, *arguments: Any) -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _pieces(request: capture_pb2.FetchRequest, folder: Folder) -> Sequence[Piece]:
    if request.manifest:
        return [manifest_piece(folder, request.manifest_offset)]
    if len(request.chunks) > _MAX_RANGES:
        raise RefusedError("invalid_request", f"chunks: wanted at most {_MAX_RANGES} ranges")
    return chunk_pieces(folder, [(c.artifact, c.first, c.count) for c in request.chunks])
