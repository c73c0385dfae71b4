from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmpretrain.structures import DataSample
from torch import Tensor

from poslabel_mm.errors import UserError
from poslabel_mm.models.selfsup.self_supervised_labels import SelfSupervisedLabels
from poslabel_mm.tokens import PatchTokenReader, PatchTokens, ViewPredictions
from poslabel_mm.tokens.views import Views


class ViewLabels(SelfSupervisedLabels):
    """Position heads on all patches of every view of an image.

    The label of a patch is its place in the view, as in classification its
    place in the augmented image. A momentum encoder, being a copy made
    before the heads are attached, is not read.

    A head that compares views, as
    :class:`~poslabel_mm.models.heads.ViewOffsetHead`, reads the tokens of all
    views at once, and where they lie in the image: ``view_boxes`` of the data
    samples.
    """

    stock_loss_name = 'loss_view'

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._token_reader = PatchTokenReader(self.backbone)
        # After the reader's own hook, for what it has read to be there.
        self.backbone.register_forward_hook(self._on_pass)

    def _check_views(self) -> None:
        """Heads that compare views find several here."""

    @contextmanager
    def _reading(self) -> Iterator[list[PatchTokens]]:
        with self._token_reader, super()._reading() as passes:
            yield passes

    def read_tokens(self, inputs: tuple, outputs) -> PatchTokens:
        return self._token_reader.take()

    def tokens_of_views(self, passes: list[PatchTokens], num_views: int) -> list[PatchTokens]:
        """The tokens of every view, of the images in order.

        By default the backbone runs once for every view, as in most algorithms.

        Args:
            passes (list[PatchTokens]): What every pass of the backbone showed.
            num_views (int): V.

        Returns:
            list[PatchTokens]: V of them.

        Raises:
            UserError: If there are not as many passes as views.
        """
        if len(passes) != num_views:
            raise UserError(
                f'{type(self).__name__} runs its backbone {len(passes)} times for {num_views} '
                'views, so that no pass is a view: have its method tokens_of_views say which '
                'tokens are whose'
            )
        return passes

    @torch.no_grad()
    def predict_views(
        self, inputs: list[Tensor], data_samples: list[DataSample]
    ) -> dict[str, ViewPredictions]:
        """What every head that compares views predicts.

        Args:
            inputs (list[Tensor]): The images of each of V views, of shape (B, 3, height, width).
            data_samples (list[DataSample]): Their annotations, with ``view_boxes``.

        Returns:
            dict[str, ViewPredictions]: By what the head's loss is called in the log, without
            'loss_': 'view_offset' for ``loss_view_offset``.

        Raises:
            UserError: If the data do not tell where the views lie, or tell it of another number
                of views, or the tokens have another width than a head was built for.
        """
        boxes = _view_boxes(data_samples)
        if len(inputs) != boxes.shape[1]:
            raise UserError(
                f'predict_views got the images of {len(inputs)} views, and view_boxes of '
                f'{boxes.shape[1]}: pass inputs and data_samples of one batch'
            )
        tokens = [self.patch_tokens(view) for view in inputs]
        return self._view_predictions(Views(tokens, boxes))

    def _losses_of_passes(
        self, passes: list[PatchTokens], data_samples: list[DataSample]
    ) -> dict[str, Tensor]:
        losses = super()._losses_of_passes(passes, data_samples)
        if self._compares_views():
            boxes = _view_boxes(data_samples)
            tokens = self.tokens_of_views(passes, boxes.shape[1])
            losses.update(self._view_losses(Views(tokens, boxes)))
        return losses


def _view_boxes(data_samples: list[DataSample]) -> Tensor:
    """Where the views of every image lie in it, (B, V, 4)."""
    boxes = [sample.get('view_boxes') for sample in data_samples]
    if any(box is None for box in boxes):
        raise UserError(
            'the data do not tell where the views lie in the image: cut them with '
            'poslabel_mm.RecordedRandomResizedCrop in poslabel_mm.RecordedMultiView, and set '
            "meta_keys=['view_boxes'] in PackInputs"
        )
    return torch.from_numpy(np.stack(boxes))
