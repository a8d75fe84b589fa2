"""What the groups of verbs share: a connection inside a transaction, and values to rows and back."""

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from sqlalchemy import Connection, Row, Table, insert, update

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Value = TypeVar("Value", bound=DataclassInstance)


class Verbs:
    """A group of verbs over one open transaction. The store is the only maker, and the only one to commit."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _put(self, table: Table, values: dict[str, Any]) -> None:
        """Insert, or overwrite what has the same key. Portable and race-free: there is one writer at a time."""
        keys = [column == values[column.name] for column in table.primary_key]
        if self._connection.execute(update(table).where(*keys).values(values)).rowcount == 0:
            self._connection.execute(insert(table).values(values))


def columns_of(value: "DataclassInstance") -> dict[str, Any]:
    """The value's fields by name, not deep."""
    return {f.name: getattr(value, f.name) for f in fields(value)}


def value_of(kind: "type[Value]", row: Row[Any]) -> "Value":
    """The value of this kind whose fields are the row's columns."""
    return kind(**row._asdict())


def raising(error: Exception) -> Callable[[], NoReturn]:
    """An outcome that, when it is called for, raises this."""

    def outcome() -> NoReturn:
        raise error

    return outcome
