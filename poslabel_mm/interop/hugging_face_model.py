"""A ViT as Hugging Face's ``ViTForImageClassification``: its config and its weights' names."""

import json
import os.path as osp

from mmpretrain.models.backbones import DistilledVisionTransformer
from mmpretrain.models.heads import LinearClsHead, VisionTransformerClsHead
from torch import Tensor

from poslabel_mm.errors import UserError
from poslabel_mm.interop.hugging_face_keys import (
    HUGGING_FACE_HEADS,
    HUGGING_FACE_VIT,
    split_qkv,
)
from poslabel_mm.interop.network import Source, family
from poslabel_mm.interop.resizing import RESAMPLING, resized_and_cropped
from poslabel_mm.interop.stock_model import check_stock_backbone
from poslabel_mm.interop.timm_model import renamed


def hugging_face_weights(source: Source) -> dict[str, Tensor]:
    """The weights of a ViT classifier by the names of Hugging Face's files.

    Raises:
        UserError: If Hugging Face's ViT is another model.
    """
    backbone = source.model.backbone
    if not source.is_classifier or family(source.model) != 'vit':
        raise UserError(
            f'--to hf takes a ViT that classifies, not {type(source.model).__name__} with '
            f'{type(backbone).__name__}; take --to timm, safetensors, onnx or torch-export'
        )
    check_stock_backbone(source, 'hf', 'transformers')
    reasons = []
    if isinstance(backbone, DistilledVisionTransformer):
        reasons.append('distillation token')
    elif backbone.out_type != 'cls_token':
        reasons.append(f'out_type={backbone.out_type!r}')
    if hasattr(backbone.layers[0].attn.gamma1, 'weight'):
        reasons.append('layer scale')
    if type(source.model.head) not in (VisionTransformerClsHead, LinearClsHead):
        reasons.append(type(source.model.head).__name__)
    if reasons:
        raise UserError(
            f"--to hf: transformers' ViT has no {' and no '.join(reasons)}; take --to timm, "
            'safetensors, onnx or torch-export'
        )
    head = next(own for own in HUGGING_FACE_HEADS if f'{own}.weight' in source.stock_weights())
    names = HUGGING_FACE_VIT | {head: HUGGING_FACE_HEADS[head]}
    return renamed(source, split_qkv(source.stock_weights()), names, 'transformers')


def hugging_face_files(source: Source, folder: str) -> bool:
    """Write ``config.json`` and, where its processors can do it, ``preprocessor_config.json``.

    Args:
        source (Source): The model.
        folder (str): Where to.

    Returns:
        bool: Whether the second file was written: not for BGR images, or for a test that does
            more or less than resizing the shorter edge and cutting out the centre.
    """
    backbone = source.model.backbone
    layer = backbone.layers[0]
    channels, height, width = source.image_shape
    patch = tuple(backbone.patch_embed.projection.kernel_size)
    classes = source.classes or []
    count = source.model.head.num_classes
    if len(classes) != count:
        classes = [f'LABEL_{index}' for index in range(count)]
    config = dict(
        architectures=['ViTForImageClassification'],
        model_type='vit',
        hidden_size=backbone.embed_dims,
        num_hidden_layers=backbone.num_layers,
        num_attention_heads=layer.attn.num_heads,
        intermediate_size=backbone.arch_settings['feedforward_channels'],
        hidden_act='gelu',
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=layer.ln1.eps,
        image_size=height if height == width else [height, width],
        patch_size=patch[0] if patch[0] == patch[1] else list(patch),
        num_channels=channels,
        qkv_bias=layer.attn.qkv.bias is not None,
        id2label=dict(enumerate(classes)),
        label2id={name: index for index, name in enumerate(classes)},
    )
    _write(config, folder, 'config.json')
    preprocessing, resized = source.preprocessing(), resized_and_cropped(source.cfg)
    if preprocessing is None or not preprocessing.is_rgb_or_gray(channels) or resized is None:
        return False
    _write(
        dict(
            # Of Hugging Face's own processors, the one that keeps the sides' ratio and crops.
            image_processor_type='BitImageProcessor',
            do_convert_rgb=channels == 3,
            do_resize=True,
            size=dict(shortest_edge=resized.edge),
            resample=RESAMPLING[resized.interpolation],
            do_center_crop=True,
            crop_size=dict(height=resized.crop, width=resized.crop),
            do_rescale=True,
            rescale_factor=1 / 255,
            do_normalize=True,
            image_mean=[value / 255 for value in preprocessing.mean],
            image_std=[value / 255 for value in preprocessing.std],
        ),
        folder,
        'preprocessor_config.json',
    )
    return True


def _write(content: dict, folder: str, name: str) -> None:
    with open(osp.join(folder, name), 'w', encoding='utf-8') as file:
        json.dump(content, file, indent=2)
        file.write('\n')
