"""The history of the tables, for alembic, without an ini file. Opened by `database` alone, for a store not at head."""
