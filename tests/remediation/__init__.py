"""Actions against real engines, servers, processes and file systems."""
