from mmpretrain.models.backbones import HiViT
from torch import Tensor

from poslabel_mm import options
from poslabel_mm.models.selfsup.non_square_grid import lay_grid
from poslabel_mm.models.selfsup.self_supervised_labels import SelfSupervisedLabels
from poslabel_mm.tokens import PatchTokens, SwappedTokens
from poslabel_mm.tokens.labels import num_absolute
from poslabel_mm.tokens.masked import (
    built_grid,
    check_image_size,
    check_mask_ratio,
    shuffled_indices,
    tells_grid,
)
from poslabel_mm.tokens.wrappers import unwrapped


class MaskedLabels(SelfSupervisedLabels):
    """Position heads on the visible patches of a masked image (Sec. 3.3).

    They read the tokens after the encoder's final norm. Where it has none, as
    HiViT, or leaves it to the neck, as BEiT v2 with ``final_norm=False``, a
    layer norm without parameters takes its place. (MMPretrain's encoders of
    MAE, MFF and MILAN cannot do without theirs: with ``final_norm=False`` they
    fail by themselves.)

    Raises:
        UserError: Of an encoder that draws the masks: if its ``mask_ratio``
            leaves no visible patch for the position heads, or for images of
            another size than it was built for.
    """

    stock_loss_name = 'loss_recon'

    # Whether it is the encoder that masks, by its `mask_ratio`.
    draws_masks = False

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        encoder = unwrapped(self.backbone)
        self.normalise = not getattr(encoder, 'final_norm', not isinstance(encoder, HiViT))
        if self.pos_head is not None and self.draws_masks:
            with options.within('model.backbone'):
                check_mask_ratio(self.backbone.mask_ratio, num_absolute(built_grid(self.backbone)))
        self.backbone.register_forward_pre_hook(self._before_pass)
        self.backbone.register_forward_hook(self._on_pass)

    def _before_pass(self, _backbone, inputs) -> None:
        if self._passes is not None and self.draws_masks:
            check_image_size(self.backbone, inputs[0].shape[-2:])


class ShuffledLabels(MaskedLabels):
    """Of an encoder that shuffles the patches and keeps the first, as MAE's.

    Its output begins with the tokens, the mask and ``ids_restore``. With
    ``mask_ratio=0`` there is nothing to reconstruct, and the loss is 0.

    Raises:
        UserError: As of :class:`MaskedLabels`, and for a patch grid that does
            not fit the encoder or the decoder.
    """

    draws_masks = True

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        # The stock algorithm takes encoders that do not tell their grid.
        if self.pos_head is not None or tells_grid(self.backbone):
            lay_grid(self.backbone, getattr(self, 'neck', None), getattr(self, 'head', None))

    def read_tokens(self, inputs: tuple, outputs: tuple) -> PatchTokens | SwappedTokens:
        tokens, ids_restore = outputs[0], outputs[2]
        # Class tokens come first.
        n = tokens.shape[1] - self.backbone.num_extra_tokens
        visible = PatchTokens(
            tokens[:, -n:], built_grid(self.backbone), shuffled_indices(ids_restore, n)
        )
        swapped = getattr(self.backbone, 'swapped_patches', None)
        return visible if swapped is None else SwappedTokens(*visible, swapped)

    def _stock_losses(self, inputs: Tensor, *args, **kwargs) -> dict[str, Tensor]:
        if self.backbone.mask_ratio > 0 or not self.draws_masks:
            return super()._stock_losses(inputs, *args, **kwargs)
        # The stock loss is 0 / 0. The decoder takes part all the same: every
        # parameter has a gradient, as distributed training wants.
        images = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        tokens, _, ids_restore = self.backbone(images)[:3]
        return dict(loss=0 * self.neck(tokens, ids_restore).sum())
