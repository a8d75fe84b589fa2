"""What the command line refuses before it asks a controller."""

import json
from typing import TYPE_CHECKING, cast

import pytest

from fireline_controller.cli import actions, operations, output, session
from fireline_wire.v1 import control_pb2

if TYPE_CHECKING:
    from fireline_wire.v1.control_pb2_grpc import ControlStub


@pytest.mark.parametrize("wish", [operations.Wish(["web1"], retry_of="op-1"), operations.Wish([], ["db1"], "op-1")])
async def test_retry_of_takes_no_other_target(wish: operations.Wish, capsys: pytest.CaptureFixture[str]) -> None:
    """A host that the operator left out is never addressed because the command goes by another one's list."""
    nobody = cast("ControlStub", None)  # it is refused before anybody is asked

    with pytest.raises(SystemExit) as ended:
        await operations.confirmed(nobody, wish)

    assert ended.value.code == session.USAGE
    assert capsys.readouterr().err == "fireline: --retry-of names the hosts itself: leave --target and --except out\n"


def test_a_table_for_a_program_has_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Where stdout is no terminal nothing is wrapped, and no line ends in blanks."""
    output.table(("HOST", "DETAIL"), [("web1", "long " * 100 + "end"), ("web2", "")])

    header, first, second, rest = capsys.readouterr().out.split("\n")
    assert (header, second, rest) == ("HOST  DETAIL", "web2", "")
    assert first.endswith("long end")


def test_json_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """What a host found keeps its value, and reaches the terminal as escapes."""
    found = {"name": "a\x9b2J\x7f\u202eb", "word": "grün"}

    output.print_json_line(found)

    said = capsys.readouterr().out
    assert said == '{"name": "a\\u009b2J\\u007f\\u202eb", "word": "grün"}\n'
    assert json.loads(said) == found


def test_what_a_host_calls_its_rows_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """The names of a result are its words too."""
    report = control_pb2.ActionReport(result_json=json.dumps({"\x1b[2Jrows": [{"\x1b]0;x\x07": "\x1b[1m"}]}))
    seen = operations.Followed(hosts=[control_pb2.HostOutcome(host="web1", action=report)])

    actions.result_table(seen)

    assert "\x1b" not in capsys.readouterr().out
