"""Positional labels under MMSelfSup 1.0, whose models are mmcls's.

    custom_imports = dict(imports=['poslabel_mm.mmselfsup'])
    model = dict(
        type='PositionalLabelMAE',
        backbone=dict(type='PositionalMAEViT', pos_encoding='none'),
        pos_head=dict(type='poslabel_mm.PositionalLabelHead', ...))

The names are those of :mod:`poslabel_mm.models`, in MMSelfSup's registry.
"""

from poslabel_mm.models.backbones.positional_mae_vit import MAEEncodingChoice
from poslabel_mm.models.selfsup.masked_labels import ShuffledLabels
from poslabel_mm.stack.config_prefix import missing_package
from poslabel_mm.stack.safe_loading import force_weights_only

try:
    from mmcls.models import TIMMBackbone, VisionTransformer
    from mmselfsup.models import MAE, MAEViT
    from mmselfsup.registry import MODELS
except ModuleNotFoundError as error:
    raise missing_package(__name__, error) from None

force_weights_only(TIMMBackbone, '__init__')


@MODELS.register_module()
class PositionalMAEViT(MAEEncodingChoice, MAEViT):
    """As :class:`poslabel_mm.models.PositionalMAEViT`."""

    plain_vit = VisionTransformer


@MODELS.register_module()
class PositionalLabelMAE(ShuffledLabels, MAE):
    """As :class:`poslabel_mm.models.PositionalLabelMAE`."""
