"""Runbooks: read, checked, suggested, exported; the command line over them."""
