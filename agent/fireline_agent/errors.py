"""What this agent refuses and why, for the one wrapper that turns it into a status on the wire.

Leaves to others: the wire's codes (fireline_wire.status).
"""


class ConfigError(Exception):
    """A configuration or policy file can't be used; the message names file, key, what was wanted and what was found."""


class RefusedError(Exception):
    """A command that this host does not carry out; nothing was changed.

    `reason` is an ErrorReason of the wire in lower case, without its prefix.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
