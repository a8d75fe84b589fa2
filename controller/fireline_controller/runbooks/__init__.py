"""Runbooks: read, checked, suggested, exported, and what comes next in a run of one. Pure: no store, no wire, no clock.

Imported by engine, control and cli. Leaves to others: doing the steps and keeping what was done (engine).
"""
