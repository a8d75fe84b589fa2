"""Runs of runbooks: what comes next, and that it is done once."""
