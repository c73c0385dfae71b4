from mmpretrain.models.selfsup import MixMIM

from poslabel_mm.models.selfsup.masked_labels import MaskedLabels
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import PatchTokens


@MODELS.register_module()
class PositionalLabelMixMIM(MaskedLabels, MixMIM):
    """MMPretrain's MixMIM, trained with positional labels.

    A masked patch shows another image of the batch at the same place, so the
    position heads read all of the last tokens.

    Args:
        *args: The stock ``MixMIM``'s arguments.
        pos_head (dict | list[dict]): One or several position heads.
        **kwargs: The stock ``MixMIM``'s arguments.
    """

    def read_tokens(self, inputs: tuple, outputs: tuple) -> PatchTokens:
        stride = self.backbone.encoder_stride
        height, width = inputs[0].shape[-2:]
        return PatchTokens(outputs[0], (height // stride, width // stride))
