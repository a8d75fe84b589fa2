"""The door to the service manager: tell systemd how the agent is doing. See sd_notify(3)."""

import os
import socket


def notify(state: str) -> None:
    """Send a state such as `READY=1`; nothing where no service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace, unix(7)
        address = f"\0{address[1:]}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto(state.encode(), address)
