import torch
import torch.nn.functional as F
from torch import Tensor

from poslabel_mm.models.heads.base_head import DEFAULT_INIT
from poslabel_mm.models.heads.base_token_head import BaseTokenHead
from poslabel_mm.models.losses import gaussian_target
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import PatchTokens, PlacePredictions
from poslabel_mm.tokens.labels import GridShape, absolute_labels, num_absolute, to_grid_shape
from poslabel_mm.tokens.predictions import rows_and_columns


@MODELS.register_module()
class PositionalLabelHead(BaseTokenHead):
    """Classifies the absolute position of every token (Sec. 3.1).

    p_i = MLP(½z_i) (Eq. 3), softmax over the N positions of the patch grid
    (Eq. 4), mean cross-entropy over the tokens (Eq. 5) times λ (Eq. 6).

    Arguments that are not listed are those of :class:`~.base_token_head.BaseTokenHead`.

    Args:
        in_channels (int): Channels C of a patch token.
        grid_size (int | tuple[int, int]): The patch grid (H, W); the labels
            are its N = H·W positions, row by row.
        feat_channels (int, optional): Width of p_i. Defaults to half the
            number of channels read (C/4 for a half).
        on_grid_mismatch (str): For an input of another grid: 'error', or
            'rescale' to label each patch with the place of this head's grid
            that its centre falls into. Defaults to 'error'.
        target (dict, optional): Soft labels, such as
            ``dict(type='GaussianTarget', sigma=1.0)``, see
            :class:`poslabel_mm.models.losses.GaussianTarget`. Defaults to
            None, the place of the patch alone.

    Raises:
        UserError: As of :class:`~.base_token_head.BaseTokenHead`.
    """

    loss_name = 'loss_apl'

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
        target: dict | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            grid_size,
            channels,
            hidden_channels,
            feat_channels,
            num_outputs=num_absolute(to_grid_shape(grid_size)),
            loss_weight=loss_weight,
            init_cfg=init_cfg,
            on_grid_mismatch=on_grid_mismatch,
            label_ratio=label_ratio,
        )
        self._target = gaussian_target.target('target', target)

    def loss(self, patch_tokens: PatchTokens) -> dict[str, Tensor]:
        """Position loss of a batch (Eq. 5 and 6).

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and
                their indices if not all are present.

        Returns:
            dict[str, Tensor]: ``loss_apl``, λ times the mean cross-entropy,
            and ``apl_acc``, the percentage of tokens put in their place, both
            of the tokens that are labelled.

        Raises:
            UserError: If the tokens have another width than the head was
                built for, or another grid and ``on_grid_mismatch='error'``.
        """
        tokens, grid_shape, indices, *_ = self.labelled(patch_tokens)
        logits = self(tokens)
        labels = absolute_labels(grid_shape, indices, tokens.device)
        labels = labels.expand(logits.shape[:-1])
        loss = F.cross_entropy(logits.flatten(0, 1), self._targets(labels, logits, grid_shape))
        with torch.no_grad():
            acc = (logits.argmax(-1) == labels).float().mean() * 100
        return dict(loss_apl=self.loss_weight * loss, apl_acc=acc)

    def _targets(self, labels: Tensor, logits: Tensor, grid_shape: GridShape) -> Tensor:
        """What the cross-entropy takes: labels (B·n,), or probabilities (B·n, N)."""
        labels = labels.flatten()
        if self._target is None:
            return labels
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return self._target(labels, grid_shape, dtype)

    @torch.no_grad()
    def predict(self, patch_tokens: PatchTokens) -> PlacePredictions:
        """Predict the place of every token.

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and
                their indices if not all are present.

        Returns:
            PlacePredictions: The probabilities of Eq. 4, and the row and
            column of the most probable place.

        Raises:
            UserError: As ``loss`` does.
        """
        tokens, grid_shape, indices, *_ = self.check(patch_tokens)
        probabilities = self(tokens).float().softmax(dim=-1)
        truth = absolute_labels(grid_shape, indices, tokens.device)
        return PlacePredictions(
            grid_shape,
            truth.expand(tokens.shape[:2]),
            rows_and_columns(probabilities.argmax(dim=-1), grid_shape).float(),
            probabilities,
        )
