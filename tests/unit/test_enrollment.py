"""Tokens as text, where an agent is reached, and how many refusals are journaled."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireline_controller.enrollment import RefusalBudget, make_token, reachable_address
from fireline_controller.model import PolicyError
from fireline_wire.token import JoinToken

NOW = datetime(2026, 5, 2, 12, 0, tzinfo=UTC)
PIN = "0123456789abcdef" * 4


def test_a_token_is_one_word_and_keeps_its_secret_to_itself() -> None:
    """What is kept knows the secret by its hash only; what is logged shows no secret at all."""
    text, token = make_token(
        host="web-1",
        labels={"env": "prod"},
        created_by="alice",
        address="fireline.example:7701",
        ca_sha256=PIN,
        secret="shh" * 12,
        now=NOW,
        ttl=timedelta(hours=1),
    )
    read = JoinToken.parse(f"  {text}\n")

    assert text.startswith("fl1.")
    assert text.replace("-", "").replace("_", "").replace(".", "").isalnum()
    assert read == JoinToken("web-1", "fireline.example:7701", PIN, "shh" * 12)
    assert "shh" not in repr(read)
    assert "shh" not in repr(token)
    assert token.expires_at == NOW + timedelta(hours=1)


@given(st.text(max_size=200))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    """Nothing but ValueError comes of reading a stranger's text."""
    for candidate in (text, f"fl1.{text}"):
        with pytest.raises(ValueError, match="token"):
            JoinToken.parse(candidate)


@pytest.mark.parametrize(
    ("host", "ttl", "why"),
    [
        (
            "Web_1",
            timedelta(hours=1),
            "no token can be made: 'Web_1' is not the name of a host: wanted lower-case letters, digits, '-' and '.'",
        ),
        ("web-1", timedelta(0), "a token has to live for a while, not 0:00:00"),
    ],
)
def test_a_token_needs_a_name_and_a_life(host: str, ttl: timedelta, why: str) -> None:
    """Refused before anything is kept."""
    with pytest.raises(PolicyError, match=why) as caught:
        make_token(host=host, labels={}, created_by="alice", address="a:1", ca_sha256=PIN, secret="s", now=NOW, ttl=ttl)
    assert caught.value.reason == "invalid_request"


@pytest.mark.parametrize(
    ("listen", "peer", "reached"),
    [
        ("192.0.2.7:7700", "ipv4:198.51.100.1:4711", "192.0.2.7:7700"),
        ("0.0.0.0:7700", "ipv4:198.51.100.1:4711", "198.51.100.1:7700"),
        (":7700", "ipv4:198.51.100.1:4711", "198.51.100.1:7700"),
        ("[::]:7700", "ipv6:%5B2001:db8::1%5D:4711", "[2001:db8::1]:7700"),
        ("[2001:db8::7]:7700", "ipv4:198.51.100.1:4711", "[2001:db8::7]:7700"),
        ("web-1.example:7700", "ipv4:198.51.100.1:4711", "web-1.example:7700"),
    ],
)
def test_an_agent_is_reached_where_it_says_or_where_it_called_from(listen: str, peer: str, reached: str) -> None:
    """Any-address becomes the caller's own."""
    assert reachable_address(listen, peer) == reached


@pytest.mark.parametrize(
    "listen", ["", "7700", "192.0.2.7", "192.0.2.7:0", "192.0.2.7:65536", "a/b:1", "x:\N{ARABIC-INDIC DIGIT SEVEN}"]
)
def test_an_address_that_is_none_is_refused(listen: str) -> None:
    """With what was wanted."""
    with pytest.raises(PolicyError, match="wanted ADDRESS:PORT"):
        reachable_address(listen, "ipv4:198.51.100.1:4711")


def test_refusals_are_journaled_within_a_budget() -> None:
    """So many a minute; the next minute's first one knows how many were left out."""
    budget = RefusalBudget(per_minute=2)

    assert [budget.admit(NOW) for _ in range(4)] == [0, 0, None, None]
    assert budget.admit(NOW + timedelta(minutes=1)) == 2
    assert budget.admit(NOW + timedelta(minutes=1)) == 0
