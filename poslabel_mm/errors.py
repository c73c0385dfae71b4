"""The exception for errors that the user can correct."""


class UserError(ValueError):
    """An error that the user can correct: one line names it and says what to do.

    The command-line tools print it as ``error: <line>`` and exit with status
    1; any other exception keeps its traceback.
    """
