"""Actions on the system itself: processes, services, the network. One module, one action."""
