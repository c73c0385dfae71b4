"""What ``poslabel import`` does: rename, load into the config's model, check, write, report."""

import argparse
import copy
from collections import Counter, OrderedDict

import torch
from mmengine.config import Config
from mmpretrain.models.backbones import DeiT3
from torch import Tensor, nn

from poslabel_mm.errors import UserError
from poslabel_mm.interop.foreign_file import read_weights
from poslabel_mm.interop.hugging_face_config import (
    compare_with_config,
    read_hugging_face_config,
)
from poslabel_mm.interop.network import family
from poslabel_mm.interop.output import check_output, unfinished
from poslabel_mm.interop.translation import Translation, translated
from poslabel_mm.launch.arguments import read_config
from poslabel_mm.launch.checks.differences import Differences, compare_whole, is_no_weight
from poslabel_mm.launch.checks.finite import FiniteCheck
from poslabel_mm.launch.checks.foreign_keys import whose_keys
from poslabel_mm.launch.checks.model import build_model, warnings_only
from poslabel_mm.launch.checks.opened_checkpoint import Checkpoint
from poslabel_mm.launch.checks.weights_gate import check_start
from poslabel_mm.launch.checks.wording import first_names
from poslabel_mm.launch.guard import Guard
from poslabel_mm.stack.config_prefix import without_own_scope

# The backbones that each layout has weights for.
FAMILIES = dict(
    timm=('vit', 'swin', 'timm'),
    mae=('vit',),
    dinov2=('vit',),
    deit=('vit',),
    hf=('vit',),
    swin=('swin',),
)
# What is known of parts that have no place, by a word of their names.
LEFT_OUT = {
    'mask_token': 'takes the place of masked patches, only in pre-training',
    'register': 'MMPretrain has no register tokens, and computes other features without them',
    'reg_token': 'MMPretrain has no register tokens, and computes other features without them',
    'decoder': "MAE's decoder, which a config has that pre-trains",
    'dino_head': 'the head of the pre-training',
    'ibot_head': 'the head of the pre-training',
    'head': 'a classifier, and the config has none of its kind',
    'classifier': 'a classifier, and the config has none of its kind',
    'pooler': "MMPretrain's ViT has no pooler",
}
BACKBONES = dict(vit='VisionTransformer', swin='SwinTransformer', timm='TIMMBackbone')


def import_weights(args: argparse.Namespace) -> None:
    """Import a file; see :mod:`poslabel_mm.interop.import_command`.

    Raises:
        UserError: If it cannot be read, or its weights do not fit the config's model.
    """
    with Guard(), without_own_scope():
        check_output(args.out, ('.pth',))
        cfg = read_config(args.to, args.cfg_options)
        foreign, notes = read_weights(args.file)
        with warnings_only():
            model = _model(cfg, args)
            assumed = _compare_options(model, args)
            translation = translated(args, foreign, model)
            _check_names(translation, foreign, model, args)
            translation.notes.extend([*notes, *assumed])
            checkpoint = Checkpoint(args.file, dict(state_dict=translation.weights))
            FiniteCheck(model).check_weights(checkpoint)
            _check_layer_scale(translation, model, args)
            differences = compare_whole(checkpoint, model)
            check_start(checkpoint, model, differences, '')
        arrived = _arrived(model, translation, differences)
        with unfinished(args.out) as path:
            torch.save(dict(meta={}, state_dict=arrived), path)
        _report(args, cfg, model, translation, arrived)


def _model(cfg: Config, args: argparse.Namespace) -> nn.Module:
    if cfg.get('model') is None:
        raise UserError(f'{args.to} has no model')
    cfg = copy.deepcopy(cfg)
    cfg.model.pop('target_generator', None)  # of a loss alone, and with weights of its own
    _without_checkpoints(cfg.model)
    model = build_model(cfg)
    allowed = FAMILIES[args.layout]
    if family(model) not in allowed:
        raise UserError(
            f'--from {args.layout} has weights for {" or ".join(BACKBONES[f] for f in allowed)}, '
            f'and the backbone of {args.to} is {type(model.backbone).__name__}'
        )
    if isinstance(model.backbone, DeiT3) and not _uses_second_norm(model.backbone):
        raise UserError(
            f"{args.to} has MMPretrain's DeiT3, whose layers use their first norm twice and the "
            "second one never, so that with DeiT III's weights it computes other features: set "
            'model.backbone.type=VisionTransformer, layer_scale_init_value=1e-6 and no '
            'use_layer_scale, which is DeiT III'
        )
    return model


def _uses_second_norm(backbone: DeiT3) -> bool:
    used = []
    layer = backbone.layers[0]
    handle = layer.ln2.register_forward_hook(lambda *_: used.append(True))
    with torch.no_grad():
        layer(torch.zeros(1, 1, backbone.embed_dims))
    handle.remove()
    return bool(used)


def _without_checkpoints(node: dict) -> None:
    """Remove what parts of the model would start from, which need not be there yet."""
    init_cfg = node.get('init_cfg')
    if isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained':
        node.init_cfg = None
    for value in node.values():
        if isinstance(value, dict):
            _without_checkpoints(value)


def _compare_options(model: nn.Module, args: argparse.Namespace) -> list[str]:
    """Compare what weights cannot tell, where the file's library tells it."""
    if family(model) != 'vit':
        return []
    config = read_hugging_face_config(args.file) if args.layout == 'hf' else None
    return compare_with_config(config, model.backbone, args.file)


def _check_layer_scale(
    translation: Translation, model: nn.Module, args: argparse.Namespace
) -> None:
    given = [name for name in translation.weights if name.endswith('.gamma1.weight')]
    if given and given[0] not in model.state_dict():
        raise UserError(
            f'{args.file} has layer scale, for which {type(model.backbone).__name__} has no '
            'place: --cfg-options model.backbone.layer_scale_init_value=1e-5'
        )


def _check_names(
    translation: Translation, foreign: dict, model: nn.Module, args: argparse.Namespace
) -> None:
    if not any(name.startswith('backbone.') for name in translation.weights):
        whose = whose_keys(foreign) or f'its names begin with {first_names(sorted(foreign))}'
        raise UserError(f'{args.file} is not a file that --from {args.layout} reads: {whose}')
    lost = translation.lost()
    if lost:
        raise UserError(
            f'{args.file} has {first_names(lost)}, for which {type(model.backbone).__name__} has '
            'no place: without them it would compute other features'
        )


def _arrived(model: nn.Module, translation: Translation, differences: Differences) -> OrderedDict:
    """What the model has taken, as it loads it: encodings are resized."""
    own = model.state_dict()
    new = {*differences.missing, *differences.resized}
    arrived = OrderedDict(
        (name, value)
        for name, value in own.items()
        if name not in new and (name in translation.weights or is_no_weight(value))
    )
    # It holds the grids of the encodings.
    arrived._metadata = own._metadata
    return arrived


def _report(
    args: argparse.Namespace,
    cfg: Config,
    model: nn.Module,
    translation: Translation,
    arrived: OrderedDict,
) -> None:
    given = translation.weights
    weights = [name for name in arrived if name in given]
    print(f'arrived    {_counted(weights)}')
    new = [name for name, _ in model.named_parameters() if name not in arrived]
    if new:
        print(f'new        {first_names(new)}: drawn, or as the config says')
    for name in weights:
        if given[name].shape != arrived[name].shape:
            print(f'resized    {name}: {_shape(given[name])} to {_shape(arrived[name])}')
    for reason, names in _left_out(model, translation, weights).items():
        print(f'left out   {first_names(names)}: {reason}')
    for note in translation.notes:
        print(f'note       {note}')
    print(f'written    {args.out}')
    print(f'start with {_way_to_start(cfg, args.out)}')


def _way_to_start(cfg: Config, out: str) -> str:
    """The options with which a training of the config starts from a file."""
    init_cfg = cfg.model.backbone.get('init_cfg')
    if isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained':
        # It is read, and has to be there, even where `load_from` overwrites it.
        return (
            f'--cfg-options model.backbone.init_cfg.checkpoint={out} '
            'model.backbone.init_cfg.prefix=backbone.'
        )
    return f'--cfg-options load_from={out}'


def _left_out(
    model: nn.Module, translation: Translation, weights: list[str]
) -> dict[str, list[str]]:
    """The names of what did not arrive, by the reason."""
    own = model.state_dict()
    left: dict[str, list[str]] = {}
    for name in translation.left:
        reason = next(
            (text for word, text in LEFT_OUT.items() if word in name),
            'the config has no such part',
        )
        left.setdefault(reason, []).append(name)
    for name, value in translation.weights.items():
        if name in weights or name.endswith('pos_embed') and name not in own:
            continue  # an encoding that is not added has a note of its own
        reason = 'the config has no such part'
        if name in own:
            reason = f'{_shape(value)}, and {_shape(own[name])} in the config'
        left.setdefault(reason, []).append(name)
    return left


def _shape(tensor: Tensor) -> str:
    return 'x'.join(map(str, tensor.shape))


def _counted(names: list[str]) -> str:
    parts = Counter(name.partition('.')[0] for name in names)
    return f'{len(names)} tensors: ' + ', '.join(f'{n} of {part}' for part, n in parts.items())
