"""Images whose patches are shuffled.

Shape letters: B images, (H, W) patch grid, N = H·W places in row-major order.
"""

from torch import Tensor

from poslabel_mm.errors import UserError
from poslabel_mm.tokens.labels import GridShape


def shuffle_patches(images: Tensor, order: Tensor, grid_shape: GridShape) -> Tensor:
    """Shuffle the patches of images.

    Args:
        images (Tensor): (..., height, width), of any type.
        order (Tensor): int64 (N,), the patch that each slot shows, or (B, N), an order for each
            image of (B, channels, height, width).
        grid_shape (tuple[int, int]): The patch grid (H, W).

    Returns:
        Tensor: The shuffled images, of the same shape.

    Raises:
        UserError: If the grid does not divide the images.
    """
    H, W = grid_shape
    height, width = images.shape[-2:]
    if height % H or width % W:
        raise UserError(
            f'images of {height}x{width} px cannot be cut into {H}x{W} equal patches: the jigsaw '
            f'takes sides that are multiples of {H} and {W}'
        )
    patches = images.unflatten(-1, (W, -1)).unflatten(-3, (H, -1))  # (..., H, h, W, w)
    patches = patches.transpose(-3, -2).flatten(-4, -3)  # (..., N, h, w)
    order = order.to(images.device)
    if order.dim() == 1:
        patches = patches[..., order, :, :]
    else:
        patches = patches.take_along_dim(order[:, None, :, None, None], dim=-3)
    patches = patches.unflatten(-3, (H, W))
    return patches.transpose(-3, -2).flatten(-4, -3).flatten(-2, -1)
