from torch import nn

from poslabel_mm.models.backbones.positional_vit import PositionalVisionTransformer
from poslabel_mm.registry import MODELS


@MODELS.register_module()
class DeiTVisionTransformer(PositionalVisionTransformer):
    """MMPretrain's ViT, initialised as DeiT's code does (by timm 0.3.2).

    The weights of all linear layers, the class token and the learned encoding
    are drawn from a normal distribution of standard deviation 0.02, and the
    biases are 0. MMPretrain's ViT layers draw theirs by Xavier's rule,
    whatever the model's ``init_cfg`` says, and its class token is 0. State-dict
    keys are the stock ones.

    For the patch projection to start as in timm too, leave ``init_cfg`` at None.

    Args:
        *args: The stock ``VisionTransformer``'s arguments.
        **kwargs: As of :class:`PositionalVisionTransformer`.

    Raises:
        UserError: As of :class:`PositionalVisionTransformer`.
    """

    def _init_stock_weights(self) -> None:
        super()._init_stock_weights()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
