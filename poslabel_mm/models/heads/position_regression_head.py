import torch
from torch import Tensor

from poslabel_mm import options
from poslabel_mm.models.heads.base_head import DEFAULT_INIT
from poslabel_mm.models.heads.base_token_head import BaseTokenHead
from poslabel_mm.models.losses import REGRESSION_LOSSES
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import PatchTokens, PlacePredictions
from poslabel_mm.tokens.labels import GridShape, absolute_labels, patch_centres
from poslabel_mm.tokens.predictions import rows_and_columns


@MODELS.register_module()
class PositionRegressionHead(BaseTokenHead):
    """Predicts the coordinates of every token's centre.

    (y, x) = MLP(½z_i), against the row and the column of the patch's centre,
    each from −1 to 1 across the image: 2(row + ½)/H − 1. On a backbone
    without positional encoding this is the objective of Active Spatial
    Guidance (arXiv 2607.00580).

    Arguments that are not listed are those of :class:`~.base_token_head.BaseTokenHead`.

    Args:
        in_channels (int): Channels C of a patch token.
        grid_size (int | tuple[int, int]): The patch grid (H, W).
        on_grid_mismatch (str): For an input of another grid: 'error', or
            'rescale' to take the coordinates of its own patches' centres.
            Defaults to 'error'.
        loss (str): 'l2' (squared), 'l1' or 'smooth_l1', as torch's, a mean
            over tokens and both coordinates. Defaults to 'l2'.

    Raises:
        UserError: As of :class:`~.base_token_head.BaseTokenHead`.
    """

    loss_name = 'loss_coord'
    output_name = 'regressor'

    def __init__(
        self,
        in_channels: int,
        grid_size: int | GridShape,
        channels: str = 'first_half',
        hidden_channels: int | None = None,
        feat_channels: int | None = None,
        loss_weight: float | dict = 0.5,
        init_cfg: dict | list[dict] | None = DEFAULT_INIT,
        on_grid_mismatch: str = 'error',
        label_ratio: float = 1,
        loss: str = 'l2',
    ) -> None:
        super().__init__(
            in_channels,
            grid_size,
            channels,
            hidden_channels,
            feat_channels,
            num_outputs=2,
            loss_weight=loss_weight,
            init_cfg=init_cfg,
            on_grid_mismatch=on_grid_mismatch,
            label_ratio=label_ratio,
        )
        self._criterion = REGRESSION_LOSSES[options.choice('loss', loss, list(REGRESSION_LOSSES))]

    def rescaled(self, patch_tokens: PatchTokens) -> PatchTokens:
        """The tokens as they are: a patch's centre has coordinates in every grid."""
        return patch_tokens

    def loss(self, patch_tokens: PatchTokens) -> dict[str, Tensor]:
        """Coordinate loss of a batch.

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and
                their indices if not all are present.

        Returns:
            dict[str, Tensor]: Of the tokens that are labelled: ``loss_coord``,
            λ times the mean loss; ``coord_acc``, the percentage for which the
            nearest place of the grid is the right one; ``coord_dist``, the
            mean distance from the right place, in patches.

        Raises:
            UserError: If the tokens have another width than the head was
                built for, or another grid and ``on_grid_mismatch='error'``.
        """
        tokens, grid_shape, indices, *_ = patch_tokens = self.labelled(patch_tokens)
        output = self(tokens)
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        target = patch_centres(grid_shape, indices, output.device, output.dtype)
        loss = self._criterion(output, target.expand_as(output))
        with torch.no_grad():
            found = _predictions(output, patch_tokens)
            true = rows_and_columns(found.true_places, grid_shape)
            acc = (found.places() == found.true_places).to(output.dtype).mean() * 100
            distance = (found.coordinates - true).norm(dim=-1).mean()
        return dict(loss_coord=self.loss_weight * loss, coord_acc=acc, coord_dist=distance)

    @torch.no_grad()
    def predict(self, patch_tokens: PatchTokens) -> PlacePredictions:
        """Predict where every token sits.

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and
                their indices if not all are present.

        Returns:
            PlacePredictions: Coordinates without probabilities, in the
            tokens' own grid.

        Raises:
            UserError: As ``loss`` does.
        """
        patch_tokens = self.check(patch_tokens)
        return _predictions(self(patch_tokens.tokens).float(), patch_tokens)


def _predictions(output: Tensor, patch_tokens: PatchTokens) -> PlacePredictions:
    """Outputs (B, n, 2) in patches."""
    tokens, grid_shape, indices, *_ = patch_tokens
    truth = absolute_labels(grid_shape, indices, tokens.device)
    coordinates = ((output + 1) * output.new_tensor(grid_shape) - 1) / 2
    return PlacePredictions(grid_shape, truth.expand(tokens.shape[:2]), coordinates)
