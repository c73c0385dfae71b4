"""One feature vector an image, off any of MMPretrain's models as it is.

Shape letters: B images, C channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from poslabel_mm.errors import UserError
from poslabel_mm.tokens.wrappers import unwrapped


def image_features(model: nn.Module, images: Tensor) -> Tensor:
    """The features that a classifier classifies, or a self-supervised encoder's of whole images.

    Args:
        model (nn.Module): One of MMPretrain's, or one that has its ``extract_feat``. Of a
            classifier it is what its last linear layer gets. Of another model it is the last
            output of the backbone; a feature map or patch tokens are averaged over their places,
            class tokens and the like left out.
        images (Tensor): Of shape (B, 3, height, width), preprocessed. No patch is masked.

    Returns:
        Tensor: (B, C).

    Raises:
        UserError: If the model extracts no features.
    """
    if hasattr(getattr(model, 'head', None), 'pre_logits'):
        return _vectors(model.extract_feat(images, stage='pre_logits'))
    outputs = whole_image_outputs(model, images)
    if isinstance(outputs, (tuple, list)):
        outputs = outputs[-1]  # of the last stage
    return _vectors(outputs, _extra_tokens(unwrapped(model.backbone)))


def whole_image_outputs(model: nn.Module, images: Tensor):
    """What a model's ``extract_feat`` returns of images none of whose patches are masked.

    Args:
        model (nn.Module): As of :func:`image_features`.
        images (Tensor): Of shape (B, 3, height, width), preprocessed.

    Returns:
        Any: What its backbone and neck return.

    Raises:
        UserError: If the model extracts no features.
    """
    if not hasattr(model, 'extract_feat') or not hasattr(model, 'backbone'):
        raise UserError(f'{type(model).__name__} has no backbone with extract_feat to read from')
    with _without_masks(model.backbone):
        return model.extract_feat(images)


def _extra_tokens(backbone: nn.Module) -> int:
    """How many class tokens and the like come before the patch tokens."""
    has_class_token = isinstance(getattr(backbone, 'cls_token', None), Tensor)
    return getattr(backbone, 'num_extra_tokens', int(has_class_token))


def _vectors(outputs, extra_tokens: int = 0) -> Tensor:
    if isinstance(outputs, (tuple, list)):  # of two branches, or a class and a distillation token
        return torch.cat([_vectors(output, extra_tokens) for output in outputs], dim=1)
    if outputs.dim() == 4:
        return outputs.mean((2, 3))
    return outputs[:, extra_tokens:].mean(1) if outputs.dim() == 3 else outputs


@contextmanager
def _without_masks(backbone: nn.Module) -> Iterator[None]:
    # Asked for no mask, MFF's encoder calls MAE's, which draws one by default.
    encoder = unwrapped(backbone)
    parents = {cls.__name__: cls for cls in type(encoder).__mro__}
    if 'MFFViT' not in parents:
        yield
        return
    vit = parents['VisionTransformer']
    encoder.forward = lambda images, mask=None: vit.forward(encoder, images)
    try:
        yield
    finally:
        del encoder.forward
