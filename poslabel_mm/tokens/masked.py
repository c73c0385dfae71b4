"""Patch tokens of masked images, and which patches they are.

Functions of tensors and shapes. Shape letters: B batch; H, W the patch grid;
N = H·W its patches; n those of an image that are visible; C channels.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from poslabel_mm.errors import UserError
from poslabel_mm.options import plain, wrong
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.labels import GridShape, num_absolute


def tells_grid(backbone: nn.Module) -> bool:
    """Whether :func:`built_grid` knows the patch grid of a backbone."""
    return hasattr(backbone, 'patch_resolution') or hasattr(
        getattr(backbone, 'patch_embed', None), 'patches_resolution'
    )


def built_grid(backbone: nn.Module) -> GridShape:
    """The patch grid that a ViT or HiViT was built for.

    Args:
        backbone (nn.Module): One of MMPretrain's, or one that has their
            ``patch_resolution`` (H, W).

    Returns:
        tuple[int, int]: The grid (H, W).

    Raises:
        UserError: If the backbone does not tell.
    """
    if not tells_grid(backbone):
        raise UserError(
            f'{type(backbone).__name__} does not tell its patch grid; give it '
            'the attributes patch_resolution (H, W) and img_size (height, '
            'width) for position heads to read it'
        )
    if hasattr(backbone, 'patch_resolution'):
        return tuple(backbone.patch_resolution)
    return tuple(backbone.patch_embed.patches_resolution)


def built_image_size(backbone: nn.Module) -> tuple[int, int]:
    """The (height, width) in pixels that a ViT or HiViT was built for."""
    if hasattr(backbone, 'img_size'):
        return tuple(backbone.img_size)
    return tuple(backbone.patch_embed.img_size)


def built_patch_size(backbone: nn.Module) -> tuple[int, int] | None:
    """The (height, width) in pixels of a ViT's or HiViT's patches, None if it does not tell."""
    patch_embed = getattr(backbone, 'patch_embed', None)
    size = getattr(
        getattr(patch_embed, 'projection', None),
        'stride',
        getattr(patch_embed, 'patch_size', None),
    )
    if size is not None:
        return (size, size) if isinstance(size, int) else tuple(size)
    if not hasattr(backbone, 'img_size') and not hasattr(patch_embed, 'img_size'):
        return None
    return tuple(
        side // patches for side, patches in zip(built_image_size(backbone), built_grid(backbone))
    )


def patch_grid(backbone: nn.Module, images: Tensor) -> GridShape:
    """The patch grid that a ViT or HiViT lays over images.

    Args:
        backbone (nn.Module): One of MMPretrain's, built for some image size.
        images (Tensor): Images of shape (B, 3, height, width), not
            necessarily of that size.

    Returns:
        tuple[int, int]: The grid (H, W).
    """
    return _grid_of_size(backbone, images.shape[-2:])


def _grid_of_size(backbone: nn.Module, image_size: tuple[int, int]) -> GridShape:
    return tuple(
        int(side) * patches // built_side
        for side, patches, built_side in zip(
            image_size, built_grid(backbone), built_image_size(backbone)
        )
    )


def check_image_size(backbone: nn.Module, image_size: tuple[int, int]) -> None:
    """Refuse images of a size that an encoder was not built for.

    Args:
        backbone (nn.Module): One of MMPretrain's, built for some image size.
        image_size (tuple[int, int]): Of the images, (height, width) in pixels.

    Raises:
        UserError: If it is another.
    """
    (h, w), (height, width) = image_size, built_image_size(backbone)
    if (h, w) == (height, width):
        return
    H, W = built_grid(backbone)
    rows, columns = _grid_of_size(backbone, image_size)
    raise UserError(
        f'images of {h}x{w} pixels have a {rows}x{columns} patch grid, but '
        f'{type(backbone).__name__} was built for {height}x{width} pixels, '
        f'{H}x{W} patches: resize the images, or build the model for theirs '
        f'with model.backbone.img_size=({h}, {w})'
    )


def check_mask_ratio(mask_ratio: float, num_patches: int) -> None:
    """Refuse a masking ratio that leaves an image without a token.

    Args:
        mask_ratio (float): The part of the patches that is masked.
        num_patches (int): N.

    Raises:
        UserError: If it is no number, no part, or no patch would be visible.
    """
    ratio = plain(mask_ratio)
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)):
        raise wrong('mask_ratio', mask_ratio, 'is refused: set it to a number from 0 on, below 1')

    def is_accepted(ratio: float) -> bool:
        # As MAE counts, rounding errors and all: of 10 patches 0.9 leaves none.
        return 0 <= ratio < 1 and int(num_patches * (1 - ratio)) >= 1

    if not is_accepted(ratio):
        largest = max(
            thousandths / 1000 for thousandths in range(1000) if is_accepted(thousandths / 1000)
        )
        raise wrong(
            'mask_ratio',
            mask_ratio,
            f'leaves none of {num_patches} patches '
            f'visible for the position heads; set it from 0 to {largest}',
        )


def shuffled_indices(ids_restore: Tensor, num_visible: int) -> Tensor:
    """Places of the patches that MAE's random masking kept.

    Args:
        ids_restore (Tensor): int64 of shape (B, N): where every patch is in
            the shuffled order, of which the first n are visible.
        num_visible (int): n.

    Returns:
        Tensor: int64 of shape (B, n), in the order of the encoder's tokens.
    """
    return ids_restore.argsort(dim=1)[:, :num_visible]


def visible_indices(mask: Tensor) -> Tensor:
    """Places of the patches that a mask leaves visible.

    Args:
        mask (Tensor): Of shape (B, N) or (B, H, W), nonzero where masked.

    Returns:
        Tensor: int64 of shape (B, n), in ascending order.

    Raises:
        UserError: If no patch is visible, or not as many in every image.
    """
    masked = mask.flatten(1).bool()
    counts = (~masked).sum(1).tolist()
    if min(counts) == 0:
        raise UserError(
            'a mask leaves no visible patch for the position '
            'heads; lower the number of masked patches.'
        )
    if min(counts) != max(counts):
        raise UserError(
            f'the masks of a batch leave {min(counts)} to {max(counts)} '
            'patches visible; position heads need as many in every image: '
            'mask a fixed number of whole patches.'
        )
    # Visible ones come first, and stay in order.
    return masked.byte().argsort(dim=1, stable=True)[:, : counts[0]]


def visible_tokens(tokens: Tensor, mask: Tensor, grid_shape: GridShape) -> PatchTokens:
    """Tokens of the visible patches, where mask tokens fill the other places.

    Args:
        tokens (Tensor): Of all patches in order, (B, extra + N, C); class
            tokens come first and are left out.
        mask (Tensor): Of shape (B, h, w), or (B, h·w) for h, w = H, W;
            nonzero where masked. It may be finer than the grid, and a patch
            is visible if all of it is.
        grid_shape (tuple[int, int]): The patch grid (H, W).

    Returns:
        PatchTokens: The visible tokens with their places.

    Raises:
        UserError: As of :func:`visible_indices`.
    """
    if mask.dim() == 3:
        mask = F.adaptive_max_pool2d(mask.float(), grid_shape)
    indices = visible_indices(mask)
    tokens = tokens[:, -num_absolute(grid_shape) :]
    index = indices.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
    return PatchTokens(tokens.gather(1, index), grid_shape, indices)
