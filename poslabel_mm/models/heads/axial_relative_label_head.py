import torch
from torch import Tensor

from poslabel_mm.models.heads.relative_positional_label_head import RelativePositionalLabelHead
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens.labels import GridShape, axial_codes, axial_offsets, num_axial


@MODELS.register_module()
class AxialRelativeLabelHead(RelativePositionalLabelHead):
    """Relative positional label as two, the row offset and the column offset of a pair.

    One hidden layer gives 2H−1 logits of the row offset and 2W−1 of the column offset, with a
    softmax each; the loss is the sum of the two mean cross-entropies over all ordered pairs, times
    λ. This is :class:`RelativePositionalLabelHead` with the classifier's weights restricted to
    W[(dy, dx)] = u_dy + v_dx, whose softmax is the product of two: 54 logits a pair in place of
    729 at 14×14, 94 in place of 2,209 at 24×24.

    ``forward`` returns the logits of the row offsets, then those of the column offsets,
    (B, n, n, (2H−1) + (2W−1)). ``rpl_acc`` counts a pair if both offsets are right.

    Arguments that are not listed are those of :class:`~.base_pair_head.BasePairHead`.

    Args:
        in_channels (int): Channels C of a patch token.
        grid_size (int | tuple[int, int]): The patch grid (H, W); there are (2H−1) + (2W−1) labels.
        feat_channels (int, optional): Width of the layer that both softmaxes share. Defaults to
            ``hidden_channels``.
        on_grid_mismatch (str): For an input of another grid: 'error', or 'rescale' to this head's
            grid. Defaults to 'error'.

    Raises:
        UserError: As of :class:`~.base_pair_head.BasePairHead`.
    """

    @staticmethod
    def group_sizes(grid_shape: GridShape) -> tuple[int, ...]:
        return num_axial(grid_shape)

    @staticmethod
    def codes(
        grid_shape: GridShape, indices: Tensor | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        return axial_codes(grid_shape, indices, device)

    @staticmethod
    def offsets(labels: Tensor, grid_shape: GridShape) -> Tensor:
        return axial_offsets(labels, grid_shape)
