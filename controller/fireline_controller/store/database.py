"""Open the database behind a URL: SQLite (WAL, every commit on disk) or PostgreSQL, with its tables at head.

One writer at a time on both: SQLite by BEGIN IMMEDIATE, PostgreSQL by an advisory lock for each writing transaction, so
that what holds on one holds on the other. Leaves to others: what is read and written.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from fireline_controller.model import StoreError
from fireline_controller.store import schema

BUSY_TIMEOUT_MS: Final = 3_000  # another process writes: it is given this long before the work is tried again
CONNECT_TIMEOUT_S: Final = 10  # to PostgreSQL, over a network
_WRITER_LOCK: Final = 0x46_49_52_45_4C_49_4E_45  # "FIRELINE", the advisory lock's number
_RETRIED_STATES: Final = frozenset({"40001", "40P01", "55P03"})  # PostgreSQL: serialization, deadlock, lock


class Database:
    """Connections to one database, and transactions on them."""

    def __init__(self, url: str) -> None:
        self._url = _parsed(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self._engine = _sqlite(self._url) if self.is_sqlite else _postgresql(self._url)

    def prepare(self) -> None:
        """Make the tables, or bring them to head.

        Raises:
            StoreError: the database can't be opened, or is of a later version than this program.
        """
        with self.transaction(read_only=True) as connection:
            stamped = _stamped(connection)
        if stamped > schema.HEAD:
            raise StoreError(
                f"store {self.name} has the tables of version {stamped}, this program knows up to {schema.HEAD}:"
                " install the Fireline that wrote it"
            )
        if stamped == schema.HEAD:
            return
        with self.transaction() as connection:
            # Under the writer's lock: of two programs that open a new store at once, the second finds it migrated.
            _migrate(connection)

    @property
    def name(self) -> str:
        """What the database is called in messages: its file, or its URL without the password."""
        return self._url.database or "" if self.is_sqlite else self._url.render_as_string(hide_password=True)

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Connection]:
        """A transaction that is committed at the end, rolled back on any exception. A read-only one is a snapshot.

        Raises:
            Retry: nothing was kept and the same work may well succeed now.
            StoreError: the database failed; nothing was kept, unless the message says that it is not known.
        """
        with self._translated():
            connection = self._engine.connect()
        try:
            with self._translated():
                connection = self._begun(connection, read_only)
                yield connection
            with self._translated(committing=True):
                connection.commit()
        finally:
            with self._translated():
                connection.close()

    def _begun(self, connection: Connection, read_only: bool) -> Connection:
        if self.is_sqlite:
            connection = connection.execution_options(fireline_read_only=read_only)
            connection.begin()
        elif read_only:
            connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            connection.begin()
        else:
            connection.begin()
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _WRITER_LOCK})
        return connection

    @contextmanager
    def _translated(self, *, committing: bool = False) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise self._translation(error, committing) from error
        except SQLAlchemyError as error:
            raise StoreError(f"store {self.name}: {type(error).__name__}: {error}") from error

    def _translation(self, error: DBAPIError, committing: bool) -> StoreError:
        if self.is_sqlite:
            return _sqlite_error(self.name, error)
        state = getattr(error.orig, "sqlstate", None)
        if state in _RETRIED_STATES or (error.connection_invalidated and not committing):
            return Retry(f"store {self.name}: {_first_line(error)}")
        if committing:
            return CommitUnknown(
                f"store {self.name}: the connection broke while a transaction was committed, and whether it was kept"
                f" is not known: {_first_line(error)}; look before the command is repeated"
            )
        return _postgresql_error(self.name, error, state)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


class CommitUnknown(StoreError):
    """The database failed while it committed: the work may be kept or not, and is not to be repeated blindly."""


class Retry(StoreError):
    """Nothing was kept; the same work may well succeed when it is done again."""


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreError("store URL does not parse: wanted sqlite:////PATH or postgresql://USER@HOST/NAME") from None
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise StoreError(f"store URL begins with {backend!r}: wanted sqlite:////PATH or postgresql://USER@HOST/NAME")
    if backend == "sqlite" and not parsed.database:
        raise StoreError("store URL names no file: wanted sqlite:////PATH; a store in memory would forget the journal")
    return parsed.set(drivername="sqlite+pysqlite" if backend == "sqlite" else "postgresql+psycopg")


def _sqlite(url: URL) -> Engine:
    path = Path(url.database or "")
    try:
        # Made here so that it is nobody else's to read from its first moment; WAL and SHM take over its mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreError(f"store {path} can't be opened: {error.strerror}") from None
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own BEGIN comes too late for BEGIN IMMEDIATE: it is ours (SQLAlchemy's SQLite dialect, "savepoints").
    connection.isolation_level = None
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(f"store: SQLite can't use its write-ahead log here (mode is {mode!r}): wanted a local disk")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get("fireline_read_only", False)
    connection.exec_driver_sql(f"PRAGMA query_only={int(read_only)}")
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _postgresql(url: URL) -> Engine:
    try:
        engine = create_engine(
            url,
            isolation_level="READ COMMITTED",  # after the writer's lock each statement sees all that was committed
            pool_pre_ping=True,  # a server that was restarted costs one more connect, not a failed command
            connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "fireline"},
        )
    except (NoSuchModuleError, ModuleNotFoundError):
        raise StoreError("store on PostgreSQL needs psycopg: pip install 'fireline[postgres]'") from None
    event.listen(engine, "connect", _set_up_postgresql)
    return engine


def _set_up_postgresql(connection: Any, _record: Any) -> None:
    connection.execute(f"SET lock_timeout = {BUSY_TIMEOUT_MS}")
    # A server that is set up to forget the last commits in a crash is not, for us; a stricter one stays as it is.
    connection.execute(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    )
    connection.commit()


def _sqlite_error(name: str, error: DBAPIError) -> StoreError:
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Retry(f"store {name} is held by another process that keeps writing; look which one has the file open")
    if code == sqlite3.SQLITE_FULL:
        return _disk_full(
            f"store {name}: the disk is full and nothing of this transaction was kept;"
            f" free space on {Path(name).parent} and repeat the command"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreError(f"store {name} is damaged ({error.orig}): keep the file aside and restore it from a backup")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StoreError(f"store {name} can't be written ({error.orig}): look at the owner and mode of its folder")
    return StoreError(f"store {name}: {_first_line(error)}")


def _postgresql_error(name: str, error: DBAPIError, state: str | None) -> StoreError:
    if state == "53100":
        return _disk_full(f"store {name}: the database's disk is full and nothing of this transaction was kept")
    return StoreError(f"store {name}: {_first_line(error)}")


def _disk_full(message: str) -> StoreError:
    error = StoreError(message)
    error.reason = "disk_full"
    return error


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).partition("\n")[0]


def _stamped(connection: Connection) -> str:
    """The migration that the tables are at, by plain SQL; empty for an empty database."""
    if not connection.dialect.has_table(connection, "alembic_version"):
        return ""
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none() or "")


def _migrate(connection: Connection) -> None:
    # Late: alembic takes longer to import than a command takes to run, and is needed once in a store's life.
    from alembic import command  # noqa: PLC0415  late: see above
    from alembic.config import Config  # noqa: PLC0415  late: see above

    config = Config()
    config.set_main_option("script_location", "fireline_controller.store:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
