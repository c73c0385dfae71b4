from torch import Tensor

from poslabel_mm.models.selfsup.igpt import IGPT
from poslabel_mm.models.selfsup.masked_labels import MaskedLabels
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.masked import patch_grid


@MODELS.register_module()
class PositionalLabelIGPT(MaskedLabels, IGPT):
    """:class:`IGPT`, trained with positional labels.

    The position heads read the tokens of all patches. Each has seen its own patch and those
    before it in raster order: without encoding too, how many those are tells of the place.

    Args:
        *args: The arguments of :class:`IGPT`.
        pos_head (dict | list[dict], optional): One or several position heads. Defaults to None:
            :class:`IGPT`.
        **kwargs: The arguments of :class:`IGPT`.
    """

    def read_tokens(self, inputs: tuple, outputs: tuple[Tensor, ...]) -> PatchTokens:
        # The class token comes first.
        return PatchTokens(outputs[-1][:, 1:], patch_grid(self.backbone, inputs[0]))
