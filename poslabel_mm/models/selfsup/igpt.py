"""Pre-training by the next patch, as in iGPT.

Shape letters: B images, N = H·W patches in raster order, C channels of a token, D = p·p·3 values
of a patch.
"""

import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from poslabel_mm import options
from poslabel_mm.models.selfsup.non_square_grid import lay_grid
from poslabel_mm.models.selfsup.own_algorithm import OwnAlgorithm
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens.wrappers import unwrapped


@MODELS.register_module()
class IGPT(OwnAlgorithm):
    """Predicts every patch of an image from those before it in raster order.

    After iGPT (Chen et al., "Generative Pretraining from Pixels", ICML 2020), whose tokens are
    pixels of a palette; here they are a ViT's patches, and the target is MAE's, a patch's own
    pixel values. Each patch is predicted from the token before it: the first patch from the class
    token, which has seen no patch, every other patch from the one before.

    Args:
        backbone (dict): A ``CausalVisionTransformer``.
        neck (dict): Takes tokens (B·N, C) to predictions (B·N, D), each by itself, such as
            ``LinearNeck`` with ``norm_cfg=None``.
        head (dict): Has the loss, such as ``MAEPretrainHead``.
        **kwargs: The other arguments of MMPretrain's ``BaseSelfSupervisor``.

    Raises:
        UserError: Naming the part that does not fit the task.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._check_parts()
        lay_grid(self.backbone, None, self.head)

    def _check_parts(self) -> None:
        backbone, name = unwrapped(self.backbone), type(self).__name__
        if not getattr(backbone, 'is_causal', False):
            raise options.OptionError(
                'model.backbone.type',
                f'={type(backbone).__name__} shows every token all patches, and {name} predicts '
                'patches from those before them: set it to poslabel_mm.CausalVisionTransformer',
            )
        if backbone.num_extra_tokens != 1:
            raise options.OptionError(
                'model.backbone.with_cls_token',
                f' is False, and {name} predicts the first patch from the class token: '
                'leave it out',
            )
        if getattr(backbone, 'patch_drop_rate', 0):
            raise options.wrong(
                'model.backbone.patch_drop_rate',
                backbone.patch_drop_rate,
                f'leaves out patches that {name} predicts: set it to 0',
            )
        if backbone.out_type != 'raw':
            raise options.wrong(
                'model.backbone.out_type',
                backbone.out_type,
                f'leaves out the class token, from which {name} predicts the first patch: set it '
                "to 'raw'",
            )
        if not isinstance(getattr(self.neck, 'norm', nn.Identity()), (nn.Identity, nn.LayerNorm)):
            raise options.OptionError(
                'model.neck.norm_cfg',
                f' mixes patches, and {name} predicts each from those before it: set it to None',
            )
        values = getattr(self.head, 'patch_size', 0) ** 2 * getattr(self.head, 'in_channels', 3)
        predicted = getattr(self.neck, 'out_channels', values)
        if values and predicted != values:
            raise options.wrong(
                'model.neck.out_channels', predicted, f'does not fit: a patch has {values} values'
            )

    def loss(self, inputs: Tensor, data_samples: list[DataSample], **kwargs) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            inputs (Tensor): Images of shape (B, 3, height, width).
            data_samples (list[DataSample]): Their annotations; they are not read.

        Returns:
            dict[str, Tensor]: ``loss``, the mean over all patches.
        """
        tokens = self.backbone(inputs)[-1]
        before = tokens[:, :-1]  # [B, N, C]
        B, N, _ = before.shape
        predicted = self.neck((before.flatten(0, 1),))[0].unflatten(0, (B, N))  # [B, N, D]
        every_patch = torch.ones(B, N, device=predicted.device)
        return dict(loss=self.head.loss(predicted, inputs, every_patch))
