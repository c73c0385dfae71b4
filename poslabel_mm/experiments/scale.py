"""The size that everything is trained at: the config's own, or a tiny form of it."""

from typing import NamedTuple

DATA = ('fashion_mnist', 'digits')


class Scale(NamedTuple):
    """The size that everything is trained at.

    Attributes:
        data (str, optional): The dataset of the tiny form, one of :data:`DATA`; None for the
            config's own size.
        epochs (int): The number of epochs of the tiny form.
    """

    data: str | None = None
    epochs: int = 1

    @property
    def folder(self) -> str:
        """The name of the folder of its runs; empty at the config's own size."""
        if self.data is None:
            return ''
        return f'tiny-{self.data}-{self.epochs}epochs'
