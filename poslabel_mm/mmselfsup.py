"""Positional labels under MMSelfSup 1.0, whose models are mmcls's.

    custom_imports = dict(imports=['poslabel_mm.mmselfsup'])
    model = dict(
        type='PositionalLabelMAE',
        backbone=dict(type='PositionalMAEViT', pos_encoding='none'),
        pos_head=dict(type='poslabel_mm.PositionalLabelHead', ...))

The names are those of :mod:`poslabel_mm.models`, in MMSelfSup's registry.
"""
from mmcls.models import VisionTransformer
from mmselfsup.models import MAE, MAEViT
from mmselfsup.registry import MODELS
from torch import nn

from poslabel_mm.models.backbones.positional_encoding import \
    PositionalEncodingChoice
from poslabel_mm.models.selfsup.masked_labels import ShuffledLabels


@MODELS.register_module()
class PositionalMAEViT(PositionalEncodingChoice, MAEViT):
    """As :class:`poslabel_mm.models.PositionalMAEViT`."""

    def __init__(self, *args, pos_encoding: str = 'sincos', **kwargs) -> None:
        super().__init__(*args, pos_encoding=pos_encoding, **kwargs)

    def _init_stock_weights(self) -> None:
        # As in MAEViT.init_weights, which takes the grid for a square.
        VisionTransformer.init_weights(self)
        if not self.is_pretrained:
            nn.init.xavier_uniform_(
                self.patch_embed.projection.weight.data.flatten(1))
            nn.init.normal_(self.cls_token, std=.02)


@MODELS.register_module()
class PositionalLabelMAE(ShuffledLabels, MAE):
    """As :class:`poslabel_mm.models.PositionalLabelMAE`."""
