"""The exception for errors that the user can correct."""


class UserError(ValueError):
    """An error that the user can correct: one line names it and says what to do.

    The command-line tools print it as ``error: <line>`` and exit with status
    1; any other exception keeps its traceback.
    """


def user_error_behind(error: BaseException | None) -> BaseException | None:
    """The user's error that an ImportError was raised for, or else the error as it is.

    Where a config's ``custom_imports`` fail, MMEngine raises an ImportError of its own.
    """
    found, seen = error, []
    while isinstance(found, ImportError) and found not in seen:
        if isinstance(found, UserError):
            return found
        seen.append(found)
        found = found.__cause__ or found.__context__
    return error
