"""Patch tokens, and how they are read off an unmodified backbone.

Shape letters: B batch, n tokens of an image, C channels, (H, W) patch grid.
"""

import sys
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from poslabel_mm.errors import UserError
from poslabel_mm.tokens.families import token_source
from poslabel_mm.tokens.labels import GridShape
from poslabel_mm.tokens.sources import GridSource, map_or_tokens
from poslabel_mm.tokens.wrappers import unwrapped


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
    indices: Tensor | None = None


class SwappedTokens(NamedTuple):
    """Patch tokens of which some were given the positional encoding of another place.

    It begins as :class:`PatchTokens` does: what takes either apart leaves room for the fourth,
    ``tokens, grid_shape, indices, *_ = patch_tokens``.

    Attributes:
        tokens (Tensor): As of :class:`PatchTokens`.
        grid_shape (tuple[int, int]): As of :class:`PatchTokens`.
        indices (Tensor, optional): As of :class:`PatchTokens`.
        swapped (Tensor): bool of shape (B, n), which they are.
    """

    tokens: Tensor
    grid_shape: GridShape
    indices: Tensor | None
    swapped: Tensor


def check_gradient(backbone: nn.Module, with_grad: bool) -> None:
    """Refuse tokens that a re-entrant activation checkpoint computes.

    It runs its part of the model without gradient, and once more in the
    backward pass: what is read on the way would train nothing. Where tokens
    have no gradient because nothing is to be trained, nothing is refused.

    Args:
        backbone (nn.Module): Whose tokens are being read.
        with_grad (bool): Whether gradients were enabled where reading began.

    Raises:
        UserError: If called inside of such a checkpoint.
    """
    if (
        not with_grad
        or torch.is_grad_enabled()
        or not any(parameter.requires_grad for parameter in backbone.parameters())
    ):
        return
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is CheckpointFunction.forward.__code__:
            raise UserError(
                f'the tokens of {type(backbone).__name__} are computed inside '
                'a re-entrant activation checkpoint, where they have no '
                'gradient: the position heads would train nothing. Name its '
                'single blocks in activation_checkpointing instead of what '
                'is around them; in torch.utils.checkpoint set '
                'use_reentrant=False'
            )
        frame = frame.f_back


class PatchTokenReader:
    """Reads a backbone's patch tokens while it runs, whatever it returns.

    MMPretrain's plain transformers turn their last tokens into the configured
    ``out_type`` in ``_format_output(tokens, grid)``, the one place where both
    are at hand; hierarchical backbones return the tokens as a (B, C, H, W)
    feature map; :mod:`poslabel_mm.tokens.families` knows where the others keep
    them, and every stage's, and in which form. The reader observes the forward
    pass there and changes nothing, so that the backbone's output, keys and
    cost stay the stock ones.

    Tokens that the stock classifier normalises only once they are averaged
    are normalised here, by a layer norm without parameters.

    timm's and torchvision's transformers are read too, as they are, in a
    training loop of one's own (docs/plain_torch.md).

    Reading happens only inside ``with reader:``, so nothing is kept alive
    in evaluation or while a checkpointed forward pass is run a second time.
    Any number of readers may read one backbone.

    Args:
        backbone (nn.Module): The backbone to read from. Of one that is wrapped,
            as by MMPretrain's ``LoRAModel``, what is inside is read.
        stage (int, optional): Read this stage's tokens, counted from 0.
            Defaults to None, the last tokens.

    Raises:
        UserError: If the backbone is known to have no patch grid, or no such
            stage.

    While reading it raises a UserError of :func:`check_gradient`, and of a
    number of tokens that is not the grid's.
    """

    def __init__(self, backbone: nn.Module, stage: int | None = None) -> None:
        self.backbone = backbone = unwrapped(backbone)
        self.source = source = token_source(backbone, stage)
        self._reading = self._with_grad = False
        self._grid_shape: GridShape | None = None
        self._patch_tokens: PatchTokens | SwappedTokens | None = None
        self._next = None
        # Bound methods of this object, not closures: a deep copy of the model
        # (EMA) must end up with a reader of its own.
        self._handles = []
        if isinstance(source.grid, GridSource):
            grid_module = backbone.get_submodule(source.grid.module)
            self._handles.append(grid_module.register_forward_hook(self._on_grid))
        token_module = backbone.get_submodule(source.tokens)
        self._handles.append(token_module.register_forward_hook(self._on_tokens))
        if not source.tokens and hasattr(backbone, '_format_output'):
            # Another reader's, if there is one: it reads after this one.
            self._next = vars(backbone).get('_format_output')
            backbone._format_output = self._format_output

    def __enter__(self) -> 'PatchTokenReader':
        self._reading = True
        self._with_grad = torch.is_grad_enabled()
        grid = self.source.grid
        self._grid_shape = None if isinstance(grid, GridSource) else grid
        self._patch_tokens = None
        return self

    def __exit__(self, *exc_info) -> None:
        self._reading = False

    def close(self) -> None:
        """Leave the backbone as it was. Of several readers the last one made is closed first."""
        for handle in self._handles:
            handle.remove()
        if not self.source.tokens and hasattr(self.backbone, '_format_output'):
            del self.backbone._format_output
            if self._next is not None:
                self.backbone._format_output = self._next

    def take(self) -> PatchTokens | SwappedTokens:
        """Hand over the tokens of the last forward pass inside ``with reader:``.

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
                f'last output is no (B, C, H, W) feature map: {way_out}'
            )
        if self.source.normalise:
            tokens = patch_tokens.tokens
            patch_tokens = patch_tokens._replace(tokens=F.layer_norm(tokens, tokens.shape[-1:]))
        return patch_tokens

    def _on_grid(self, module, inputs, output) -> None:
        if self._reading:
            self._grid_shape = self.source.grid.read(module, inputs, output)

    def _on_tokens(self, _module, inputs, output) -> None:
        # A backbone that formats its tokens has shown them by the time that it returns.
        shown = not self.source.tokens and self._patch_tokens is not None
        if self._reading and not shown:
            value = inputs if self.source.before else output
            self._keep(self.source.read(value, self._grid_shape))

    def _format_output(self, tokens: Tensor, *args):
        if self._reading:
            # ViT-SAM's tokens are a feature map and come alone.
            self._keep(map_or_tokens(tokens, args[0] if args else None))
        if self._next is not None:
            return self._next(tokens, *args)
        cls = type(self.backbone)
        return cls._format_output(self.backbone, tokens, *args)

    def _keep(self, seen: tuple[Tensor, GridShape] | None) -> None:
        """Keep the patch tokens of what a token reader returned."""
        if seen is None:
            return
        check_gradient(self.backbone, self._with_grad)
        tokens, (H, W) = seen
        # A backbone may leave some of its patches out,
        kept = getattr(self.backbone, 'kept_places', None)
        n = H * W if kept is None else kept.shape[1]
        extra = tokens.shape[1] - n
        expected = self.source.num_prefix
        if extra < 0 or expected not in (None, extra):
            beside = f' and {expected} other tokens' if expected else ''
            count = f'{tokens.shape[1]} token' + 's' * (tokens.shape[1] != 1)
            raise UserError(
                f'{type(self.backbone).__name__} gave {count} for a {H}x{W} '
                f'patch grid{beside}: feed images of the size it was built '
                'for, leave no token out, or choose another backbone'
            )
        # Class and distillation tokens come first.
        tokens = tokens[:, -n:]
        # or want some of all of them labelled alone.
        places = getattr(self.backbone, 'labelled_places', None)
        if places is not None:
            tokens = tokens.gather(1, places.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
        self._patch_tokens = PatchTokens(tokens, (H, W), kept if places is None else places)
        # One that gives some the encoding of another place tells which.
        swapped = getattr(self.backbone, 'swapped_patches', None)
        if swapped is not None:
            self._patch_tokens = SwappedTokens(*self._patch_tokens, swapped)
