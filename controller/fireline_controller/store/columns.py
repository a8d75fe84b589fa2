"""Column types that keep a value the same on SQLite and PostgreSQL: what is put in comes out."""

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Dialect, Integer, LargeBinary, Text, TypeDecorator

from fireline_controller.journal import clean_text

# SQLite makes a column its row id only when it is called INTEGER; both hold 64 bits.
Number = BigInteger().with_variant(Integer(), "sqlite")


class Words(TypeDecorator[str]):
    """Untrusted text. What a database can't hold (NUL, lone surrogates) becomes its escape."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """See TypeDecorator."""
        return None if value is None else clean_text(value)


class Choice(TypeDecorator[StrEnum]):
    """One of an enumeration's values, by its text."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: StrEnum | None, dialect: Dialect) -> str | None:
        """See TypeDecorator."""
        return None if value is None else self.kind(value).value

    def process_result_value(self, value: Any, dialect: Dialect) -> StrEnum | None:
        """See TypeDecorator."""
        return None if value is None else self.kind(value)


class Instant(TypeDecorator[datetime]):
    """A time as RFC 3339 UTC text of fixed width: it sorts, and a person with a database shell can read it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        """See TypeDecorator."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"time {value.isoformat()} has no zone: wanted aware UTC")
        return value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """See TypeDecorator."""
        return None if value is None else datetime.fromisoformat(value)


class Json(TypeDecorator[Any]):
    """JSON as ASCII text, escapes and all, so that no text in it can upset a database."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """See TypeDecorator."""
        return None if value is None else json.dumps(value, sort_keys=True, separators=(",", ":"))

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """See TypeDecorator."""
        return None if value is None else json.loads(value)


class Digest(TypeDecorator[str]):
    """A SHA-256, hexadecimal outside and 32 bytes inside: there is one per MiB of evidence."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        """See TypeDecorator."""
        return None if value is None else bytes.fromhex(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """See TypeDecorator."""
        return None if value is None else bytes(value).hex()
