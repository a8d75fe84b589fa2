"""What is made of a log's lines, without a log: hours, numbers, percentiles, lines found in blocks."""

import io
import math
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fireline_agent.hands import log_files, patterns
from fireline_agent.remediation.logs import hours, tally
from fireline_agent.remediation.logs.response_times import pattern
from fireline_agent.remediation.logs.tally import Tally
from fireline_wire.percentiles import GRID_ERROR_PCT, nearest_ranks, on_grid


@pytest.mark.parametrize(
    ("line", "hour"),
    [
        (b"2024-01-15 14:30:22 ERROR no", "2024-01-15T14"),
        (b"2024-01-15T14:30:22.123456789Z ERROR no", "2024-01-15T14"),
        (b"2024/01/15 14:30:22 [error] 7#7: *1", "2024-01-15T14"),
        (b"Jan  5 14:30:22 web1 app[7]: ERROR", "01-05T14"),
        (b"<134>May 15 04:30:22 web1 app", "05-15T04"),
        (b'198.18.0.1 - - [05/May/2026:14:30:22 +0000] "GET /" 500', "2026-05-05T14"),
        (b'{"level": "error", "ts": "2026-05-05T14:30:22Z"}', "2026-05-05T14"),
        (b"[2026-05-05 14:30:22,123] ERROR", "2026-05-05T14"),
        (b"ERROR without a time", ""),
        (b"Foo  5 14:30:22 is no month", ""),
        (b"", ""),
    ],
)
def test_hours(line: bytes, hour: str) -> None:
    """Each known form of a time, and none; a line's first bytes say the same or nothing."""
    assert hours.of_line(line) == hour
    assert hours.of_head(line[: hours.HEAD_BYTES]) in (hour, None)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([], [None, None, None]),
        ([7], [7, 7, 7]),
        ([1, 2], [1, 2, 2]),
        (list(range(1, 101)), [50, 95, 99]),
        ([5, 5, 5, 1000], [5, 1000, 1000]),
    ],
)
def test_percentiles_are_nearest_ranks(values: list[int], wanted: list[float | None]) -> None:
    """Of none, of one, and of a hundred."""
    assert nearest_ranks({float(v): values.count(v) for v in values}, (50, 95, 99)) == wanted


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(1, 100))
def test_a_nearest_rank_is_the_one_of_the_sorted_list(values: list[int], percent: int) -> None:
    """By its definition: the value at rank ceil(p/100 * n)."""
    counts = {float(v): values.count(v) for v in values}

    assert nearest_ranks(counts, [percent]) == [sorted(values)[math.ceil(percent / 100 * len(values)) - 1]]


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-9, 1e15))
def test_the_grid_is_near_and_stable(value: float) -> None:
    """A value of the grid is within the stated error, and stands for itself."""
    on = on_grid(value)

    assert abs(on - value) <= value * (GRID_ERROR_PCT + 0.01) / 100
    assert on_grid(on) == on


def test_a_tally_skips_what_is_no_number() -> None:
    """Words are counted apart; units count in milliseconds; nothing at all is no error."""
    counted = Tally()
    counted.add([b"12", b"12", b"0.5s", b"250us", b"-", b"NaN", b"inf", b"", b"1_0", b"x1"])
    facts = counted.facts()

    assert (facts["count"], facts["not_numeric"]) == (4, 6)
    assert (facts["least"], facts["most"]) == (0.25, 500)
    assert facts["average"] == pytest.approx((12 + 12 + 500 + 0.25) / 4)
    assert Tally().facts()["p99"] is None


def test_many_different_values_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the limit values fall on the grid, and the answer says by how much it may be off."""
    monkeypatch.setattr(tally, "MAX_EXACT", 1000)
    counted = Tally()
    for start in range(0, 20_000, 500):
        counted.add(b"%d" % value for value in range(start + 1, start + 501))
    facts = counted.facts()

    assert facts["count"] == sum(row["count"] for row in facts["histogram"]) == 20_000
    assert facts["error_pct"] == facts["histogram_error_pct"] == 0.5
    assert facts["p95"] == pytest.approx(19_000, rel=0.006)
    assert len(facts["histogram"]) < 1500


@pytest.mark.parametrize(
    ("value", "line", "wanted"),
    [
        ("after", b"x response_time=12 y", [b"12"]),
        ("after", b'{"response_time": 12.5, "b": 1}', [b"12.5"]),
        ("after", b'{\\"response_time\\":\\"12\\"}', [b"12"]),
        ("after", b"response_time 12ms", [b"12ms"]),
        ("after", b"response_time=-", [b"-"]),
        ("after", b"response_time", [b""]),
        ("last", b"response_time is now 12", [b"12"]),
        ("last", b"response_time\t12 \t ", [b"12"]),
        ("last", b"response_time=12", [b""]),
    ],
)
def test_values_are_found_in_lines(value: str, line: bytes, wanted: list[bytes]) -> None:
    """After the key or as the line's last field, on every line, the last one without a line break too."""
    find = pattern("response_time", value).findall

    assert find(b"no such\n" + line + b"\n" + line) == wanted * 2


def test_the_last_field_is_found_in_time_whatever_the_line() -> None:
    """Long lines of keys, of spaces, of one word: the expression does not explode."""
    find = pattern("response_time", "last").findall
    started = time.monotonic()
    for line in (b"response_time" * 50_000, b"response_time" + b" " * 600_000, b"response_time" + b"x" * 600_000):
        find(line + b"\n")

    assert time.monotonic() - started < 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(max_size=12), max_size=40).map(lambda lines: b"\n".join(lines)),
    st.integers(0, 3),
)
def test_blocks_hand_on_every_byte_once(data: bytes, lines_before: int) -> None:
    """Whatever the lines, all are seen once, in order, in blocks that end with a line, after the lines before them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(log_files, "BLOCK_BYTES", 24)
        patched.setattr(log_files, "_SPARE_BYTES", 16)
        seen = b""
        for buffer, begin, end in log_files.blocks(io.BytesIO(data), lines_before=lines_before):
            assert seen.endswith(bytes(buffer[:begin]))
            assert buffer[:begin].count(b"\n") <= lines_before
            seen += bytes(buffer[begin:end])

    assert seen == data


@settings(max_examples=60, deadline=None)
@given(
    st.text(alphabet="aBR\n ", max_size=200).map(str.encode),
    st.lists(st.text(alphabet="aBR", min_size=1, max_size=3), min_size=1, max_size=2),
    st.booleans(),
)
def test_texts_are_found_as_by_hand(data: bytes, words: list[str], is_case_ignored: bool) -> None:
    """Every line with one of the words, once, by whichever way it is looked for."""
    flags = re.IGNORECASE if is_case_ignored else 0
    one_of = re.compile("|".join(words).encode(), flags)
    starts = [0, *(m.end() for m in re.finditer(b"\n", data))]
    wanted = [s for s in starts if s < len(data) and one_of.search(data[s:].split(b"\n")[0])]

    for rare in (1, 10**9):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(patterns, "_RARE", rare)
            assert patterns.text(words, is_case_ignored=is_case_ignored)(bytearray(data), 0, len(data)) == wanted


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [("^b+$", [2]), ("a[^x]*c", []), (r"a\sb", []), (r"\Ac", [5]), ("c|a", [0, 5]), ("x", [])],
)
def test_expressions_see_one_line(expression: str, wanted: list[int]) -> None:
    """What could cross a line's end does not."""
    data = bytearray(b"a\nbb\nc\n")

    assert patterns.expression(expression)(data, 0, len(data)) == wanted


def test_an_expression_that_explodes_is_stopped_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its time for a block; whoever wrote it is told what to write instead."""
    monkeypatch.setattr(patterns, "BLOCK_TIMEOUT_S", 0.2)
    data = bytearray(b"a" * 40 + b"!")
    started = time.monotonic()

    with pytest.raises(patterns.BadPattern, match=r"'\(a\+\)\+\$' took over 0.2 s on 0 KiB: write it without a repeat"):
        patterns.expression("(a+)+$")(data, 0, len(data))

    assert time.monotonic() - started < 2


@pytest.mark.parametrize(("bad", "message"), [("(", "is no regular expression"), ("x" * 1001, "at most 1000 char")])
def test_what_is_no_expression_is_refused(bad: str, message: str) -> None:
    """With the place of the mistake."""
    with pytest.raises(patterns.BadPattern, match=message):
        patterns.expression(bad)
