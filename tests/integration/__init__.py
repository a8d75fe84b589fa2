"""Several rooms together, or one room against the real thing."""
