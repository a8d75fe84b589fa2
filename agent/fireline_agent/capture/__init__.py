"""Collectors, each reading one kind of state, and the runner that binds, spools and seals what they yield."""
