"""What a hostile agent says of an action: bounded, checked, and never more than about its own host (I8)."""

import json

import pytest

from fireline_controller.hosts import wire_remediation as wire
from fireline_controller.model import HostFailed
from fireline_wire.actions import MAX_RESULT_BYTES, BadValue, Kind, Parameter, bounded
from fireline_wire.v1 import remediation_pb2

GOOD = remediation_pb2.ActionPlan(plan_sha256="ab" * 32, risk="read", summary="fine", result_json='{"n": 1}')


def _plan(**changes: object) -> remediation_pb2.ActionPlan:
    made = remediation_pb2.ActionPlan()
    made.CopyFrom(GOOD)
    made.MergeFrom(remediation_pb2.ActionPlan(**changes))  # type: ignore[arg-type]  # fields of the message
    return made


def test_a_plan_is_taken_as_values() -> None:
    """With the first changes only, however many are sent."""
    change = remediation_pb2.ActionChange(kind="file", subject="a\x1b[2J", does="x" * 5000, size_bytes=7)

    plan = wire.plan(_plan(changes=[change] * 500, change_count=500), host="web-1")

    assert (len(plan.changes), plan.change_count, plan.result) == (200, 500, {"n": 1})
    assert plan.changes[0].subject == "a\N{REPLACEMENT CHARACTER}[2J"
    assert len(plan.changes[0].does) == 1000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plan_sha256": "AB" * 32}, "SHA-256"),
        ({"risk": "harmless"}, "risk is 'harmless'"),
        ({"change_count": 1 << 53}, "it counts"),
        ({"total_bytes": 1 << 53}, "it counts"),
        ({"result_json": "[]"}, "no JSON object"),
        ({"result_json": "{"}, "no JSON object"),
        ({"result_json": '{"a": NaN}'}, "no JSON object"),
        ({"result_json": '{"a": -1e999}'}, "no JSON object"),
        ({"result_json": '{"a": ' + "[" * 100_000}, "no JSON object"),
        ({"result_json": '{"a": ' + "[" * 30 + "]" * 30 + "}"}, "nested too deeply"),
        ({"result_json": '{"a": "' + "x" * MAX_RESULT_BYTES + '"}'}, "characters: at most"),
    ],
)
def test_what_is_no_plan_fails_the_host(changes: dict[str, object], words: str) -> None:
    """The message says what is wrong with it."""
    with pytest.raises(HostFailed, match=words) as caught:
        wire.plan(_plan(**changes), host="web-1")

    assert caught.value.reason == "bad_data"


def test_half_a_letter_becomes_printable() -> None:
    """Nothing could store or print a lone surrogate."""
    found = wire.result('{"a": "\\udc80"}', host="web-1")

    assert json.dumps(found, ensure_ascii=False).encode() == b'{"a": "?"}'


def test_an_event_of_no_kind_fails_the_host() -> None:
    """As of a newer agent, or none."""
    with pytest.raises(HostFailed, match="unknown kind"):
        wire.news(remediation_pb2.ActionEvent(), host="web-1")


def test_a_long_result_is_cut_and_says_so() -> None:
    """The longest list is halved until it fits; what can't be cut is left out; both are named."""
    result = {"rows": [{"n": n} for n in range(1000)], "text": "x" * 5000, "count": 1000}

    kept = bounded(result, 4000)

    assert kept["count"] == 1000
    assert kept["truncated"] == ["rows", "text"]
    assert 0 < len(kept["rows"]) < 1000
    assert len(json.dumps(kept, separators=(",", ":"))) <= 4000
    assert bounded({"count": 1}, 4000) == {"count": 1}


@pytest.mark.parametrize("text", ["a\0", "a\ud800", "a\udfff"])
def test_half_a_letter_is_no_parameter(text: str) -> None:
    """No host's name holds it: what would ask for it ended without an answer."""
    with pytest.raises(BadValue, match="path: wanted a text"):
        Parameter("path", Kind.PATH, "a file").check(f"/{text}")


def test_bytes_that_are_no_letters_are_a_parameter() -> None:
    """A file's name may be any bytes."""
    assert Parameter("path", Kind.PATH, "a file").check("/bad\udcff") == "/bad\udcff"
