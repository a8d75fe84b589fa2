"""The mind and the memory of Fireline, and the operator's command line. Never imports the agent."""
