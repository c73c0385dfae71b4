"""Base of heads that predict one output per ordered pair of tokens."""

import torch
from torch import Tensor

from poslabel_mm import options
from poslabel_mm.models.heads.base_position_head import (
    BasePositionHead,
    half_channels,
    width_or,
)
from poslabel_mm.models.key_draw import KeyDraw
from poslabel_mm.tokens.labels import GridShape


class BasePairHead(BasePositionHead):
    """An MLP of the channels of two tokens, concatenated.

    Args:
        in_channels (int): Channels C of a patch token.
        grid_size (int | tuple[int, int]): The patch grid (H, W).
        query_channels (str): The channels that are read of token i in the pair (i, j):
            'first_half', 'second_half' or 'all'.
        key_channels (str): Those of token j. The released code of the paper reads the
            'second_half'.
        hidden_channels (int, optional): Width of the MLP's hidden layer. None is half the channels
            of a pair (C/2 for two halves).
        feat_channels (int, optional): Width of the MLP's second layer. None is that of the first.
        pairs_per_token (int, optional): Draw so many keys for every token, an unbiased estimate of
            the loss at ``pairs_per_token / n`` of its cost. Every image, iteration and rank draws
            anew, from a random stream of the head's own, which activation checkpointing around
            the head cannot repeat: that is an error. None takes all pairs.
        num_outputs (int): Width of the output layer.
        loss_weight (float | dict): λ in Eq. 6, or a schedule of it, see
            :func:`poslabel_mm.models.schedules.schedule`.
        init_cfg (dict | list[dict], optional): MMEngine initialisation. That of the heads here is
            a truncated normal of standard deviation 0.02 with zero biases.
        on_grid_mismatch (str): For an input of another grid: 'error', or 'rescale', which each
            head describes.

    Raises:
        UserError: For half of an odd ``in_channels``, or naming the option that is of the wrong
            type or out of range.
    """

    def __init__(
        self,
        in_channels: int,
        grid_size: int | GridShape,
        query_channels: str,
        key_channels: str,
        hidden_channels: int | None,
        feat_channels: int | None,
        pairs_per_token: int | None,
        num_outputs: int,
        loss_weight: float | dict,
        init_cfg: dict | list[dict] | None,
        on_grid_mismatch: str,
    ) -> None:
        query = half_channels(in_channels, query_channels, 'query_channels')
        key = half_channels(in_channels, key_channels, 'key_channels')
        if pairs_per_token is not None:
            pairs_per_token = options.whole_number('pairs_per_token', pairs_per_token)
        width = (query.stop - query.start) + (key.stop - key.start)
        hidden = width_or(max(width // 2, 1), 'hidden_channels', hidden_channels)
        super().__init__(
            in_channels,
            grid_size,
            mlp_channels=(
                width,
                hidden,
                width_or(hidden, 'feat_channels', feat_channels),
                num_outputs,
            ),
            loss_weight=loss_weight,
            init_cfg=init_cfg,
            on_grid_mismatch=on_grid_mismatch,
        )
        self.query_channels = query
        self.key_channels = key
        self.pairs_per_token = pairs_per_token
        self._key_draw = KeyDraw()

    def forward(self, tokens: Tensor) -> Tensor:
        """The MLP's output for every ordered pair, written out.

        For small grids and for looking at single images; ``loss`` and ``predict`` never hold the
        hidden layer of all pairs.

        Args:
            tokens (Tensor): Patch tokens of shape (B, n, C).

        Returns:
            Tensor: Shape (B, n, n, outputs), entry [b, i, j] of query i and key j.
        """
        n = tokens.shape[1]
        query, key = self.query_and_key(tokens)
        pairs = [query.unsqueeze(2).expand(-1, -1, n, -1), key.unsqueeze(1).expand(-1, n, -1, -1)]
        return self.mlp(torch.cat(pairs, dim=-1))

    def query_and_key(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The channels of the tokens (B, n, C) that are read of queries and of keys."""
        return tokens[..., self.query_channels], tokens[..., self.key_channels]

    def drawn_keys(self, tokens: Tensor) -> Tensor | None:
        """Draw the keys of every token.

        Args:
            tokens (Tensor): Patch tokens of shape (B, n, C).

        Returns:
            Tensor | None: Long, shape (B, n, ``pairs_per_token``); None for all n keys.
        """
        B, n, _ = tokens.shape
        if self.pairs_per_token is None or self.pairs_per_token >= n:
            return None
        return self._key_draw(B, n, self.pairs_per_token, tokens.device)
