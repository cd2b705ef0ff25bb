"""The errors that a user can act on; the command line prints their one sentence and exits with status 2."""


class ImprintError(Exception):
    """Something the user asked for cannot be done; the message says what was given and what is possible."""


class RecipeError(ImprintError):
    """A setting is unknown, malformed or impossible."""


class DataError(ImprintError):
    """A file is missing, malformed or damaged."""


class LockError(ImprintError):
    """Another process writes what this one was to write."""


class Stopped(ImprintError):
    """A training saved its state and ended before its last step, because it was asked to."""
