"""The errors of the lab. Nothing else."""


class LabError(Exception):
    """The lab could not be built, or something in it could not be done; the message says what to do about it."""


class Unsupported(LabError):
    """This backend, or this machine, can't do what was asked; the message says what would."""
