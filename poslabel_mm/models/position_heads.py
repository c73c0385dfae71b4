from functools import partial

from mmengine.model import ModuleList
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from torch import Tensor, nn

from poslabel_mm.errors import UserError
from poslabel_mm.models.backbones.encoding_grid import keep_grid
from poslabel_mm.models.sharded_weights import inside_forward
from poslabel_mm.tokens import PatchTokens


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
    """

    stock_loss_name: str

    def __init__(self, *args, pos_head: dict | list[dict] | None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        # The model's checkpoints tell the grid of a stock backbone too, of a
        # wrapped one (LoRA) and of its moving average.
        for module in list(self.modules()):
            for name in 'pos_embed', 'absolute_pos_embed':
                keep_grid(module, name)
        if isinstance(pos_head, (list, tuple)):
            pos_head = ModuleList(map(_build, pos_head))
        elif pos_head is not None:
            pos_head = _build(pos_head)
        self.pos_head = pos_head

    def init_weights(self) -> None:
        # A model-wide `init_cfg` reaches every layer there is. The position
        # heads stand aside while it draws, for the stock part to draw what it
        # would without them; a checkpoint may hold weights for them, though.
        cfgs = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg or dict()]
        loads_checkpoint = any(cfg.get('type') == 'Pretrained' for cfg in cfgs)
        pos_head = self.pos_head
        if not loads_checkpoint:
            del self.pos_head
        for head in _as_list(pos_head):
            head.init_weights()
        super().init_weights()
        self.pos_head = pos_head

    def _position_losses(self, patch_tokens: PatchTokens) -> dict[str, Tensor]:
        losses = dict()
        for head in _as_list(self.pos_head):
            of_head = inside_forward(head, partial(head.loss, patch_tokens))
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


def _build(pos_head: dict | nn.Module) -> nn.Module:
    if isinstance(pos_head, nn.Module):
        return pos_head
    return MMPRETRAIN_MODELS.build(pos_head)


def _as_list(pos_head: nn.Module | None) -> list[nn.Module]:
    if pos_head is None:
        return []
    return list(pos_head) if isinstance(pos_head, ModuleList) else [pos_head]
