"""One file a migration. A migration that was released is never changed."""
