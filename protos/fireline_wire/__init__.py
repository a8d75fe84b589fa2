"""The contract between agent and controller, and the few rules that both ends share. Imports neither end."""
