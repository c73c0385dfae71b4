"""What a model shows of positions in each of its passes while it is evaluated."""

from typing import NamedTuple

import torch
from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.tokens import (
    OffsetPredictions,
    PatchTokenReader,
    PatchTokens,
    PlacePredictions,
)


class PositionPass(NamedTuple):
    """One pass of the backbone.

    Attributes:
        patch_tokens (PatchTokens): What the position heads read, or would read.
        predictions (dict): What every position head predicts, ``PlacePredictions`` or
            ``OffsetPredictions`` by the head's name. Empty for a model without heads.
    """

    patch_tokens: PatchTokens
    predictions: dict[str, PlacePredictions | OffsetPredictions]


class PositionPasses:
    """Reads a model's patch tokens in every pass, and has its position heads predict.

    The model's output stays what it is.

    Args:
        model (nn.Module): A model with a ``backbone``, not wrapped. If it has position heads, they
            predict what they read in training.

    Attributes:
        passes (list[PositionPass]): Those since it was last cleared; with test-time augmentation
            there is one for each view of the images.
        is_reading (bool): Whether passes are kept. Set it to False for passes that are not to be
            measured, such as those of a probe.

    Raises:
        UserError: If the model has no backbone, or the backbone no patch grid.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(getattr(model, 'backbone', None), nn.Module):
            raise UserError(f'{type(model).__name__} has no backbone to read patch tokens from')
        self.passes: list[PositionPass] = []
        self.is_reading = True
        self._model = model
        self._neck = getattr(model, 'pos_neck', None)
        self._reader = PatchTokenReader(model.backbone, getattr(self._neck, 'stage', None))
        # After the reader's own hook, for what it has read to be there.
        self._handle = model.backbone.register_forward_hook(self._on_pass)
        self._reader.__enter__()

    def close(self) -> None:
        """Stop reading, and leave the model as it was."""
        self._reader.__exit__()
        self._handle.remove()
        self._reader.close()
        self.passes.clear()

    @torch.no_grad()
    def _on_pass(self, _backbone, _inputs, _outputs) -> None:
        patch_tokens = self._reader.take()
        if not self.is_reading:
            return
        if self._neck is not None:
            patch_tokens = self._neck(patch_tokens)
        predict = getattr(self._model, 'predict_positions', None)
        self.passes.append(PositionPass(patch_tokens, predict(patch_tokens) if predict else {}))
