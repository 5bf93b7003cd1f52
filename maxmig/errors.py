"""The typed errors of maxmig and the process exit code that each one means.

Every message says what was expected, what came, where (path of the leaf, key, file and line) and
what to do. The command line prints the message without a traceback and exits with `exit_code`.
"""


class MaxmigError(Exception):
    """Base of all errors that a user can cause or meet; `exit_code` is what the process returns."""

    exit_code = 70

    def __init__(self, message: str, *, exit_code: int | None = None):
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class ConfigError(MaxmigError):
    """A setting, a flag or a command-line argument is unknown, ill-typed or contradictory."""

    exit_code = 2


class DataError(MaxmigError):
    """Input data are missing, unreadable, empty or too small."""

    exit_code = 4


class CheckpointError(MaxmigError):
    """A checkpoint is missing, unreadable, half-written or does not match the model."""

    exit_code = 4


class ConvertError(MaxmigError):
    """A checkpoint cannot be converted without losing or inventing a leaf."""

    exit_code = 4


class PreflightError(MaxmigError):
    """Refused before anything was done: not enough memory, disk or devices, or a safety rule."""

    exit_code = 5


class DifferenceError(MaxmigError):
    """A comparison found a difference, or a gate was violated."""

    exit_code = 1


class InconclusiveError(MaxmigError):
    """Nothing, or too little, was compared to give a verdict."""

    exit_code = 3


class Interrupted(MaxmigError):
    """The user stopped a run; its state is saved and the message tells how to resume."""

    exit_code = 130
