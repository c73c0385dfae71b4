import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poslabel_mm import options
from poslabel_mm.models.heads.base_head import DEFAULT_INIT, BaseHead, check_size
from poslabel_mm.models.random_state import independent_random_state
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import PatchTokens, SwapPredictions
from poslabel_mm.tokens.labels import absolute_labels
from poslabel_mm.tokens.wrappers import unwrapped


@MODELS.register_module()
class SwappedEncodingHead(BaseHead):
    """Tells for every token whether it was given the positional encoding of another place.

    The objective of DILEMMA (arXiv 2204.04788), for a backbone that exchanges the encodings of
    drawn patches in training (``pos_swap``): a linear layer gives one logit a token, and the loss
    is the mean binary cross-entropy over all tokens, times λ. In evaluation every patch has its
    own encoding. Tokens may be of any grid.

    Args:
        in_channels (int): Channels C of a patch token.
        loss_weight (float | dict): λ, or a schedule of it, see
            :func:`poslabel_mm.models.schedules.schedule`. Defaults to 0.5.
        init_cfg (dict | list[dict], optional): MMEngine initialisation. Defaults to a truncated
            normal of standard deviation 0.02 with zero biases.

    Raises:
        UserError: Naming the option that is of the wrong type or out of range.
    """

    loss_name = 'loss_swap'

    def __init__(
        self,
        in_channels: int,
        loss_weight: float | dict = 0.5,
        init_cfg: dict | list[dict] | None = DEFAULT_INIT,
    ) -> None:
        super().__init__(in_channels, loss_weight, init_cfg)
        check_size(self.in_channels, dict(in_channels=self.in_channels))
        with independent_random_state(type(self).__name__):
            self.classifier = nn.Linear(self.in_channels, 1)

    def check_backbone(self, key: str, backbone: nn.Module) -> None:
        """Refuse a backbone that exchanges no encodings."""
        backbone = unwrapped(backbone)
        if getattr(backbone, 'pos_swap', None) is not None:
            return
        way_out = 'set model.backbone.pos_swap to the part of the patches that are exchanged'
        if not hasattr(backbone, 'pos_swap'):
            way_out = (
                'set model.backbone.type to poslabel_mm.PositionalVisionTransformer (in MoCo v3 '
                'poslabel_mm.PositionalMoCoV3ViT, in MAE poslabel_mm.PositionalMAEViT), and '
                'model.backbone.pos_swap'
            )
        raise options.OptionError(
            key,
            f': {type(self).__name__} tells which patches have the encoding of another place, and '
            f'{type(backbone).__name__} gives each its own: {way_out}, such as 0.2',
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """The logit of every token.

        Args:
            tokens (Tensor): Patch tokens of shape (B, n, C).

        Returns:
            Tensor: Shape (B, n), positive where an encoding of another place is the more probable.
        """
        return self.classifier(tokens).squeeze(-1)

    def loss(self, patch_tokens: PatchTokens) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C); of :class:`SwappedTokens` some have the
                encoding of another place, otherwise all have their own.

        Returns:
            dict[str, Tensor]: ``loss_swap``, λ times the mean binary cross-entropy, and
            ``swap_acc``, the balanced accuracy in percent: the mean of the percentages that are
            right of the tokens with their own and with another encoding. Of one kind alone it is
            that kind's.

        Raises:
            UserError: If the tokens have another width than the head was built for.
        """
        self.check_width(patch_tokens.tokens)
        logits = self(patch_tokens.tokens)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        swapped = _swapped(patch_tokens)
        loss = F.binary_cross_entropy_with_logits(logits, swapped.to(logits.dtype))
        with torch.no_grad():
            kinds = torch.stack([swapped, ~swapped]).flatten(1)
            right = ((logits > 0) == swapped).flatten()
            count = kinds.sum(dim=1)
            of_kinds = (kinds & right).sum(dim=1) / count.clamp(min=1)
            acc = of_kinds.sum() / (count > 0).sum() * 100
        return dict(loss_swap=self.loss_weight * loss, swap_acc=acc)

    @torch.no_grad()
    def predict(self, patch_tokens: PatchTokens) -> SwapPredictions:
        """Predict which tokens have the encoding of another place.

        Args:
            patch_tokens (PatchTokens): As of ``loss``.

        Returns:
            SwapPredictions: The probability of each, and whether it is so.

        Raises:
            UserError: As ``loss`` does.
        """
        tokens, grid_shape, indices, *_ = patch_tokens
        self.check_width(tokens)
        truth = absolute_labels(grid_shape, indices, tokens.device)
        return SwapPredictions(
            grid_shape,
            truth.expand(tokens.shape[:2]),
            _swapped(patch_tokens),
            self(tokens).float().sigmoid(),
        )


def _swapped(patch_tokens: PatchTokens) -> Tensor:
    """Which tokens have the encoding of another place, bool (B, n)."""
    swapped = getattr(patch_tokens, 'swapped', None)
    if swapped is None:
        tokens = patch_tokens.tokens
        swapped = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    return swapped
