import torch
from torch import Tensor

from poslabel_mm.models.heads.base_head import DEFAULT_INIT
from poslabel_mm.models.heads.base_pair_head import BasePairHead
from poslabel_mm.models.losses import pairwise_cross_entropy, pairwise_predictions
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import OffsetPredictions, PatchTokens
from poslabel_mm.tokens.labels import (
    GridShape,
    absolute_labels,
    num_relative,
    relative_codes,
    relative_offsets,
    to_grid_shape,
)


@MODELS.register_module()
class RelativePositionalLabelHead(BasePairHead):
    """Classifies the relative position of every ordered pair of tokens.

    z_ij = concat(½z_i, ½z_j) for all ordered pairs, self-pairs included
    (Eq. 7), p^r_ij = MLP(z_ij) (Eq. 8), softmax over Swin's relative position
    index, mean cross-entropy over the pairs (Eq. 9) times λ (Eq. 6);
    ``forward`` returns the logits, (B, n, n, (2H−1)(2W−1)). The loss is exact,
    and it never makes a tensor of all pairs: see
    :func:`poslabel_mm.models.losses.pairwise_cross_entropy`.

    Arguments that are not listed are those of :class:`~.base_pair_head.BasePairHead`.

    Args:
        in_channels (int): Channels C of a patch token.
        grid_size (int | tuple[int, int]): The patch grid (H, W); there are
            (2H−1)(2W−1) labels.
        feat_channels (int, optional): Width of p^r_ij. Defaults to
            ``hidden_channels``.
        on_grid_mismatch (str): For an input of another grid: 'error', or
            'rescale' to this head's grid. Defaults to 'error'.

    Raises:
        UserError: As of :class:`~.base_pair_head.BasePairHead`.
    """

    loss_name = 'loss_rpl'

    @staticmethod
    def group_sizes(grid_shape: GridShape) -> tuple[int, ...]:
        """Number of classes of each softmax of a pair (one here), in the order of the logits."""
        return (num_relative(grid_shape),)

    @staticmethod
    def codes(
        grid_shape: GridShape, indices: Tensor | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """What query and key add to the label of a pair, int64 of shape (N, G) or (B, n, G)."""
        query, key = relative_codes(grid_shape, indices, device)
        return query.unsqueeze(-1), key.unsqueeze(-1)

    @staticmethod
    def offsets(labels: Tensor, grid_shape: GridShape) -> Tensor:
        """Row and column offset (..., 2) that the labels (..., G) of a pair stand for."""
        return relative_offsets(labels.squeeze(-1), grid_shape)

    def __init__(
        self,
        in_channels: int,
        grid_size: int | GridShape,
        query_channels: str = 'first_half',
        key_channels: str = 'second_half',
        hidden_channels: int | None = None,
        feat_channels: int | None = None,
        pairs_per_token: int | None = None,
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
            num_outputs=sum(self.group_sizes(to_grid_shape(grid_size))),
            loss_weight=loss_weight,
            init_cfg=init_cfg,
            on_grid_mismatch=on_grid_mismatch,
        )

    def loss(self, patch_tokens: PatchTokens) -> dict[str, Tensor]:
        """Relative position loss of a batch (Eq. 9 and 6).

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and
                their indices if not all are present.

        Returns:
            dict[str, Tensor]: ``loss_rpl``, λ times the mean cross-entropy
            over the pairs, and ``rpl_acc``, the percentage of pairs for which
            no relation scores above the right one (a tie counts as right).

        Raises:
            UserError: If the tokens have another width or grid than the head
                was built for and ``on_grid_mismatch='error'``.
        """
        tokens, grid_shape, indices, *_ = self.check(patch_tokens)
        loss, acc = pairwise_cross_entropy(
            *self.query_and_key(tokens),
            *self.codes(grid_shape, indices, tokens.device),
            self.fc1,
            (self.fc2, self.classifier),
            self.drawn_keys(tokens),
            group_sizes=self.group_sizes(grid_shape),
        )
        return dict(loss_rpl=self.loss_weight * loss, rpl_acc=acc * 100)

    @torch.no_grad()
    def predict(self, patch_tokens: PatchTokens) -> OffsetPredictions:
        """Predict the offset of every ordered pair of tokens, whatever ``pairs_per_token``.

        The logits are computed chunk by chunk: memory is bounded as that of the loss is.

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and
                their indices if not all are present.

        Returns:
            OffsetPredictions: The most probable offset of every pair, and how
            probable it is.

        Raises:
            UserError: As ``loss`` does.
        """
        tokens, grid_shape, indices, *_ = self.check(patch_tokens)
        labels, probabilities = pairwise_predictions(
            *self.query_and_key(tokens),
            self.fc1,
            (self.fc2, self.classifier),
            self.group_sizes(grid_shape),
        )
        places = absolute_labels(grid_shape, indices, tokens.device)
        return OffsetPredictions(
            grid_shape,
            places.expand(tokens.shape[:2]),
            self.offsets(labels, grid_shape).float(),
            probabilities,
        )
