import torch
from torch import Tensor

from poslabel_mm import options
from poslabel_mm.models.heads.base_head import DEFAULT_INIT
from poslabel_mm.models.heads.base_pair_head import BasePairHead
from poslabel_mm.models.losses import (
    REGRESSION_LOSSES,
    PairMLP,
    pairwise_outputs,
    pairwise_regression,
)
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import OffsetPredictions, PatchTokens
from poslabel_mm.tokens.labels import GridShape, absolute_labels
from poslabel_mm.tokens.predictions import rows_and_columns


@MODELS.register_module()
class OffsetRegressionHead(BasePairHead):
    """Predicts the row and column offset of every ordered pair of tokens.

    (dy, dx) = MLP(concat(½z_i, ½z_j)) for ordered pairs, self-pairs included,
    against (row_i − row_j)/H and (col_i − col_j)/W. The relative distances of
    VTs-Drloc (NeurIPS 2021), drawn pairs with L1, and the offsets of PART
    (arXiv 2506.03682) are of this kind. ``forward`` returns the offsets of all
    pairs, (B, n, n, 2). The loss never makes a tensor of all pairs: see
    :func:`poslabel_mm.models.losses.pairwise_regression`.

    Arguments that are not listed are those of :class:`~.base_pair_head.BasePairHead`.

    Args:
        in_channels (int): Channels C of a patch token.
        grid_size (int | tuple[int, int]): The patch grid (H, W).
        loss (str): 'l1', 'l2' (squared) or 'smooth_l1', as torch's, a mean
            over pairs and both coordinates. Defaults to 'l1'.
        on_grid_mismatch (str): For an input of another grid: 'error', or
            'rescale' to predict offsets in its own H and W. Defaults to
            'error'.

    Raises:
        UserError: As of :class:`~.base_pair_head.BasePairHead`.
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
        super().__init__(
            in_channels,
            grid_size,
            query_channels,
            key_channels,
            hidden_channels,
            feat_channels,
            pairs_per_token,
            num_outputs=2,
            loss_weight=loss_weight,
            init_cfg=init_cfg,
            on_grid_mismatch=on_grid_mismatch,
        )
        self._criterion = REGRESSION_LOSSES[options.choice('loss', loss, list(REGRESSION_LOSSES))]

    def rescaled(self, patch_tokens: PatchTokens) -> PatchTokens:
        """The tokens as they are: offsets are parts of the image in every grid."""
        return patch_tokens

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
        tokens, grid_shape, indices, *_ = self.check(patch_tokens)
        places = absolute_labels(grid_shape, indices, tokens.device).expand(tokens.shape[:2])
        places = rows_and_columns(places, grid_shape)
        loss, acc, distance = pairwise_regression(
            *self.query_and_key(tokens),
            places,
            places,
            torch.tensor(grid_shape, device=tokens.device),
            PairMLP(self.fc1, self.fc2, self.regressor),
            self._criterion,
            self.drawn_keys(tokens),
        )
        return dict(
            loss_offset=self.loss_weight * loss, offset_acc=acc * 100, offset_dist=distance
        )

    @torch.no_grad()
    def predict(self, patch_tokens: PatchTokens) -> OffsetPredictions:
        """Predict the offset of every ordered pair of tokens.

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and
                their indices if not all are present.

        Returns:
            OffsetPredictions: Offsets without probabilities, in patches of the
            tokens' own grid.

        Raises:
            UserError: As ``loss`` does.
        """
        tokens, grid_shape, indices, *_ = self.check(patch_tokens)
        output = pairwise_outputs(
            *self.query_and_key(tokens), PairMLP(self.fc1, self.fc2, self.regressor)
        ).float()
        truth = absolute_labels(grid_shape, indices, tokens.device)
        return OffsetPredictions(
            grid_shape, truth.expand(tokens.shape[:2]), output * output.new_tensor(grid_shape)
        )
