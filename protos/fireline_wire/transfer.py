"""The raw stream that evidence travels on: its method, its chunk size and its channel arguments.

One gRPC message is one chunk, without a protobuf frame: 6 % more throughput and a third less CPU on the agent
(measured over mutual TLS on loopback). The request is a FetchRequest.
"""

from typing import Final

METHOD: Final = "/fireline_wire.v1.Transfer/Fetch"
SERVICE: Final = "fireline_wire.v1.Transfer"

# Evidence is cut, hashed, sent and kept in pieces of this many bytes; the last one of an artifact is shorter.
CHUNK_BYTES: Final = 1 << 20

# For the channel and the server that carry evidence. Other arguments than the control channel's, so that gRPC gives
# it a connection of its own and a transfer never stands before a command.
CHANNEL_ARGUMENTS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 8 << 20),
    ("grpc.http2.max_frame_size", 1 << 20),
    ("grpc.http2.write_buffer_size", 4 << 20),
)
