"""MAE's decoder and target on a patch grid that need not be square.

Shape letters: B batch; H, W the patch grid, N = H·W; p side of a patch in
pixels; C channels of an image.
"""

import math

from mmengine.model import BaseModule
from torch import Tensor, nn

from poslabel_mm.errors import UserError
from poslabel_mm.models.backbones.encoding_grid import keep_grid
from poslabel_mm.models.backbones.positional_encoding import PositionalEncodingChoice, fill_sincos
from poslabel_mm.tokens.labels import GridShape
from poslabel_mm.tokens.masked import built_grid, built_image_size, built_patch_size
from poslabel_mm.tokens.wrappers import unwrapped

# In place of the encoders that want a square.
_OF_ANY_GRID = dict(MAEViT='PositionalMAEViT', MAEHiViT='PositionalMAEHiViT')


def lay_grid(backbone: nn.Module, neck: nn.Module | None, head: nn.Module | None) -> None:
    """Have a decoder and a target of MAE's kind follow the encoder's grid.

    The stock ones take every grid for a square. On a square they are left as
    they are, but for the grid that the decoder's encoding tells.

    Args:
        backbone (nn.Module): The encoder.
        neck (nn.Module, optional): The decoder.
        head (nn.Module, optional): What makes the target of the images.

    Raises:
        UserError: If the encoder wants a square, or the decoder or the target
            is built for other patches, or the images are not made of whole
            patches.
    """
    H, W = grid_shape = built_grid(backbone)
    encoder = unwrapped(backbone)
    if H != W and not isinstance(encoder, PositionalEncodingChoice):
        stock = type(backbone).__name__
        ours = _OF_ANY_GRID.get(stock)
        raise UserError(
            f'{stock} wants a square patch grid, not {H}x{W}: give it a '
            'square img_size' + (f', or use {ours}' if ours else '')
        )
    _check_patches(backbone, neck, head)
    if neck is not None:
        keep_grid(
            neck, 'decoder_pos_embed', grid_shape, getattr(backbone, 'checkpoint_grid', None)
        )
    if H == W:
        return
    if neck is not None:
        _DecoderOfGrid(neck, grid_shape)
    if hasattr(head, 'patchify'):
        _TargetOfGrid(head, grid_shape)


def _check_patches(backbone: nn.Module, neck: nn.Module | None, head: nn.Module | None) -> None:
    """Refuse a decoder and a target of other patches, naming every option."""
    H, W = built_grid(backbone)
    patch_size = built_patch_size(backbone)
    patches = f'{H}x{W} patches'
    if patch_size is not None:
        height, width = patch_size
        patches += f' of {height}x{width} pixels'
    options = dict()
    if getattr(neck, 'num_patches', H * W) != H * W:
        options['neck.num_patches'] = H * W
    if hasattr(head, 'patchify') and patch_size is not None:
        if height != width:
            raise UserError(
                f'{type(head).__name__} takes square patches, not of '
                f'{height}x{width} pixels: set model.backbone.patch_size to '
                'one number'
            )
        size = H * height, W * width
        if size != built_image_size(backbone):
            raise UserError(
                f'{patches} are an image of '
                f'{size[0]}x{size[1]} pixels: set model.backbone.img_size='
                f'"({size[0]},{size[1]})"'
            )
        channels = getattr(head, 'in_channels', 3)
        pixels = height * width * channels
        predicted = getattr(getattr(neck, 'decoder_pred', None), 'out_features', pixels)
        if predicted != pixels:
            if math.isqrt(predicted // channels) ** 2 * channels == predicted:
                options['neck.patch_size'] = height
            else:
                options['neck.predict_feature_dim'] = pixels
        if head.patch_size != height:
            options['head.patch_size'] = height
    if options:
        raise UserError(
            f'the encoder has {patches}, and '
            'the decoder and the target have to follow: --cfg-options '
            + ' '.join(f'model.{key}={value}' for key, value in options.items())
        )


# Bound methods of an object, not closures: a deep copy of the model (EMA) must
# end up with its own.


class _DecoderOfGrid:
    def __init__(self, decoder: nn.Module, grid_shape: GridShape) -> None:
        self.decoder, self.grid_shape = decoder, grid_shape
        decoder.init_weights = self.init_weights

    def init_weights(self) -> None:
        # As in MAEPretrainDecoder.init_weights but for the grid.
        BaseModule.init_weights(self.decoder)
        fill_sincos(self.decoder.decoder_pos_embed, self.grid_shape)
        nn.init.normal_(self.decoder.mask_token, std=0.02)


class _TargetOfGrid:
    def __init__(self, head: nn.Module, grid_shape: GridShape) -> None:
        self.patch_size, self.grid_shape = head.patch_size, grid_shape
        head.patchify, head.unpatchify = self.patchify, self.unpatchify

    def patchify(self, images: Tensor) -> Tensor:
        """From (B, C, H·p, W·p) to (B, N, p·p·C)."""
        p = self.patch_size
        patches = images.unflatten(3, (-1, p)).unflatten(2, (-1, p))
        return patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """From (B, N, p·p·C) to (B, C, H·p, W·p)."""
        p = self.patch_size
        patches = patches.unflatten(2, (p, p, -1)).unflatten(1, self.grid_shape)
        return patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
