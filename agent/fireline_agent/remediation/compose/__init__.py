"""Actions on Compose projects, through the engine's API over the labels that Compose leaves on its containers.

No `docker compose` is asked: not every host has one, version 1 can't be kept from pulling, and both need the project's
file. So an action knows the containers that exist; a service that was never created is named, not made.
"""
