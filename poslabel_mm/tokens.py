"""Patch tokens, and how they are read off an unmodified backbone.

Shape letters: B batch, n tokens of an image, C channels, (H, W) patch grid.
"""
from typing import NamedTuple, Optional

from torch import Tensor, nn

from .errors import UserError
from .labels import GridShape


class PatchTokens(NamedTuple):
    """The tokens that a position head reads, and where they come from.

    Attributes:
        tokens (Tensor): Patch tokens of shape (B, n, C), without class token.
        grid_shape (tuple[int, int]): The patch grid (H, W) of the input.
        indices (Tensor, optional): int64 of shape (B, n), the place of every
            token in the flattened grid. None means all H·W in order.
    """
    tokens: Tensor
    grid_shape: GridShape
    indices: Optional[Tensor] = None


class PatchTokenReader:
    """Reads a backbone's last patch tokens while it runs, whatever it returns.

    MMPretrain's plain transformers turn their last tokens into the configured
    ``out_type`` in ``_format_output(tokens, grid)``, the one place where both
    are at hand; hierarchical backbones return the tokens as a (B, C, H, W)
    feature map. The reader looks on in both places and changes neither, so
    that the backbone's output, keys and cost stay the stock ones.

    Reading happens only inside ``with reader:``, so nothing is kept alive
    in evaluation or while a checkpointed forward pass is run a second time.

    Args:
        backbone (nn.Module): The backbone to read from.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self._reading = False
        self._patch_tokens: Optional[PatchTokens] = None
        # Bound methods of this object, not closures: a deep copy of the model
        # (EMA) must end up with a reader of its own.
        backbone.register_forward_hook(self._on_output)
        if hasattr(backbone, '_format_output'):
            backbone._format_output = self._format_output

    def __enter__(self) -> 'PatchTokenReader':
        self._reading = True
        self._patch_tokens = None
        return self

    def __exit__(self, *exc_info) -> None:
        self._reading = False

    def take(self) -> PatchTokens:
        """Hand over what the last pass inside ``with reader:`` showed.

        Raises:
            UserError: If that pass showed no patch grid.
        """
        patch_tokens, self._patch_tokens = self._patch_tokens, None
        if patch_tokens is None:
            way_out = 'choose another backbone'
            if 'featmap' in getattr(self.backbone, 'OUT_TYPES', ()):
                way_out = f"set backbone.out_type='featmap' or {way_out}"
            raise UserError(
                f'{type(self.backbone).__name__} shows no patch grid, its '
                f'last output is no (B, C, H, W) feature map: {way_out}')
        return patch_tokens

    def _format_output(self, *args):
        # Some backbones pass no grid; their feature map is read instead.
        if self._reading and len(args) > 1:
            tokens, (H, W) = args[:2]
            # Class and distillation tokens come first.
            self._patch_tokens = PatchTokens(tokens[:, -H * W:], (H, W))
        return type(self.backbone)._format_output(self.backbone, *args)

    def _on_output(self, _module, _inputs, outputs) -> None:
        if not self._reading or self._patch_tokens is not None:
            return
        last = outputs[-1] if isinstance(outputs, (tuple, list)) else outputs
        if isinstance(last, Tensor) and last.dim() == 4:
            self._patch_tokens = PatchTokens(
                last.flatten(2).transpose(1, 2), tuple(last.shape[2:]))
