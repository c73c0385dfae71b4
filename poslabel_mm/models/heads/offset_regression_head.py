import torch
from torch import Tensor

from poslabel_mm import options
from poslabel_mm.models.heads.base_position_head import (
    DEFAULT_INIT,
    BasePositionHead,
    half_channels,
    width_or,
)
from poslabel_mm.models.losses import (
    REGRESSION_LOSSES,
    KeyDraw,
    PairMLP,
    pairwise_outputs,
    pairwise_regression,
)
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import OffsetPredictions, PatchTokens
from poslabel_mm.tokens.labels import GridShape, absolute_labels
from poslabel_mm.tokens.predictions import rows_and_columns


@MODELS.register_module()
class OffsetRegressionHead(BasePositionHead):
    """Relative position as an offset: every pair of tokens says how it lies.

    (dy, dx) = MLP(concat(½z_i, ½z_j)) for ordered pairs, self-pairs included,
    against (row_i − row_j)/H and (col_i − col_j)/W. The relative distances of
    VTs-Drloc (NeurIPS 2021), drawn pairs with L1, and the offsets of PART
    (arXiv 2506.03682) are of this kind. No tensor of all pairs is ever made:
    see :func:`poslabel_mm.models.losses.pairwise_regression`.

    Args:
        in_channels (int): Channels C of a patch token.
        grid_size (int | tuple[int, int]): The patch grid (H, W).
        query_channels (str): What token i shows of itself in the pair (i, j):
            'first_half', 'second_half' or 'all'. Defaults to 'first_half'.
        key_channels (str): What token j shows. Defaults to 'second_half'.
        hidden_channels (int, optional): Width of the MLP's hidden layer.
            Defaults to half the channels of a pair (C/2 for two halves).
        feat_channels (int, optional): Width of the MLP's second layer.
            Defaults to ``hidden_channels``.
        pairs_per_token (int, optional): Draw so many keys for every token, as
            :class:`RelativePositionalLabelHead` does. Defaults to None, all
            pairs.
        loss (str): 'l1', 'l2' (squared) or 'smooth_l1', as torch's, a mean
            over pairs and both coordinates. Defaults to 'l1'.
        loss_weight (float | dict): λ in Eq. 6, or a schedule of it, see
            :func:`poslabel_mm.models.schedules.schedule`. Defaults to 0.5.
        init_cfg (dict | list[dict], optional): MMEngine initialisation.
            Defaults to a truncated normal of standard deviation 0.02 with
            zero biases.
        on_grid_mismatch (str): For an input of another grid: 'error', or
            'rescale' to predict offsets in its own H and W. Defaults to
            'error'.

    Raises:
        UserError: For half of an odd ``in_channels``, or naming the option
            that is of the wrong type or out of range.
    """

    loss_name = 'loss_offset'
    output_name = 'regressor'

    def __init__(
        self,
        in_channels: int,
        grid_size: int | GridShape,
        query_channels: str = 'first_half',
        key_channels: str = 'second_half',
        hidden_channels: int | None = None,
        feat_channels: int | None = None,
        pairs_per_token: int | None = None,
        loss: str = 'l1',
        loss_weight: float | dict = 0.5,
        init_cfg: dict | list[dict] | None = DEFAULT_INIT,
        on_grid_mismatch: str = 'error',
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
            mlp_channels=(width, hidden, width_or(hidden, 'feat_channels', feat_channels), 2),
            loss_weight=loss_weight,
            init_cfg=init_cfg,
            on_grid_mismatch=on_grid_mismatch,
        )
        self.query_channels = query
        self.key_channels = key
        self.pairs_per_token = pairs_per_token
        self._criterion = REGRESSION_LOSSES[options.choice('loss', loss, list(REGRESSION_LOSSES))]
        self._key_draw = KeyDraw()

    def rescaled(self, patch_tokens: PatchTokens) -> PatchTokens:
        """The tokens as they are: offsets are parts of the image in every grid."""
        return patch_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """The output for every ordered pair, written out.

        For small grids; :meth:`loss` and :meth:`predict` never hold the pairs'
        hidden layer.

        Args:
            tokens (Tensor): Patch tokens of shape (B, n, C).

        Returns:
            Tensor: Row and column offsets of i minus j, in parts of the
            image's height and width: shape (B, n, n, 2).
        """
        B, n, _ = tokens.shape
        query, key = self._query_and_key(tokens)
        pairs = torch.cat(
            [
                query.unsqueeze(2).expand(B, n, n, -1),
                key.unsqueeze(1).expand(B, n, n, -1),
            ],
            dim=-1,
        )
        return self.mlp(pairs)

    def loss(self, patch_tokens: PatchTokens) -> dict[str, Tensor]:
        """Offset loss of a batch.

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and
                their indices if not all are present.

        Returns:
            dict[str, Tensor]: ``loss_offset``, λ times the mean loss of the
            pairs; ``offset_acc``, the percentage of pairs whose row and column
            offsets, rounded to whole patches, are both right; ``offset_dist``,
            the mean distance from the right offset, in patches.

        Raises:
            UserError: If the tokens have another width or grid than the head
                was built for and ``on_grid_mismatch='error'``.
        """
        tokens, grid_shape, indices = self.check(patch_tokens)
        B, n, _ = tokens.shape
        key_index = None
        if self.pairs_per_token is not None and self.pairs_per_token < n:
            key_index = self._key_draw(B, n, self.pairs_per_token, tokens.device)
        places = absolute_labels(grid_shape, indices, tokens.device).expand(B, n)
        places = rows_and_columns(places, grid_shape)
        loss, acc, distance = pairwise_regression(
            *self._query_and_key(tokens),
            places,
            places,
            torch.tensor(grid_shape, device=tokens.device),
            PairMLP(self.fc1, self.fc2, self.regressor),
            self._criterion,
            key_index,
        )
        return dict(
            loss_offset=self.loss_weight * loss, offset_acc=acc * 100, offset_dist=distance
        )

    @torch.no_grad()
    def predict(self, patch_tokens: PatchTokens) -> OffsetPredictions:
        """Predict how every ordered pair of tokens lies.

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and
                their indices if not all are present.

        Returns:
            OffsetPredictions: Offsets without probabilities, in patches of the
            tokens' own grid.

        Raises:
            UserError: As ``loss`` does.
        """
        tokens, grid_shape, indices = self.check(patch_tokens)
        output = pairwise_outputs(
            *self._query_and_key(tokens), PairMLP(self.fc1, self.fc2, self.regressor)
        ).float()
        truth = absolute_labels(grid_shape, indices, tokens.device)
        return OffsetPredictions(
            grid_shape, truth.expand(tokens.shape[:2]), output * output.new_tensor(grid_shape)
        )

    def _query_and_key(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return tokens[..., self.query_channels], tokens[..., self.key_channels]
