"""Fireline's tests."""
