"""What a writer of a format tells of what it has written."""

from typing import NamedTuple


class Written(NamedTuple):
    """A file or folder that was written and compared with the source.

    Attributes:
        verified (str): What the comparison found.
        use (str): The Python expression that reads it; its path is called FILE.
        note (str): What else is to be said.
    """

    verified: str
    use: str
    note: str = ''
