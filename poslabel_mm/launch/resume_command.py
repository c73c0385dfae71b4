"""The command that resumes a run, printed when the run is interrupted."""

from poslabel_mm.typed_command import shell_line, typed_words


def resume_command(argv: list[str]) -> str:
    """The running command with ``--resume``, as the user would type it.

    Args:
        argv (list[str]): As of :func:`poslabel_mm.typed_command.typed_words`.

    Returns:
        str: A line for a shell.
    """
    kept: list[str] = []
    skip_value = False
    for word in typed_words(argv):
        if word == '--resume':
            skip_value = True
        elif word.startswith('--resume='):
            skip_value = False
        elif skip_value and not word.startswith('-'):
            skip_value = False
        else:
            skip_value = False
            kept.append(word)
    return shell_line([*kept, '--resume'])
