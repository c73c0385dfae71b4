"""Base of all heads that read the patch tokens of one view."""

import torch.nn.functional as F
from torch import Tensor, nn

from poslabel_mm import options
from poslabel_mm.errors import UserError
from poslabel_mm.models.heads.base_head import BaseHead, check_size
from poslabel_mm.models.random_state import independent_random_state
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.labels import GridShape, rescaled_positions

ON_GRID_MISMATCH = ('error', 'rescale')


def half_channels(in_channels: int, which: str, argument: str) -> slice:
    """The channels of a token that a head reads (½z in Eq. 3 and 7).

    Args:
        in_channels (int): Channels of a token, C.
        which (str): 'first_half', 'second_half' or 'all'.
        argument (str): The name of the argument, for messages.

    Returns:
        slice: Into the channel dimension.

    Raises:
        UserError: For another ``which``, half of an odd channel count, or an
            ``in_channels`` that is no positive whole number.
    """
    in_channels = options.whole_number('in_channels', in_channels)
    half = in_channels // 2
    choices = dict(
        first_half=slice(0, half), second_half=slice(half, in_channels), all=slice(0, in_channels)
    )
    options.choice(argument, which, list(choices))
    if in_channels % 2 and which != 'all':
        raise options.wrong(
            argument,
            which,
            'needs an even number of channels, got '
            f"in_channels={in_channels}; use {argument}='all' or an even width",
        )
    return choices[which]


def width_or(default: int, argument: str, width: int | None) -> int:
    """A layer's width: the option's, or the default where that is None.

    Args:
        default (int): The default.
        argument (str): The option's name, for messages.
        width (int, optional): Its value.

    Returns:
        int: The width.

    Raises:
        UserError: If the option is no positive whole number.
    """
    return default if width is None else options.whole_number(argument, width)


class BasePositionHead(BaseHead):
    """Two linear layers with a GELU between them, and a linear output layer.

    There is no activation between the second linear and the output layer, as
    in the released code of the paper.

    Args:
        in_channels (int): Channels of a token.
        grid_size (int | tuple[int, int]): The patch grid (H, W) whose
            positions are predicted.
        mlp_channels (tuple[int, int, int, int]): Widths from the MLP's input
            to its output, checked already.
        loss_weight (float | dict): λ in Eq. 6, or a schedule of it, see
            :func:`poslabel_mm.models.schedules.schedule`.
        init_cfg (dict | list[dict], optional): MMEngine initialisation.
        on_grid_mismatch (str): What to do with an input of another grid:
            'error' refuses it; 'rescale' gives every patch the place of this
            head's grid that its centre falls into (see ``rescaled``). Defaults
            to 'error'.

    Attributes:
        output_name (str): What the output layer is called.

    Raises:
        UserError: Naming the option that is of the wrong type or out of
            range, or that makes the head too large for any memory.
    """

    output_name: str = 'classifier'

    def __init__(
        self,
        in_channels: int,
        grid_size: int | GridShape,
        mlp_channels: tuple[int, int, int, int],
        loss_weight: float | dict,
        init_cfg: dict | list[dict] | None,
        on_grid_mismatch: str = 'error',
    ) -> None:
        super().__init__(in_channels, loss_weight, init_cfg)
        self.on_grid_mismatch = options.choice(
            'on_grid_mismatch', on_grid_mismatch, ON_GRID_MISMATCH
        )
        self.grid_shape = options.patch_grid('grid_size', grid_size)
        mlp_in, hidden, feat, num_outputs = mlp_channels
        check_size(
            mlp_in * hidden + hidden * feat + feat * num_outputs,
            dict(
                in_channels=mlp_in,
                hidden_channels=hidden,
                feat_channels=feat,
                grid_size=num_outputs,
            ),
        )
        with independent_random_state(type(self).__name__):
            self.fc1 = nn.Linear(mlp_in, hidden)
            self.fc2 = nn.Linear(hidden, feat)
            self.add_module(self.output_name, nn.Linear(feat, num_outputs))

    def mlp(self, x: Tensor) -> Tensor:
        """From the MLP's input (..., D) to its output."""
        return getattr(self, self.output_name)(self.fc2(F.gelu(self.fc1(x))))

    def check(self, patch_tokens: PatchTokens) -> PatchTokens:
        """Refuse tokens of a width or a grid that this head was not built for.

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and
                their indices if not all are present.

        Returns:
            PatchTokens: The same; those of another grid as ``rescaled`` has
            them.

        Raises:
            UserError: Naming both sides and the argument to change.
        """
        tokens, (H, W), indices, *_ = patch_tokens
        name = type(self).__name__
        self.check_width(tokens)
        if indices is None and tokens.shape[1] != H * W:
            raise UserError(
                f'{name} got {tokens.shape[1]} tokens of a {H}x{W} patch grid '
                'without their indices; pass PatchTokens(..., indices=...)'
            )
        if (H, W) == self.grid_shape:
            return patch_tokens
        if self.on_grid_mismatch == 'error':
            raise UserError(
                f'The input has a {H}x{W} patch grid but {name} was built '
                f'with grid_size={self.grid_shape}; set grid_size=({H}, {W}) '
                'in its pos_head, feed images of the size it was built for, '
                "or set on_grid_mismatch='rescale' there"
            )
        return self.rescaled(patch_tokens)

    def rescaled(self, patch_tokens: PatchTokens) -> PatchTokens:
        """Tokens of another grid in this head's: the indices are places of it.

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and
                their indices if not all are present.

        Returns:
            PatchTokens: The same tokens, each with the place that its centre
            falls into.
        """
        tokens, grid_shape, indices, *_ = patch_tokens
        places = rescaled_positions(grid_shape, self.grid_shape, indices, tokens.device)
        return PatchTokens(tokens, self.grid_shape, places.expand(tokens.shape[:2]))
