"""Actions on containers, through the engine's API."""
