from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from torch import Tensor

from poslabel_mm.models.position_heads import PositionHeads
from poslabel_mm.tokens import PatchTokens, check_gradient


class SelfSupervisedLabels(PositionHeads):
    """Position heads on the encoder of a self-supervised algorithm.

    Mixed in to the left of one of MMPretrain's algorithms, through
    :class:`MaskedLabels` or :class:`ViewLabels`. The algorithm's own loss runs
    as it is, and the heads read what its ``backbone`` makes of the images on
    the way: once, or once for every view. In evaluation they are idle.

    Args:
        *args: The algorithm's arguments.
        pos_head (dict | list[dict], optional): One or several position heads.
            Defaults to None: the stock algorithm.
        **kwargs: The algorithm's arguments.
    """

    # Whether the encoder's tokens come without a final norm.
    normalise = False

    # What every pass of the backbone showed, or None: nobody reads.
    _passes: list[PatchTokens] | None = None

    def __init__(self, *args, pos_head: dict | list[dict] | None = None, **kwargs) -> None:
        super().__init__(*args, pos_head=pos_head, **kwargs)
        self._check_fit()

    def read_tokens(self, inputs: tuple, outputs) -> PatchTokens:
        """The patch tokens of one pass of the backbone.

        Args:
            inputs (tuple): What the backbone was called with.
            outputs (Any): What it returned.

        Returns:
            PatchTokens: Tokens, their grid, and which patches they are.
        """
        raise NotImplementedError

    def loss(self, inputs, data_samples: list[DataSample], **kwargs) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            inputs (Tensor | list[Tensor]): Images, as the algorithm takes.
            data_samples (list[DataSample]): Their annotations.

        Returns:
            dict[str, Tensor]: The algorithm's losses, its ``loss`` under the
            name ``stock_loss_name``. While training also what every position
            head returns, averaged over the views.

        Raises:
            UserError: If the patch grid or the token width is not the one
                that a position head was built for.
        """
        if self.pos_head is None:
            return super().loss(inputs, data_samples, **kwargs)
        if not self.training:
            return self._name_stock_loss(self._stock_losses(inputs, data_samples, **kwargs))
        with self._reading() as passes:
            losses = self._name_stock_loss(self._stock_losses(inputs, data_samples, **kwargs))
        losses.update(self._losses_of_passes(passes, data_samples))
        return losses

    def patch_tokens(self, *inputs) -> PatchTokens:
        """The tokens that the position heads read, in evaluation too.

        Args:
            *inputs: What the backbone takes in training: images of shape
                (B, 3, height, width), and their masks where it is not the
                backbone that draws them.

        Returns:
            PatchTokens: Tokens, their grid, and which patches they are.
        """
        with self._reading() as passes:
            self.backbone(*inputs)
        return passes[-1]

    def position_losses(self, *inputs) -> dict[str, Tensor]:
        """Position losses and accuracies alone, in evaluation too.

        Args:
            *inputs: As of :meth:`patch_tokens`.

        Returns:
            dict[str, Tensor]: What every position head's ``loss`` returns.
        """
        return self._position_losses(self.patch_tokens(*inputs))

    def _stock_losses(self, *args, **kwargs) -> dict[str, Tensor]:
        return super().loss(*args, **kwargs)

    def _losses_of_passes(
        self, passes: list[PatchTokens], data_samples: list[DataSample]
    ) -> dict[str, Tensor]:
        of_passes = [self._position_losses(tokens) for tokens in passes]
        return {
            name: sum(losses[name] for losses in of_passes) / len(of_passes)
            for name in of_passes[0]
        }

    @contextmanager
    def _reading(self) -> Iterator[list[PatchTokens]]:
        self._passes = passes = []
        self._with_grad = torch.is_grad_enabled()
        try:
            yield passes
        finally:
            self._passes = None

    def _on_pass(self, _backbone, inputs, outputs) -> None:
        if self._passes is None:
            return
        check_gradient(self.backbone, self._with_grad)
        patch_tokens = self.read_tokens(inputs, outputs)
        if self.normalise:
            tokens = patch_tokens.tokens
            patch_tokens = patch_tokens._replace(tokens=F.layer_norm(tokens, tokens.shape[-1:]))
        self._passes.append(patch_tokens)
