"""The agent's services over mutual TLS. Imported by main only."""
