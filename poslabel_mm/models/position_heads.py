import inspect
from collections.abc import Iterator
from functools import partial

from mmengine.model import ModuleList
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from torch import Tensor, nn

from poslabel_mm import options
from poslabel_mm.errors import UserError
from poslabel_mm.models.backbones.encoding_grid import keep_grid
from poslabel_mm.models.heads.base_head import BaseHead
from poslabel_mm.models.heads.base_position_head import BasePositionHead
from poslabel_mm.models.heads.base_view_head import BaseViewHead
from poslabel_mm.models.image_groups import mean_over_images
from poslabel_mm.models.pretrained import loads_checkpoint
from poslabel_mm.models.sharded_weights import inside_forward
from poslabel_mm.tokens import (
    OffsetPredictions,
    PatchTokens,
    PlacePredictions,
    SwapPredictions,
    ViewPredictions,
)
from poslabel_mm.tokens.built import built_tokens, is_of_any_size
from poslabel_mm.tokens.views import Views
from poslabel_mm.tokens.wrappers import unwrapped


class PositionHeads:
    """Gives one of MMPretrain's models position heads, ``pos_head``.

    Mixed in to the left of the stock model, which stays what it is: weights,
    random stream and state-dict keys (but for ``pos_head.*``) are the stock
    ones.

    Attributes:
        stock_loss_name (str): What the stock loss is called in the log.
            MMEngine logs the sum of all losses as ``loss``, a name that a
            stock loss of that name would take away.

    Args:
        *args: The stock model's arguments.
        pos_head (dict | list[dict] | None): One or several position heads, or
            None.
        **kwargs: The stock model's arguments.

    Raises:
        UserError: With the whole key of an option, such as
            'model.pos_head.1.grid_size', that is of the wrong type, out of
            range, or does not fit the backbone, or of a second head of a kind.
    """

    stock_loss_name: str

    def __init__(self, *args, pos_head: dict | list[dict] | None, **kwargs) -> None:
        backbone = kwargs.get('backbone', args[0] if args else None)
        # A stock model builds one part of ours alone, the backbone.
        with options.within('model.backbone'):
            super().__init__(*args, **kwargs)
        self._sets_img_size = isinstance(backbone, dict) and 'img_size' in backbone
        # The model's checkpoints tell the grid of a stock backbone too, of a
        # wrapped one (LoRA) and of its moving average.
        for module in list(self.modules()):
            for name in 'pos_embed', 'absolute_pos_embed':
                keep_grid(module, name)
        if isinstance(pos_head, (list, tuple)):
            pos_head = ModuleList(build_head(cfg, f'{_KEY}.{i}') for i, cfg in enumerate(pos_head))
        elif pos_head is not None:
            pos_head = build_head(pos_head, _KEY)
        self.pos_head = pos_head
        self._check_kinds()
        self._check_views()
        for key, head in self._own_heads():
            head.check_backbone(key, self.backbone)

    def _check_kinds(self) -> None:
        """Refuse a second head whose loss is that of one before it."""
        seen = set()
        for key, head in self._own_heads():
            # A subclass that brings a loss of its own may call it otherwise.
            kind = type(head).loss, head.loss_name
            if kind in seen:
                raise options.OptionError(
                    key,
                    f': two position heads return {head.loss_name}: a '
                    'model takes one head of a kind',
                )
            seen.add(kind)

    def _check_views(self) -> None:
        """Refuse a head that compares views where an image has one alone."""
        for key, head in self._own_heads():
            if isinstance(head, BaseViewHead):
                raise options.OptionError(
                    key,
                    f': {type(head).__name__} compares views of an image, and '
                    f'{type(self).__name__} has one view alone; leave the head out, or take an '
                    'algorithm of several views, such as PositionalLabelMoCoV3',
                )

    def _check_fit(self, stage: int | None = None) -> None:
        """Refuse heads that cannot read what the backbone was built to give.

        Args:
            stage (int, optional): Of the backbone, whose tokens they read.
                Defaults to None, the last tokens.

        Raises:
            UserError: Naming the option that does not fit.
        """
        grid, channels, _ = built_tokens(self.backbone, stage)
        if not self._sets_img_size and is_of_any_size(self.backbone):
            grid = None
        name = type(unwrapped(self.backbone)).__name__
        for key, head in self._own_heads():
            if channels not in (None, head.in_channels):
                raise options.wrong(
                    f'{key}.in_channels',
                    head.in_channels,
                    'does not fit: '
                    f'the patch tokens of {name} have {channels} channels; '
                    f'set in_channels={channels}',
                )
            if not isinstance(head, BasePositionHead):
                continue  # of any grid
            if grid not in (None, head.grid_shape) and head.on_grid_mismatch == 'error':
                raise options.wrong(
                    f'{key}.grid_size',
                    head.grid_shape,
                    f'does not fit: {name} '
                    f'was built for a {grid[0]}x{grid[1]} patch grid; set '
                    f'grid_size={grid}, or model.backbone.img_size to the size '
                    'of the images',
                )

    def _own_heads(self) -> Iterator[tuple[str, BaseHead]]:
        """The heads of poslabel_mm, with their keys in the config."""
        several = isinstance(self.pos_head, ModuleList)
        for i, head in enumerate(_as_list(self.pos_head)):
            if isinstance(head, BaseHead):
                yield f'{_KEY}.{i}' if several else _KEY, head

    def init_weights(self) -> None:
        # A model-wide `init_cfg` reaches every layer there is. The position
        # heads stand aside while it draws, for the stock part to draw what it
        # would without them; a checkpoint may hold weights for them, though.
        pos_head = self.pos_head
        if not loads_checkpoint(self):
            del self.pos_head
        for head in _as_list(pos_head):
            head.init_weights()
        super().init_weights()
        self.pos_head = pos_head

    def heads_that_predict_positions(self) -> list[nn.Module]:
        """The position heads with a ``predict`` of the patch tokens of one view."""
        return [
            head
            for head in _as_list(self.pos_head)
            if hasattr(head, 'predict') and not _reads_views(head)
        ]

    def predict_positions(
        self, patch_tokens: PatchTokens
    ) -> dict[str, PlacePredictions | OffsetPredictions | SwapPredictions]:
        """What every position head predicts (``predict`` is the stock model's own).

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and
                their indices if not all are present.

        Returns:
            dict[str, PlacePredictions | OffsetPredictions | SwapPredictions]:
            By what the head's loss is called in the log, without 'loss_':
            'apl' for ``loss_apl``. Heads that have no ``predict`` are left
            out, and so are those that compare views.

        Raises:
            UserError: If the tokens have another width or grid than a head was
                built for.
        """
        return {
            head.loss_name.removeprefix('loss_'): inside_forward(
                head, partial(head.predict, patch_tokens)
            )
            for head in self.heads_that_predict_positions()
        }

    def _view_predictions(self, views: Views) -> dict[str, ViewPredictions]:
        return {
            head.loss_name.removeprefix('loss_'): inside_forward(
                head, partial(head.predict, views)
            )
            for head in _as_list(self.pos_head)
            if _reads_views(head) and hasattr(head, 'predict')
        }

    def _position_losses(self, *groups: PatchTokens) -> dict[str, Tensor]:
        heads = [head for head in _as_list(self.pos_head) if not _reads_views(head)]
        return self._losses_of(heads, *groups)

    def _compares_views(self) -> bool:
        return any(map(_reads_views, _as_list(self.pos_head)))

    def _view_losses(self, views: Views) -> dict[str, Tensor]:
        heads = [head for head in _as_list(self.pos_head) if _reads_views(head)]
        return self._losses_of(heads, views)

    def _losses_of(
        self, heads: list[nn.Module], *groups: PatchTokens | Views
    ) -> dict[str, Tensor]:
        losses = dict()
        for head in heads:
            # All groups at once: processes gather a sharded head together, and each has a number
            # of groups of its own.
            of_head = inside_forward(head, partial(mean_over_images, head.loss, groups))
            for name, value in of_head.items():
                if name in losses:
                    raise UserError(
                        f'two position heads return {name}: a model takes one head of a kind'
                    )
                losses[name] = value
        return losses

    def _name_stock_loss(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        if 'loss' in losses:
            losses[self.stock_loss_name] = losses.pop('loss')
        return losses


_KEY = 'model.pos_head'


def build_head(cfg: dict | nn.Module, key: str) -> nn.Module:
    """Build a position head.

    Args:
        cfg (dict | nn.Module): Its config; a module is taken as it is.
        key (str): Where the config stands, for messages.

    Returns:
        nn.Module: The head.

    Raises:
        UserError: As of :func:`build_part`, and if it has no loss of patch tokens.
    """
    head = build_part(cfg, key)
    try:
        inspect.signature(head.loss).bind(None)
    except (AttributeError, TypeError):
        raise options.OptionError(
            key, f': {type(head).__name__} is no position head, it has no loss of patch tokens'
        ) from None
    return head


def build_part(cfg: dict | nn.Module, key: str) -> nn.Module:
    """Build a part of a model.

    Args:
        cfg (dict | nn.Module): Its config; a module is taken as it is.
        key (str): Where the config stands, for messages.

    Returns:
        nn.Module: The part.

    Raises:
        UserError: If there is neither, or with the whole key of the option
            that the part refuses.
    """
    if isinstance(cfg, nn.Module):
        return cfg
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise options.wrong(key, cfg, 'is refused: set it to a dict with a type')
    with options.within(key):
        return MMPRETRAIN_MODELS.build(cfg)


def _reads_views(head: nn.Module) -> bool:
    return isinstance(unwrapped(head), BaseViewHead)


def _as_list(pos_head: nn.Module | None) -> list[nn.Module]:
    if pos_head is None:
        return []
    return list(pos_head) if isinstance(pos_head, ModuleList) else [pos_head]
