"""What the controller remembers: fleet, operations, incidents, evidence, journal; on SQLite or PostgreSQL.

`Store.open` and the verbs of `Transaction` are the whole promise; both databases pass the same contract suite.
Imported by engine, enrollment, control, daemon and cli; imports the model, the journal's rules and SQLAlchemy Core.
"""

from fireline_controller.store.chunks import StoredChunks
from fireline_controller.store.store import Store
from fireline_controller.store.transaction import Transaction

__all__ = ["Store", "StoredChunks", "Transaction"]
