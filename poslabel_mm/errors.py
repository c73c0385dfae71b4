"""The one exception a user's mistake raises."""


class UserError(ValueError):
    """A mistake that the user can mend: one line that names it and the way out.

    The command-line tools print it as ``error: <line>`` and exit with status
    1; any other exception keeps its traceback.
    """
