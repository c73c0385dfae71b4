"""The size that everything is trained at: the config's own, or a tiny form of it."""

from typing import NamedTuple

DATA = ('fashion_mnist', 'digits')


class Scale(NamedTuple):
    """The size that everything is trained at.

    Attributes:
        data (str, optional): What the tiny form is trained on, one of :data:`DATA`; None for
            the config's own size.
        epochs (int): Of the tiny form.
    """

    data: str | None = None
    epochs: int = 1

    @property
    def folder(self) -> str:
        """Name of the folder of its runs; empty at the config's own size."""
        if self.data is None:
            return ''
        return f'tiny-{self.data}-{self.epochs}epochs'
