"""One host's hands. Never imports the controller."""
