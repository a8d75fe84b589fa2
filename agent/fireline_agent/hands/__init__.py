"""The only doors from the agent to its host: each file wraps one facility, and everything else asks here."""
