"""Can't even be imported."""

raise RuntimeError("no such library")
