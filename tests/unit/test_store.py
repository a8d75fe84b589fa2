"""Opening a store: its tables, its file, its start-up time, and what an operator reads when it can't be opened."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Table, create_engine

from fireline_controller import model, policy
from fireline_controller.isolation import Isolation
from fireline_controller.model import Entry, StoreError
from fireline_controller.store import Store, database, schema

KEY = ec.generate_private_key(ec.SECP256R1())
NOTE = Entry("incident.note", "alice", datetime(2026, 5, 1, tzinfo=UTC), "noted")


def _open(folder: Path) -> Store:
    return Store.open(f"sqlite:///{folder}/store.db", journal_key=KEY, anchor_path=folder / "journal.anchor")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store on SQLite."""
    opened = _open(tmp_path)
    yield opened
    opened.close()


@contextmanager
def _shell(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "store.db", isolation_level=None)) as connection:
        yield connection


def test_the_migrations_make_the_tables_that_the_code_uses(tmp_path: Path, store: Store) -> None:
    """And the newest migration is the one that a store is checked for at start."""
    engine = create_engine(f"sqlite:///{tmp_path}/store.db")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": _types_differ})
        differences = compare_metadata(context, schema.metadata)
    engine.dispose()
    config = Config()
    config.set_main_option("script_location", "fireline_controller.store:migrations")

    assert differences == []
    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]


def _types_differ(context: Any, seen: Any, wanted: Any, seen_type: Any, wanted_type: Any) -> bool:
    dialect = context.dialect
    return bool(seen_type.compile(dialect) != wanted_type.dialect_impl(dialect).compile(dialect))


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        (schema.hosts, model.Host),
        (schema.certificates, model.Certificate),
        (schema.tokens, model.Token),
        (schema.incidents, model.Incident),
        (schema.isolations, Isolation),
        (schema.evidence, model.Evidence),
        (schema.chunks, model.ChunkPlace),
        (schema.approvals, policy.Approval),
    ],
)
def test_a_table_has_a_column_for_each_field_of_its_value(table: Table, kind: type[Any]) -> None:
    """A field that is added to the model needs a migration; this says so."""
    assert {c.name for c in table.columns} == {f.name for f in fields(kind)}


def test_a_store_that_is_at_head_opens_without_alembic(tmp_path: Path, store: Store) -> None:
    """Commands start quickly: the migrations' library is for the one time when it is needed."""
    script = (
        "import sys; from pathlib import Path; from cryptography.hazmat.primitives.asymmetric import ec\n"
        "from fireline_controller.store import Store\n"
        "folder = Path(sys.argv[1]); key = ec.generate_private_key(ec.SECP256R1())\n"
        "Store.open(f'sqlite:///{folder}/store.db', journal_key=key, anchor_path=folder / 'journal.anchor').close()\n"
        "print([m for m in ('alembic', 'psycopg', 'sqlalchemy.orm') if m in sys.modules])"
    )

    said = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "[]"


def test_the_file_is_nobody_elses_to_read(tmp_path: Path, store: Store) -> None:
    """Nor are the files beside it."""
    store.run_now(lambda tx: tx.append(NOTE))

    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}

    assert modes == dict.fromkeys(
        ["store.db", "store.db-wal", "store.db-shm", "journal.anchor", "journal.anchor.lock"], 0o600
    )


def test_every_commit_is_on_disk_before_it_is_acknowledged(store: Store) -> None:
    """Write-ahead log with full synchronous (2): what was acknowledged survives a power cut."""

    def settings(tx: Any) -> list[Any]:
        return [tx._connection.exec_driver_sql(f"PRAGMA {p}").scalar_one() for p in ("journal_mode", "synchronous")]

    assert store.run_now(settings) == ["wal", 2]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("store.db", r"store URL does not parse: wanted sqlite:////PATH or postgresql://USER@HOST/NAME"),
        ("mysql://h/d", r"store URL begins with 'mysql': wanted sqlite:////PATH or postgresql://USER@HOST/NAME"),
        ("sqlite://", r"store URL names no file: wanted sqlite:////PATH; a store in memory would forget the journal"),
        ("sqlite:////nowhere/store.db", r"store /nowhere/store.db can't be opened: No such file or directory"),
        (
            "postgresql://alice:secret@127.0.0.1:1/fireline",
            r"store postgresql\+psycopg://alice:\*\*\*@127.0.0.1:1/fireline: .*[Cc]onnection refused",
        ),
    ],
)
def test_a_store_that_can_not_be_opened_is_named_with_the_reason(url: str, message: str, tmp_path: Path) -> None:
    """Without the password."""
    with pytest.raises(StoreError, match=message):
        Store.open(url, journal_key=KEY, anchor_path=tmp_path / "anchor")


def test_a_store_of_a_later_fireline_is_not_touched(tmp_path: Path, store: Store) -> None:
    """It is named with its version, and this program's."""
    with _shell(tmp_path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9000'")

    with pytest.raises(
        StoreError, match=r"store .*/store.db has the tables of version 9000, this program knows up to 0004: install"
    ):
        _open(tmp_path)


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    """With what to do."""
    (tmp_path / "store.db").write_bytes(b"no database" * 100)

    with pytest.raises(
        StoreError, match=r"store.db is damaged \(file is not a database\): keep the file aside and rest"
    ):
        _open(tmp_path)


def test_a_writer_that_never_ends_is_named_as_the_cause(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program that holds the store is waited for, and then told apart from a broken store."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 20)
    impatient = _open(tmp_path)
    with _shell(tmp_path) as connection:
        connection.execute("BEGIN IMMEDIATE")

        with pytest.raises(StoreError, match=r"store .*/store.db is held by another process that keeps writing"):
            impatient.run_now(lambda tx: tx.append(NOTE))
        assert impatient.read_now(lambda tx: tx.head()[0]) == 0

    assert impatient.run_now(lambda tx: tx.append(NOTE))[0].seq == 1
    impatient.close()


def test_a_line_that_is_garbage_is_named_when_it_is_read(tmp_path: Path, store: Store) -> None:
    """By its number, as the journal's own error."""
    store.run_now(lambda tx: tx.append(NOTE))
    with _shell(tmp_path) as connection:
        connection.execute("UPDATE journal SET canonical = x'ff'")

    with pytest.raises(model.JournalError, match="line 1 of the journal was changed: no journal line"):
        store.read_now(lambda tx: tx.lines())
