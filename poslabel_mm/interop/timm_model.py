"""The call of ``timm.create_model`` that builds a model of MMPretrain, and its weights' names."""

from typing import NamedTuple

from mmpretrain.models.backbones import DistilledVisionTransformer
from mmpretrain.models.heads import DeiTClsHead, LinearClsHead, VisionTransformerClsHead
from mmpretrain.models.necks import GlobalAveragePooling
from torch import Tensor, nn

from poslabel_mm.errors import UserError
from poslabel_mm.interop.key_map import KeyMap
from poslabel_mm.interop.network import Source, family
from poslabel_mm.interop.resizing import resized_and_cropped
from poslabel_mm.interop.stock_model import check_stock_backbone
from poslabel_mm.interop.swin_keys import merging_to_theirs, timm_swin
from poslabel_mm.interop.vit_keys import TIMM_VIT, VIT_HEADS

# What timm builds by these names if nothing is said.
VIT_NAME, DISTILLED_NAME = 'vit_base_patch16_224', 'deit_base_distilled_patch16_224'
SWIN_NAME = 'swin_base_patch4_window7_224'
TIMM_INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'lanczos', 'box', 'hamming')
VIT_DEFAULTS = dict(
    img_size=224,
    patch_size=16,
    in_chans=3,
    num_classes=1000,
    global_pool='token',
    embed_dim=768,
    depth=12,
    num_heads=12,
    mlp_ratio=4,
    qkv_bias=True,
    init_values=None,
    class_token=True,
    pre_norm=False,
    final_norm=True,
    fc_norm=None,
)
SWIN_DEFAULTS = dict(
    img_size=224,
    patch_size=4,
    window_size=7,
    in_chans=3,
    num_classes=1000,
    embed_dim=128,
    depths=(2, 2, 18, 2),
    num_heads=(4, 8, 16, 32),
)


class TimmModel(NamedTuple):
    """A model as timm builds it.

    Attributes:
        name (str): The first argument of ``timm.create_model``.
        options (dict): The others, without those that the name implies.
        weights (dict[str, Tensor]): By timm's names.
        images (dict): Of its ``pretrained_cfg``: how images are prepared.
    """

    name: str
    options: dict
    weights: dict[str, Tensor]
    images: dict = {}

    def call(self, path: str) -> str:
        """The call that builds it from a file of its weights."""
        words = [repr(self.name), *(f'{name}={value!r}' for name, value in self.options.items())]
        if self.images:
            words.append(f'pretrained_cfg_overlay={_as_call(self.images)}')
        return f'timm.create_model({", ".join([*words, f"checkpoint_path={path!r}"])})'


def timm_model(source: Source) -> TimmModel:
    """Describe a source as timm builds it.

    Raises:
        UserError: If timm has no such model.
    """
    check_stock_backbone(source, 'timm', 'timm')
    make = dict(vit=_vit, swin=_swin, timm=_own)[family(source.model) or _refuse(source)]
    return make(source)._replace(images=_images(source))


def _images(source: Source) -> dict:
    """How images are prepared, by the names of timm's ``pretrained_cfg``; see its ``data``."""
    channels, height, width = source.image_shape
    images: dict = dict(input_size=(channels, height, width))
    preprocessing = source.preprocessing()
    if preprocessing is not None and preprocessing.is_rgb_or_gray(channels):
        # timm's pixels are from 0 to 1.
        images['mean'] = tuple(round(value / 255, 6) for value in preprocessing.mean)
        images['std'] = tuple(round(value / 255, 6) for value in preprocessing.std)
    resized = resized_and_cropped(source.cfg)
    if resized is not None and resized.interpolation in TIMM_INTERPOLATIONS:
        images['interpolation'] = resized.interpolation
        images['crop_pct'] = resized.crop / resized.edge
    return images


def _as_call(options: dict) -> str:
    return f'dict({", ".join(f"{name}={value!r}" for name, value in options.items())})'


def renamed(source: Source, weights: dict[str, Tensor], names: KeyMap, library: str) -> dict:
    """The weights by the other library's names.

    Args:
        source (Source): Its backbone's type is named in the error.
        weights (dict[str, Tensor]): By MMPretrain's names.
        names (KeyMap): The table.
        library (str): Whose names they are.

    Raises:
        UserError: If one has no place there.
    """
    result = {}
    for name, value in weights.items():
        if name.endswith(('relative_position_index', 'attn_mask')):
            continue  # computed when the model is built
        other = names.theirs(name)
        if other is None:
            raise UserError(
                f'{library} has no place for {name} of {type(source.model.backbone).__name__}; '
                'take --to safetensors, onnx or torch-export'
            )
        result[other] = value
    return result


def _vit(source: Source) -> TimmModel:
    backbone, head = source.model.backbone, getattr(source.model, 'head', None)
    layer = backbone.layers[0]
    is_distilled = isinstance(backbone, DistilledVisionTransformer)
    scale = getattr(layer.attn.gamma1, 'weight', None)
    options = dict(
        img_size=tuple(backbone.img_size),
        patch_size=tuple(backbone.patch_embed.projection.kernel_size),
        in_chans=source.image_shape[0],
        num_classes=_num_classes(source),
        embed_dim=backbone.embed_dims,
        depth=backbone.num_layers,
        num_heads=layer.attn.num_heads,
        mlp_ratio=backbone.arch_settings['feedforward_channels'] / backbone.embed_dims,
        qkv_bias=layer.attn.qkv.bias is not None,
        init_values=None if scale is None else 1e-5,
        class_token=backbone.cls_token is not None,
        pre_norm=not isinstance(backbone.pre_norm, nn.Identity),
        final_norm=backbone.final_norm,
    )
    if source.is_classifier:
        options |= _pooling(source)
    names = TIMM_VIT | (_vit_head(source, head) if source.is_classifier else {})
    weights = renamed(source, source.stock_weights(), names, 'timm')
    name = DISTILLED_NAME if is_distilled else VIT_NAME
    return TimmModel(name, _beyond(VIT_DEFAULTS, options), weights)


def _pooling(source: Source) -> dict:
    backbone = source.model.backbone
    neck = source.network.neck
    if backbone.out_type == 'cls_token' and neck is None:
        return dict(global_pool='token')
    if backbone.out_type == 'avg_featmap' and neck is None and not backbone.final_norm:
        # timm has one of the two norms: after the average, or before it.
        return dict(global_pool='avg', final_norm=True)
    if backbone.out_type == 'featmap' and isinstance(neck, GlobalAveragePooling):
        return dict(global_pool='avg', fc_norm=False)
    raise UserError(
        f"--to timm: timm's ViT has no out_type={backbone.out_type!r} with "
        f'final_norm={backbone.final_norm}'
        + ('' if neck is None else f' and {type(neck).__name__}')
        + '; take --to safetensors, onnx or torch-export'
    )


def _vit_head(source: Source, head: nn.Module) -> dict:
    kinds = {LinearClsHead: ['head.fc'], VisionTransformerClsHead: ['head.layers.head']}
    kinds[DeiTClsHead] = ['head.layers.head', 'head.layers.head_dist']
    if type(head) not in kinds:
        raise _no_head(head)
    return {own: VIT_HEADS[own] for own in kinds[type(head)]}


def _swin(source: Source) -> TimmModel:
    backbone = source.model.backbone
    _check_linear_head(source)
    options = dict(
        img_size=source.image_shape[1:],
        patch_size=backbone.patch_embed.projection.kernel_size[0],
        window_size=backbone.stages[0].blocks[0].attn.window_size,
        in_chans=source.image_shape[0],
        num_classes=_num_classes(source),
        embed_dim=backbone.embed_dims,
        depths=tuple(backbone.depths),
        num_heads=tuple(backbone.num_heads),
    )
    names = timm_swin(backbone.num_layers - 1)
    weights = renamed(source, merging_to_theirs(source.stock_weights()), names, 'timm')
    return TimmModel(SWIN_NAME, _beyond(SWIN_DEFAULTS, options), weights)


def _own(source: Source) -> TimmModel:
    """A model that is timm's own, in MMPretrain's ``TIMMBackbone``."""
    _check_linear_head(source)
    backbone = source.cfg.model.backbone
    timm = source.model.backbone.timm_model
    classifier = timm.pretrained_cfg.get('classifier')
    if not isinstance(classifier, str):
        raise UserError(f'--to timm: {backbone.model_name} has more than one classifier')
    prefix = 'backbone.timm_model.'
    weights = {
        name.removeprefix(prefix) if name.startswith(prefix) else f'{classifier}.{name[8:]}': value
        for name, value in source.stock_weights().items()
    }
    training = ('type', 'model_name', 'pretrained', 'checkpoint_path', 'features_only', 'init_cfg')
    options = {
        'in_chans' if name == 'in_channels' else name: value
        for name, value in backbone.items()
        if name not in training and not name.startswith('drop') and not name.endswith('drop_rate')
    }
    return TimmModel(
        backbone.model_name, {**options, 'num_classes': _num_classes(source)}, weights
    )


def _check_linear_head(source: Source) -> None:
    head = getattr(source.model, 'head', None)
    if type(head) is not LinearClsHead:
        raise _no_head(head)
    if not isinstance(source.network.neck, GlobalAveragePooling):
        raise UserError('--to timm: the neck must be GlobalAveragePooling, as in timm')


def _no_head(head: nn.Module) -> UserError:
    return UserError(
        f'--to timm: timm has no {type(head).__name__}; take --to safetensors, onnx or '
        'torch-export'
    )


def _refuse(source: Source) -> str:
    raise UserError(
        f'--to timm takes ViT, DeiT, Swin and the models of TIMMBackbone, not '
        f'{type(source.model.backbone).__name__}; take --to stock, safetensors, onnx or '
        'torch-export'
    )


def _num_classes(source: Source) -> int:
    return source.model.head.num_classes if source.is_classifier else 0


def _beyond(defaults: dict, options: dict) -> dict:
    """The options that say more than the defaults; equal sides are written once."""
    options = {
        name: value[0]
        if isinstance(value, tuple)
        and set(value) == {value[0]}
        and len(value) == 2
        and name in ('img_size', 'patch_size', 'window_size')
        else value
        for name, value in options.items()
    }
    return {name: value for name, value in options.items() if value != defaults.get(name)}
