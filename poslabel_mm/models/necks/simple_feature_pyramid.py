from collections.abc import Callable, Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule, ModuleList, Sequential
from mmpretrain.models.utils import LayerNorm2d
from torch import Tensor, nn

from poslabel_mm import options
from poslabel_mm.registry import MODELS


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Feature maps of several scales from the last one of a plain transformer, for detectors.

    The pyramid of ViTDet (Li et al., `arXiv:2203.16527 <https://arxiv.org/abs/2203.16527>`_): each
    map is the backbone's last one, enlarged by transposed convolutions or pooled, and past a 1×1
    and a 3×3 convolution, each with a layer norm.

    Args:
        in_channels (int): Channels of the backbone's map.
        out_channels (int): Channels of the maps that are returned. Defaults to 256.
        scales (Sequence[float]): Their sizes relative to the backbone's map, of 4, 2, 1 and 0.5:
            with patches of 16 pixels the strides 4, 8, 16 and 32, the default.
        num_outs (int): How many maps are returned. Further ones have half the size of the one
            before, every other of whose values they take. Defaults to 5.
        init_cfg (dict | list[dict], optional): MMEngine initialisation.

    Raises:
        UserError: For another scale, or a ``num_outs`` that is less than there are scales.

    Example:
        >>> model = dict(
        ...     backbone=dict(type='mmpretrain.VisionTransformer', out_type='featmap'),
        ...     neck=dict(type='poslabel_mm.SimpleFeaturePyramid', in_channels=768))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        scales: Sequence[float] = (4, 2, 1, 0.5),
        num_outs: int = 5,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        C = options.whole_number('in_channels', in_channels, least=4)
        D = options.whole_number('out_channels', out_channels)
        self.num_outs = options.whole_number('num_outs', num_outs, least=len(scales))
        self.maps = ModuleList()
        for scale in scales:
            if scale not in _RESCALED:
                raise options.wrong('scales', scales, f'is refused: choose from {list(_RESCALED)}')
            layers, channels = _RESCALED[scale](C)
            self.maps.append(
                Sequential(
                    *layers,
                    nn.Conv2d(channels, D, 1, bias=False),
                    LayerNorm2d(D),
                    nn.Conv2d(D, D, 3, padding=1, bias=False),
                    LayerNorm2d(D),
                )
            )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The maps of a backbone's output.

        Args:
            inputs (Sequence[Tensor]): Feature maps (B, C, H, W), of which the last is read.

        Returns:
            tuple[Tensor, ...]: ``num_outs`` maps of ``out_channels`` channels, in the order of
            ``scales``.
        """
        outputs = [rescaled(inputs[-1]) for rescaled in self.maps]
        while len(outputs) < self.num_outs:
            outputs.append(F.max_pool2d(outputs[-1], 1, stride=2))
        return tuple(outputs)


# The layers that change a map of C channels to a scale, and their number of channels.
_RESCALED: dict[float, Callable[[int], tuple[list[nn.Module], int]]] = {
    4: lambda C: (
        [
            nn.ConvTranspose2d(C, C // 2, 2, stride=2),
            LayerNorm2d(C // 2),
            nn.GELU(),
            nn.ConvTranspose2d(C // 2, C // 4, 2, stride=2),
        ],
        C // 4,
    ),
    2: lambda C: ([nn.ConvTranspose2d(C, C // 2, 2, stride=2)], C // 2),
    1: lambda C: ([], C),
    0.5: lambda C: ([nn.MaxPool2d(2)], C),
}
