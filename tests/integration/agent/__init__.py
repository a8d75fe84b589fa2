"""The agent and its captures, as real processes."""
