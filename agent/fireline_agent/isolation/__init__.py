"""Cut this host, or a part of it, off from all but its controllers. Imported by server and main only."""
