"""Actions against an intruder: files, accounts, secrets. One module, one action."""
