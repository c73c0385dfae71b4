"""Positional labels under MMSegmentation.

    custom_imports = dict(imports=['poslabel_mm.mmseg'])
    model = dict(
        type='PositionalLabelEncoderDecoder',
        backbone=dict(type='mmpretrain.VisionTransformer', out_type='featmap', ...),
        pos_head=dict(type='poslabel_mm.PositionalLabelHead', ...))

The types are in MMSegmentation's registry.
"""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor

from poslabel_mm import options
from poslabel_mm.models.backbone_labels import BackboneLabels
from poslabel_mm.models.dependent_part import DependentPart
from poslabel_mm.models.heads.base_head import BaseHead
from poslabel_mm.models.heads.base_position_head import BasePositionHead
from poslabel_mm.models.image_groups import mean_over_images
from poslabel_mm.models.position_heads import build_head, build_part
from poslabel_mm.stack.config_prefix import missing_package
from poslabel_mm.stack.safe_loading import force_weights_only
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.padding import without_padding
from poslabel_mm.tokens.sources import feature_map

try:
    from mmseg.models.backbones import TIMMBackbone
    from mmseg.models.segmentors import EncoderDecoder
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample
except ModuleNotFoundError as error:
    raise missing_package(__name__, error) from None

force_weights_only(TIMMBackbone, '__init__')


@MODELS.register_module()
class PositionalLabelEncoderDecoder(BackboneLabels, EncoderDecoder):
    """MMSegmentation's encoder-decoder, trained with positional labels.

    The position heads read the backbone's last patch tokens while it trains and are not used in
    evaluation: outputs, speed and state-dict keys (but for ``pos_head.*``) are the stock model's.
    Patches that show nothing but what the data preprocessor added to an image are left out; every
    image of a batch has the same weight, however many of its patches remain.

    Args:
        *args: The stock ``EncoderDecoder``'s arguments.
        pos_head (dict | list[dict]): One or several position heads. Required.
        pos_neck (dict, optional): What stands between the backbone and the position heads, such
            as ``poslabel_mm.PatchTokenNeck``, which reads another stage's tokens. Defaults to
            None, the last tokens as they are.
        **kwargs: The stock ``EncoderDecoder``'s arguments.

    Raises:
        UserError: If there is no ``pos_head``, if the backbone has no patch grid, or not the
            neck's stage, and as of :class:`PositionHeads`.
    """

    stock_loss_name = 'loss_decode'

    def labelled_tokens(
        self, patch_tokens: PatchTokens, inputs: Tensor, data_samples: list[SegDataSample]
    ) -> list[PatchTokens]:
        """The tokens of the patches that show a part of their image.

        Args:
            patch_tokens (PatchTokens): All tokens of the batch.
            inputs (Tensor): Its crops, of shape (B, 3, height, width).
            data_samples (list[SegDataSample]): Their annotations.

        Returns:
            list[PatchTokens]: The crops, grouped by their number of tokens.
        """
        paddings = _paddings(data_samples)
        return without_padding(patch_tokens, inputs.shape[2:], paddings, self._stride)


@MODELS.register_module()
class PositionalLabelAuxiliaryHead(DependentPart, BaseModule):
    """A position head as an ``auxiliary_head`` of any of MMSegmentation's models.

    It reads one of the feature maps that the decode head gets, so after the model's neck if it
    has one. Padding is left out as :class:`PositionalLabelEncoderDecoder` does.

    Args:
        pos_head (dict): The position head; several are several auxiliary heads.
        in_index (int): The feature map that is read. Defaults to -1, the last one.
        pos_neck (dict, optional): What stands between the map and the position head, such as
            ``poslabel_mm.PatchTokenNeck`` to normalise the tokens. Defaults to None.
        init_cfg (dict | list[dict], optional): MMEngine initialisation.

    Raises:
        UserError: If ``pos_head`` is no head that predicts places or offsets from a feature map
            alone, or an option is wrong.
    """

    def __init__(
        self,
        pos_head: dict,
        in_index: int = -1,
        pos_neck: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        key = 'model.auxiliary_head'
        self.in_index = options.whole_number(f'{key}.in_index', in_index, least=-1)
        self.pos_head = build_head(pos_head, f'{key}.pos_head')
        if isinstance(self.pos_head, BaseHead) and not isinstance(self.pos_head, BasePositionHead):
            raise options.OptionError(
                f'{key}.pos_head',
                f': {type(self.pos_head).__name__} needs more than a feature map; make it the '
                'pos_head of PositionalLabelEncoderDecoder',
            )
        self.pos_neck = None if pos_neck is None else build_part(pos_neck, f'{key}.pos_neck')

    def loss(
        self,
        inputs: Sequence[Tensor],
        batch_data_samples: list[SegDataSample],
        train_cfg: dict | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            inputs (Sequence[Tensor]): Feature maps of shape (B, C, H, W).
            batch_data_samples (list[SegDataSample]): The annotations of the images.
            train_cfg (dict, optional): Not used.

        Returns:
            dict[str, Tensor]: What the position head returns.

        Raises:
            UserError: If there is no such map, or it has another grid or width than the position
                head was built for.
        """
        self._check_index(len(inputs))
        patch_tokens = PatchTokens(*feature_map(inputs[self.in_index]))
        if self.pos_neck is not None:
            patch_tokens = self.pos_neck(patch_tokens)
        input_shape = batch_data_samples[0].gt_sem_seg.shape
        shown = without_padding(patch_tokens, input_shape, _paddings(batch_data_samples))
        return mean_over_images(self.pos_head.loss, shown)

    def check_model(self, model: EncoderDecoder) -> None:
        """Refuse, before a run begins, a feature map that the model will not have.

        Args:
            model (EncoderDecoder): The model that this is a part of. Where it does not tell how
                many feature maps it makes, the first step does.

        Raises:
            UserError: If there is no such map.
        """
        num_maps = getattr(model.neck, 'num_outs', None) if model.with_neck else None
        if not model.with_neck and hasattr(model.backbone, 'out_indices'):
            num_maps = len(model.backbone.out_indices)
        if num_maps is not None:
            self._check_index(num_maps)

    def _check_index(self, num_maps: int) -> None:
        if self.in_index >= num_maps:
            raise options.wrong(
                'model.auxiliary_head.in_index',
                self.in_index,
                f'is refused: there are {num_maps} feature maps; choose from -1 to {num_maps - 1}',
            )


def _paddings(data_samples: list[SegDataSample]) -> list[tuple[int, int, int, int]]:
    """What the data preprocessor added to each image: left, right, top, bottom."""
    return [tuple(sample.metainfo.get('padding_size', (0,) * 4)) for sample in data_samples]
