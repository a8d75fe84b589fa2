"""The hosts' room without a network: what agents say is bounded, dials are limited, the process is prepared."""

import asyncio
import resource
import subprocess
import sys

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from fireline_controller.hosts import descriptors, require_room, wire
from fireline_controller.hosts.channels import DialSlots
from fireline_controller.model import ControllerExhausted, HostFailed
from fireline_wire.v1 import capture_pb2, host_pb2
from tests.fakes import virtual_time

STAMPS = st.builds(Timestamp, seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-(2**31), 2**31 - 1))


@given(STAMPS, STAMPS)
def test_an_offset_fits_its_field_whatever_the_host_says(received: Timestamp, sent: Timestamp) -> None:
    """I8: a host's clock is a number that the next request can carry, or that host's failure."""
    reply = host_pb2.PingReply(received_at=received, sent_at=sent)
    try:
        answer = wire.ping_answer(reply, host="web-1", clock=wire.Stopwatch())
    except HostFailed as error:
        assert error.reason == "bad_data"
    else:
        request = capture_pb2.CaptureRequest(clock_offset_ns=answer.offset_ns, clock_round_trip_ns=answer.round_trip_ns)
        assert request.clock_offset_ns == answer.offset_ns
        assert answer.round_trip_ns >= 0


@given(st.text(max_size=3000))
def test_a_text_of_a_host_is_one_printable_line(said: str) -> None:
    """I8: no control character of an agent's reaches a terminal or a journal, and no flood."""
    kept = wire.text(said)

    assert kept.isprintable()
    assert len(kept) <= wire.MAX_TEXT


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_a_failure(data: bytes) -> None:
    """I8: no message of an agent's makes anything but news or that host's failure."""
    event = capture_pb2.CaptureEvent()
    try:
        event.ParseFromString(data)
    except Exception:  # noqa: BLE001 - protobuf's own; the client turns it into bad_data
        return
    try:
        wire.capture_news(event, host="web-1")
    except HostFailed as error:
        assert error.reason == "bad_data"


def test_dials_are_limited_and_a_dead_one_gives_its_place_away() -> None:
    """So many at once; but a dial that takes long waits for the network, and holds nobody up."""

    async def scenario() -> list[float]:
        slots = DialSlots(2)
        began: list[float] = []

        async def dial(takes_s: float) -> None:
            async with slots.slot():
                began.append(asyncio.get_running_loop().time())
                await asyncio.sleep(takes_s)

        async with asyncio.TaskGroup() as dials:
            for takes_s in (60, 60, 0.1, 0.1, 0.1):
                dials.create_task(dial(takes_s))
        assert slots._free._value == 2  # every place was given back once
        return began

    assert virtual_time.run(scenario()) == pytest.approx([0, 0, 0.5, 0.5, 0.6])


def test_too_many_hosts_are_refused_before_the_start() -> None:
    """The message says what is wanted, what there is, and what to do."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    require_room(1)

    with pytest.raises(ControllerExhausted, match=rf"want {2 * soft + 128} file descriptors.* may open {soft}: raise"):
        require_room(soft)


@pytest.mark.parametrize(
    ("prepare", "check"),
    [
        ("raise_descriptor_limit()", "resource.getrlimit(resource.RLIMIT_NOFILE) == (200, 200)"),
        ("tune_collector()", "gc.get_freeze_count() > 1000 and gc.get_threshold()[0] == 200_000"),
    ],
)
def test_the_process_is_prepared(prepare: str, check: str) -> None:
    """The soft limit becomes the hard one; the collector leaves what is imported alone."""
    program = (
        "import gc, resource\nfrom fireline_controller.hosts import *\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))\n{prepare}\nassert {check}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_exhaustion_is_recognised() -> None:
    """By number from the system, by text from gRPC; nothing else is taken for it."""
    assert descriptors.is_exhaustion(OSError(24, ""))
    assert descriptors.is_exhaustion(OSError(23, ""))
    assert not descriptors.is_exhaustion(OSError(111, ""))
    assert descriptors.tells_exhaustion("socket: Too many open files (24)")
    assert not descriptors.tells_exhaustion("Connection refused")
    descriptors.require_free()
