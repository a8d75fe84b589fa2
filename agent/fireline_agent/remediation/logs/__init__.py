"""Logs of the host and its containers, read once and with little memory: what is in them, how often, how long."""
