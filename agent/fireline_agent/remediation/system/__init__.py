"""Services, and the network of the host. One module is one action, unless it says otherwise."""
