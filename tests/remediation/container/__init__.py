"""Actions on containers and Compose projects, against a real Docker Engine."""
