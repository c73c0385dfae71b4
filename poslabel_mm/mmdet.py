"""Positional labels under MMDetection.

    custom_imports = dict(imports=['poslabel_mm.mmdet'])
    model = dict(
        type='PositionalLabelTwoStageDetector',
        backbone=dict(type='mmpretrain.VisionTransformer', out_type='featmap', ...),
        pos_head=dict(
            type='poslabel_mm.PositionalLabelHead', on_grid_mismatch='rescale', ...))

The types are in MMDetection's registry.
"""

from torch import Tensor

from poslabel_mm.models.backbone_labels import BackboneLabels
from poslabel_mm.stack.config_prefix import missing_package
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.padding import on_own_grids

try:
    from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
except ModuleNotFoundError as error:
    raise missing_package(__name__, error) from None


class DetectorLabels(BackboneLabels):
    """Position heads on the backbone of one of MMDetection's detectors.

    Mixed in to the left of the detector. Every image has the patch grid that it would have
    without the padding of its batch, and a token is labelled with its place in that, whatever
    images are beside it. (The tokens themselves are those of the padded batch.) Patches that show
    nothing but padding are left out. Every image of a batch has the same weight, however many
    patches it has.

    Arguments and errors are those of :class:`~poslabel_mm.models.backbone_labels.BackboneLabels`.

    Example:
        >>> @MODELS.register_module()
        ... class PositionalLabelDETR(DetectorLabels, DETR):
        ...     '''DETR, trained with positional labels.'''
    """

    stock_loss_name = 'loss_det'

    def labelled_tokens(
        self, patch_tokens: PatchTokens, inputs: Tensor, data_samples: list[DetDataSample]
    ) -> list[PatchTokens]:
        """The tokens of each image, on its own patch grid.

        Args:
            patch_tokens (PatchTokens): All tokens of the padded batch.
            inputs (Tensor): Its images, of shape (B, 3, height, width).
            data_samples (list[DetDataSample]): Their annotations.

        Returns:
            list[PatchTokens]: The images, grouped by their grid.
        """
        # Batch augmentations keep it up to date, and no padding of the data preprocessor is in it.
        image_shapes = [sample.img_shape[:2] for sample in data_samples]
        return on_own_grids(patch_tokens, inputs.shape[2:], image_shapes, self._stride)


@MODELS.register_module()
class PositionalLabelSingleStageDetector(DetectorLabels, SingleStageDetector):
    """MMDetection's single-stage detector, trained with positional labels.

    It takes the place of RetinaNet, ATSS, FCOS, GFL and the other types that add nothing to a
    ``SingleStageDetector``; their checkpoints fit. The position heads read the backbone's last
    patch tokens while it trains and are idle in evaluation: outputs, speed and state-dict keys
    (but for ``pos_head.*``) are the stock detector's. Which tokens they read, and as which
    places: :class:`DetectorLabels`.

    Args:
        *args: The stock ``SingleStageDetector``'s arguments.
        pos_head (dict | list[dict]): One or several position heads. Required. With
            ``on_grid_mismatch='rescale'`` they take images of any size.
        pos_neck (dict, optional): What stands between the backbone and the position heads, such
            as ``poslabel_mm.PatchTokenNeck``, which reads another stage's tokens. Defaults to
            None, the last tokens as they are.
        **kwargs: The stock ``SingleStageDetector``'s arguments.

    Raises:
        UserError: If there is no ``pos_head``, if the backbone has no patch grid, or not the
            neck's stage, and as of :class:`~poslabel_mm.models.position_heads.PositionHeads`.
    """


@MODELS.register_module()
class PositionalLabelTwoStageDetector(DetectorLabels, TwoStageDetector):
    """MMDetection's two-stage detector, trained with positional labels.

    It takes the place of FasterRCNN, MaskRCNN, CascadeRCNN and the other types that add nothing
    to a ``TwoStageDetector``; their checkpoints fit. All else is as of
    :class:`PositionalLabelSingleStageDetector`.

    Args:
        *args: The stock ``TwoStageDetector``'s arguments.
        pos_head (dict | list[dict]): As of :class:`PositionalLabelSingleStageDetector`.
        pos_neck (dict, optional): As of :class:`PositionalLabelSingleStageDetector`.
        **kwargs: The stock ``TwoStageDetector``'s arguments.

    Raises:
        UserError: As of :class:`PositionalLabelSingleStageDetector`.
    """
