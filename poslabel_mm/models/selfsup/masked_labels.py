from typing import Dict

from mmpretrain.models.backbones import HiViT
from torch import Tensor

from poslabel_mm.masked_tokens import (check_mask_ratio, patch_grid,
                                       shuffled_indices)
from poslabel_mm.tokens import PatchTokens
from .non_square_grid import lay_grid
from .self_supervised_labels import SelfSupervisedLabels


class MaskedLabels(SelfSupervisedLabels):
    """Position heads on the visible patches of a masked image (Sec. 3.3).

    They read the tokens after the encoder's final norm. Where it has none, as
    HiViT, or leaves it to the neck, as BEiT v2, a layer norm without
    parameters takes its place.
    """

    stock_loss_name = 'loss_recon'

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.normalise = not getattr(self.backbone, 'final_norm',
                                     not isinstance(self.backbone, HiViT))
        self.backbone.register_forward_hook(self._on_pass)


class ShuffledLabels(MaskedLabels):
    """Of an encoder that shuffles the patches and keeps the first, as MAE's.

    Its output begins with the tokens, the mask and ``ids_restore``. With
    ``mask_ratio=0`` there is nothing to reconstruct, and the loss is 0.

    Raises:
        UserError: If ``backbone.mask_ratio`` leaves no visible patch for the
            position heads, or for a patch grid that does not fit the encoder
            or the decoder.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.pos_head is not None and self.draws_masks:
            check_mask_ratio(self.backbone.mask_ratio,
                             self.backbone.num_patches)
        lay_grid(self.backbone, getattr(self, 'neck', None),
                 getattr(self, 'head', None))

    @property
    def draws_masks(self) -> bool:
        """Whether it is the encoder that masks, by its ``mask_ratio``."""
        return True

    def read_tokens(self, inputs: tuple, outputs: tuple) -> PatchTokens:
        tokens, ids_restore = outputs[0], outputs[2]
        # Class tokens come first.
        n = tokens.shape[1] - self.backbone.num_extra_tokens
        return PatchTokens(tokens[:, -n:], patch_grid(self.backbone,
                                                      inputs[0]),
                           shuffled_indices(ids_restore, n))

    def _stock_losses(self, inputs: Tensor, *args,
                      **kwargs) -> Dict[str, Tensor]:
        if self.backbone.mask_ratio > 0 or not self.draws_masks:
            return super()._stock_losses(inputs, *args, **kwargs)
        # The stock loss is 0 / 0. The decoder takes part all the same: every
        # parameter has a gradient, as distributed training wants.
        images = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        tokens, _, ids_restore = self.backbone(images)[:3]
        return dict(loss=0 * self.neck(tokens, ids_restore).sum())
