"""Proof by sending: what an intruder or the world could try against an isolated host, each tried for real."""
