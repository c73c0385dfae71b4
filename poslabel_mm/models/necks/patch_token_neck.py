import torch.nn.functional as F
from mmengine.model import BaseModule

from poslabel_mm import options
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import PatchTokens


@MODELS.register_module()
class PatchTokenNeck(BaseModule):
    """Gives the position heads the tokens of any stage of a stock backbone.

    A Swin's last stage is at H/32, 7×7 tokens at 224 px, which the paper
    leaves open (Sec. 3.4). Its third is at H/16: with ``stage=2`` the stock
    Swin, its relative position bias and its published weights intact, learns
    the 196 positions of a ViT, and the backbone costs nothing more.

    Within a backbone the tokens are a residual stream that no norm has seen
    yet, so they are normalised here, token by token. The norm has no
    parameters: the heads begin with a linear layer, of which a learned scale
    and shift would be a part. So nothing is added to a checkpoint.

    Args:
        stage (int, optional): The stage whose tokens are read, counted from
            0; in a plain transformer, the layer. Defaults to None, the
            backbone's last tokens.
        eps (float): Added to the variance, from 0 to 1. Defaults to 1e-6.

    Raises:
        UserError: For a ``stage`` that is no whole number from 0 on, or
            another ``eps``.

    Example:
        >>> model = dict(
        ...     type='poslabel_mm.PositionalLabelClassifier',
        ...     pos_neck=dict(type='poslabel_mm.PatchTokenNeck', stage=2),
        ...     pos_head=dict(type='poslabel_mm.PositionalLabelHead',
        ...                   in_channels=512, grid_size=14))
    """

    def __init__(self, stage: int | None = None, eps: float = 1e-6) -> None:
        super().__init__()
        self.stage = stage if stage is None else options.whole_number('stage', stage, least=0)
        self.eps = options.number('eps', eps, 0, 1)

    def forward(self, patch_tokens: PatchTokens) -> PatchTokens:
        """Normalise the tokens over their channels.

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C) and their grid.

        Returns:
            PatchTokens: Of the same shape, with zero mean and unit variance.
        """
        tokens = patch_tokens.tokens
        return patch_tokens._replace(tokens=F.layer_norm(tokens, tokens.shape[-1:], eps=self.eps))
