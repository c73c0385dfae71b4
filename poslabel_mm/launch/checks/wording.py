"""Parts of the messages that the checks raise."""

from collections.abc import Iterator
from contextlib import contextmanager

from poslabel_mm.errors import UserError


@contextmanager
def with_advice(text: str) -> Iterator[None]:
    """A context that appends advice to every :class:`UserError`."""
    try:
        yield
    except UserError as error:
        mark = '.' if text[0].isupper() else ';'
        raise UserError(f'{error}{mark} {text}') from error


def first_names(names: list[str], most: int = 3) -> str:
    """List the first few names and the number of the others: ``'a, b, c and 4 more'``."""
    more = len(names) - most
    return ', '.join(names[:most]) + (f' and {more} more' if more > 0 else '')
