from collections.abc import Iterator
from contextlib import contextmanager

from poslabel_mm.models.selfsup.self_supervised_labels import SelfSupervisedLabels
from poslabel_mm.tokens import PatchTokenReader, PatchTokens


class ViewLabels(SelfSupervisedLabels):
    """Position heads on all patches of every view of an image.

    The label of a patch is its place in the view, as in classification its
    place in the augmented image. A momentum encoder, being a copy made
    before the heads are attached, is not read.
    """

    stock_loss_name = 'loss_view'

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._token_reader = PatchTokenReader(self.backbone)
        # After the reader's own hook, for what it has read to be there.
        self.backbone.register_forward_hook(self._on_pass)

    @contextmanager
    def _reading(self) -> Iterator[list[PatchTokens]]:
        with self._token_reader, super()._reading() as passes:
            yield passes

    def read_tokens(self, inputs: tuple, outputs) -> PatchTokens:
        return self._token_reader.take()
