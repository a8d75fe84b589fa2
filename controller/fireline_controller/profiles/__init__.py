"""Profiles: which collectors a capture runs, in which order, under which limits. Data in YAML, checked when loaded.

`hosts`, `engine` and above may import it. Leaves to others: what a collector does with its params (the agent's
collectors refuse what they don't know), and the limits that a host sets itself (the agent's own ceilings).
"""

from fireline_controller.profiles.loader import CollectorLimits, CollectorOrder, Profile, load, names

__all__ = ["CollectorLimits", "CollectorOrder", "Profile", "load", "names"]
