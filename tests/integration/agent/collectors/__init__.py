"""Collectors with every kind of bad manners, each a module as the real ones are."""
