"""MMPretrain's own model in place of one of this project's: the same function, the same names."""

import copy
import inspect

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.selfsup import MAEViT, MaskFeatViT, MoCoV3ViT
from mmpretrain.registry import MODELS
from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.interop.network import Classifier, Encoder, Source
from poslabel_mm.launch.checks.model import warnings_only

# Encoders that compute what a plain ViT does where nothing is masked.
PRETRAINING_VITS = (MAEViT, MaskFeatViT, MoCoV3ViT)


def headless_config(source: Source) -> dict:
    """The config of the source's model without position heads, its backbone as it is."""
    cfg = _model_config(source.cfg)
    if not source.is_classifier:
        return cfg['backbone']
    return {
        **{name: value for name, value in cfg.items() if name not in ('pos_head', 'pos_neck')},
        'type': _stock_type(type(source.model)),
    }


def stock_config(source: Source) -> dict:
    """The config of a model of MMPretrain alone that computes the same.

    Raises:
        UserError: If MMPretrain has none.
    """
    cfg = headless_config(source)
    backbone = cfg['backbone'] if source.is_classifier else cfg
    check_stock_backbone(source, 'stock', 'MMPretrain')
    kind = type(source.model.backbone)
    own = set().union(*(_arguments(k) for k in kind.__mro__ if not _is_stock(k)))
    own -= _arguments(_stock_class(kind))
    backbone = {name: value for name, value in backbone.items() if name not in own}
    backbone['type'] = _stock_type(kind)
    if source.is_classifier:
        return {**cfg, 'backbone': backbone}
    backbone.pop('out_type', None)
    backbone.pop('out_indices', None)
    if issubclass(kind, PRETRAINING_VITS):
        plain = _arguments(VisionTransformer)
        backbone = {name: value for name, value in backbone.items() if name in plain}
        # They have other defaults, and MoCo v3's has names of its own.
        arch = dict(source.model.backbone.arch_settings)
        backbone |= dict(type='VisionTransformer', arch=arch)
    return backbone


def model_call(cfg: dict, source: Source, pretrained: bool = False) -> str:
    """The call that builds the model of such a config; a ViT is in a classifier without head.

    Args:
        cfg (dict): From :func:`headless_config` or :func:`stock_config`.
        source (Source): Tells whether it is a classifier.
        pretrained (bool): Whether the call reads a checkpoint too, which is called FILE.
    """
    if not source.is_classifier:
        cfg = dict(type='ImageClassifier', backbone=cfg)
    cfg = {name: value for name, value in cfg.items() if name != 'train_cfg'}
    end = ', pretrained=FILE' if pretrained else ''
    return f'mmpretrain.get_model(mmengine.Config(dict(model={cfg!r})){end})'


def own_options(source: Source) -> list[str]:
    """The options of the source's backbone that no model of other code computes."""
    backbone = source.model.backbone
    encoding = getattr(backbone, 'pos_encoding', None)
    # A ViT without encoding is one whose encoding is zero; a Swin's blocks add none.
    is_swin = hasattr(backbone, 'last_downsample')
    options = ['causal attention'] if getattr(backbone, 'is_causal', False) else []
    if encoding in ('rope', 'cpe') or encoding == 'none' and is_swin:
        options.append(f'pos_encoding={encoding!r}')
    if is_swin and not backbone.last_downsample:
        options.append('last_downsample=False')
    return options


def check_stock_backbone(source: Source, target: str, library: str) -> None:
    """Refuse a backbone whose computation is this project's alone.

    Args:
        source (Source): The model.
        target (str): The ``--to``.
        library (str): Whose it would have to be.

    Raises:
        UserError: With the formats that take it.
    """
    options = own_options(source)
    if options:
        raise UserError(
            f'--to {target}: {library} has no {type(source.model.backbone).__name__} with '
            f'{" and ".join(options)}; take --to safetensors, onnx or torch-export'
        )


def build_network(cfg: dict, source: Source) -> nn.Module:
    """Build the network of such a config, in evaluation mode.

    Args:
        cfg (dict): From :func:`headless_config` or :func:`stock_config`.
        source (Source): Tells whether it is a classifier.
    """
    with DefaultScope.overwrite_default_scope('mmpretrain'), warnings_only():
        model = MODELS.build(copy.deepcopy(cfg))
    return (Classifier(model) if source.is_classifier else Encoder(model)).eval()


def _model_config(cfg: Config) -> dict:
    model = copy.deepcopy(
        cfg.model.to_dict() if hasattr(cfg.model, 'to_dict') else dict(cfg.model)
    )
    model = model.get('module', model)
    model['backbone'].pop('init_cfg', None)
    model.pop('init_cfg', None)
    return model


def _is_stock(kind: type) -> bool:
    return not kind.__module__.startswith('poslabel_mm.')


def _stock_class(kind: type) -> type:
    """The class of MMPretrain that a class is, or is derived from."""
    return next((k for k in kind.__mro__ if k.__module__.startswith('mmpretrain.')), kind)


def _stock_type(kind: type) -> str:
    return _stock_class(kind).__name__


def _arguments(kind: type) -> set[str]:
    return set(inspect.signature(kind.__init__).parameters)
