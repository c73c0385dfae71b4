"""Base of heads that predict one output per token."""

from torch import Tensor

from poslabel_mm import options
from poslabel_mm.models.heads.base_position_head import (
    BasePositionHead,
    half_channels,
    width_or,
)
from poslabel_mm.models.token_draw import TokenDraw
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.labels import GridShape

# One patch of a grid of 1000x1000.
MIN_LABEL_RATIO = 1e-6


class BaseTokenHead(BasePositionHead):
    """An MLP of a token's channels, or of half of them.

    Args:
        in_channels (int): Channels C of a patch token.
        grid_size (int | tuple[int, int]): The patch grid (H, W), whose
            N = H·W places count row by row.
        channels (str): The channels that are read of a token: 'first_half',
            'second_half' or 'all'.
        hidden_channels (int, optional): Width of the MLP's hidden layer. None
            is the number of channels read (C/2 for a half).
        feat_channels (int, optional): Width of the MLP's second layer. None
            is half the number of channels read (C/4 for a half).
        num_outputs (int): Width of the output layer.
        loss_weight (float | dict): λ in Eq. 6, or a schedule of it, see
            :func:`poslabel_mm.models.schedules.schedule`.
        init_cfg (dict | list[dict], optional): MMEngine initialisation. That of
            the heads here is a truncated normal of standard deviation 0.02
            with zero biases.
        on_grid_mismatch (str): For an input of another grid: 'error', or
            'rescale', which each head describes.
        label_ratio (float): The part of the patches that are labelled, more
            than 0. Training draws them anew for every image, iteration and
            rank, from a random stream of the head's own, which activation
            checkpointing around the head cannot repeat: that is an error. In
            evaluation all are labelled.

    Raises:
        UserError: For half of an odd ``in_channels``, or naming the option
            that is of the wrong type or out of range.
    """

    def __init__(
        self,
        in_channels: int,
        grid_size: int | GridShape,
        channels: str,
        hidden_channels: int | None,
        feat_channels: int | None,
        num_outputs: int,
        loss_weight: float | dict,
        init_cfg: dict | list[dict] | None,
        on_grid_mismatch: str,
        label_ratio: float,
    ) -> None:
        read = half_channels(in_channels, channels, 'channels')
        width = read.stop - read.start
        super().__init__(
            in_channels,
            grid_size,
            mlp_channels=(
                width,
                width_or(width, 'hidden_channels', hidden_channels),
                width_or(max(width // 2, 1), 'feat_channels', feat_channels),
                num_outputs,
            ),
            loss_weight=loss_weight,
            init_cfg=init_cfg,
            on_grid_mismatch=on_grid_mismatch,
        )
        self.channels = read
        self._draw = TokenDraw(options.number('label_ratio', label_ratio, MIN_LABEL_RATIO, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """The MLP's output for every token.

        Args:
            tokens (Tensor): Patch tokens of shape (B, n, C).

        Returns:
            Tensor: Shape (B, n, outputs).
        """
        return self.mlp(tokens[..., self.channels])

    def labelled(self, patch_tokens: PatchTokens) -> PatchTokens:
        """Check the tokens and draw those that are labelled.

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and
                their indices if not all are present.

        Returns:
            PatchTokens: Those that are labelled.

        Raises:
            UserError: If the tokens have another width than the head was
                built for, or another grid and ``on_grid_mismatch='error'``.
        """
        checked = self.check(patch_tokens)
        return self._draw(checked) if self.training else checked
