import inspect

import torch
from mmpretrain.models.utils import CosineEMA
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from poslabel_mm import options
from poslabel_mm.errors import UserError
from poslabel_mm.models.selfsup.own_algorithm import OwnAlgorithm
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens.wrappers import unwrapped

# What MMPretrain's encoders of masked image modelling take beside images.
OF_MASKS = {'mask', 'importance'}


@MODELS.register_module()
class DINO(OwnAlgorithm):
    """A student that learns from its own moving average what crops of an image have in common.

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (ICCV 2021). The
    student sees every crop, the teacher the first ones alone, which show most of the image; the
    others, the local crops, are smaller and have another patch grid, for which the ViT
    interpolates its encoding. The teacher drops nothing.

    Args:
        backbone (dict): A backbone that gives one vector an image and masks no patches by itself.
        neck (dict): As :class:`~poslabel_mm.models.necks.DINONeck`.
        head (dict): As :class:`~.dino_head.DINOHead`.
        num_global_crops (int): How many of the views the teacher sees. Defaults to 2.
        base_momentum (float): What the teacher takes from the student in the first step, above 0
            and below 1; it falls to 0 along a cosine. Defaults to 0.004.
        **kwargs: The other arguments of MMPretrain's ``BaseSelfSupervisor``.

    Raises:
        UserError: Naming the option that is of the wrong type or out of range.
    """

    def __init__(
        self, *args, num_global_crops: int = 2, base_momentum: float = 0.004, **kwargs
    ) -> None:
        with options.within('model'):
            num_global_crops = options.whole_number('num_global_crops', num_global_crops)
            base_momentum = options.inner_number('base_momentum', base_momentum, 0, 1)
        super().__init__(*args, **kwargs)
        self._check_sees_images()
        self._check_outputs('model.head', self.head)
        self.num_global_crops = num_global_crops
        self.momentum_encoder = CosineEMA(self._student(), momentum=base_momentum)

    def _check_sees_images(self) -> None:
        """Refuse an encoder of masked image modelling, which takes masks or draws them itself."""
        backbone = unwrapped(self.backbone)
        if not OF_MASKS.isdisjoint(inspect.signature(backbone.forward).parameters):
            raise options.wrong(
                'model.backbone.type',
                type(backbone).__name__,
                f'masks patches by itself, and {type(self).__name__} gives it images without a '
                'mask: take an encoder of whole images, such as VisionTransformer or '
                'poslabel_mm.PositionalVisionTransformer',
            )

    def _check_outputs(self, key: str, head: nn.Module) -> None:
        """Refuse a head of another number of outputs than the neck's."""
        outputs = [getattr(part, 'out_channels', None) for part in (self.neck, head)]
        if None not in outputs and outputs[0] != outputs[1]:
            raise options.wrong(
                f'{key}.out_channels',
                outputs[1],
                f'does not fit: the neck has {outputs[0]} outputs; set one to the other',
            )

    def _student(self) -> nn.Module:
        return nn.Sequential(self.backbone, self.neck)

    def train(self, mode: bool = True) -> 'DINO':
        super().train(mode)
        self.momentum_encoder.eval()
        return self

    def loss(
        self, inputs: list[Tensor], data_samples: list[DataSample], **kwargs
    ) -> dict[str, Tensor]:
        """Loss of a batch. In training the teacher moves first.

        Args:
            inputs (list[Tensor]): The views of B images, (B, 3, height, width) each, the global
                crops first.
            data_samples (list[DataSample]): Their annotations; they are not read.

        Returns:
            dict[str, Tensor]: ``loss``.

        Raises:
            UserError: If there are fewer views than the teacher sees, or one alone; if the
                backbone does not give one vector an image, of the neck's width.
        """
        views = self._views(inputs)
        student = [self._outputs(view) for view in views]
        with torch.no_grad():
            self._move_teacher()
            teacher = [self.momentum_encoder(view)[0] for view in views[: self.num_global_crops]]
        return dict(loss=self.head.loss(student, teacher))

    def _views(self, inputs: list[Tensor] | Tensor) -> list[Tensor]:
        """The views of the images, of which there are enough."""
        views = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        if len(views) < max(self.num_global_crops, 2):
            raise UserError(
                f'{type(self).__name__} got {len(views)} view{"s" * (len(views) > 1)} of an image '
                f'and compares 2 or more, {self.num_global_crops} of them global crops: set '
                'num_views of MultiView, such as [2, 6]'
            )
        return views

    def _move_teacher(self) -> None:
        if self.training:
            self.momentum_encoder.update_parameters(self._student())

    def _outputs(self, view: Tensor) -> Tensor:
        """The student's, of shape (B, K)."""
        features = self.backbone(view)
        last = features[-1] if isinstance(features, (tuple, list)) else features
        if last.ndim != 2:
            key = 'model.backbone'
            way_out = 'take one that averages its tokens, or has a class token'
            if hasattr(self.backbone, 'out_type'):
                key = f'model.backbone.out_type={self.backbone.out_type!r}'
                way_out = "set it to 'cls_token' or 'avg_featmap'"
            raise UserError(
                f'{key} gives outputs of shape {tuple(last.shape)}, and DINO reads one vector an '
                f'image: {way_out}'
            )
        in_channels = getattr(self.neck, 'in_channels', None)
        if in_channels not in (None, last.shape[1]):
            raise options.wrong(
                'model.neck.in_channels',
                in_channels,
                f'does not fit: the backbone has {last.shape[1]} channels; set one to the other',
            )
        return self.neck(features)[0]
