"""The paper's configs at a size that a CPU trains in seconds.

A tiny config inherits the leaf of its row and changes what must change: the
widths and depths (``configs/_base_/tiny/MODEL.py``), the data, the image size
of every transform, and the epochs. Labels, encodings, augmentations, losses
and the optimizer stay the row's own.
"""

import copy
import functools
from pathlib import Path
from pprint import pformat
from typing import Any

from mmengine.config import Config

from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.class_names import LOADERS
from poslabel_mm.stack.config_prefix import PREFIX, config_path

WARMUP = 0.25  # of the epochs; at the paper's 20 of 300 it would be no step


def tiny_config(name: str, data: str, epochs: int) -> str:
    """The text of a row's tiny config.

    Args:
        name (str): File name of the row's config, ``vit-b_apl_in1k.py``.
        data (str): One of :data:`poslabel_mm.experiments.scale.DATA`.
        epochs (int): How long it trains, at least 1.

    Returns:
        str: A complete config with the row's own for its base.

    Raises:
        UserError: If there is no small form of the config's model.
    """
    model = Path(name).stem.partition('_')[0]
    try:
        overlay = _load(f'_base_/tiny/{model}.py')
    except UserError:
        raise UserError(
            f'{name} has no tiny form: there is no configs/_base_/tiny/{model}.py'
        ) from None
    leaf = _load(name)
    images = _load(f'_base_/{data}.py')
    delta = _delta(leaf, overlay, images, epochs)
    lines = [
        f'# {name} at a tiny scale, written by tools/reproduce.py.',
        f'_base_ = {PREFIX + name!r}',
        '',
    ]
    lines += [
        f'{key} = {pformat(value, width=99, sort_dicts=False)}' for key, value in delta.items()
    ]
    return '\n'.join(lines) + '\n'


@functools.cache
def _load(name: str) -> Config:
    return Config.fromfile(config_path(name))


def _delta(leaf: Config, overlay: Config, images: Config, epochs: int) -> dict[str, Any]:
    delta: dict[str, Any] = dict(
        model=_to_builtin(overlay.model),
        data_preprocessor={
            key: value
            for key, value in _to_builtin(images.data_preprocessor).items()
            if key != 'num_classes' or key in leaf.data_preprocessor
        },
    )
    if 'num_classes' in leaf.model.head:
        delta['model']['head']['num_classes'] = images.data_preprocessor.num_classes
    if 'pos_head' in leaf.model:
        delta['model']['pos_head'] = _to_builtin(overlay.position_head)

    size = overlay.image_size / _image_size(leaf)
    for loader in LOADERS:
        if leaf.get(loader) is None:
            continue
        kind = 'train_dataloader' if loader.startswith('train') else 'val_dataloader'
        dataset = _to_builtin(images[kind].dataset)
        dataset['pipeline'] = _pipeline(leaf[loader].dataset.pipeline, size)
        delta[loader] = _to_builtin(overlay[kind])
        delta[loader]['dataset'] = dict(_delete_=True, **dataset, **delta[loader]['dataset'])

    delta['param_scheduler'] = _schedule(leaf, epochs)
    delta['train_cfg'] = dict(max_epochs=epochs)
    for key in 'auto_scale_lr', 'default_hooks':
        delta[key] = _to_builtin(overlay[key])
    return delta


def _to_builtin(value: Any) -> Any:
    """Builtin containers in place of MMEngine's, all of them new."""
    return Config(dict(value=value)).to_dict()['value']


def _image_size(leaf: Config) -> int:
    return next(
        transform.scale
        for transform in leaf.train_dataloader.dataset.pipeline
        if transform.type == 'RandomResizedCrop'
    )


def _pipeline(transforms: list[dict], size: float) -> list[dict]:
    """The row's own, its images in memory and ``size`` times as large."""
    transforms = copy.deepcopy(_to_builtin(transforms))
    for transform in transforms:
        for key in 'scale', 'crop_size':
            if key in transform:
                transform[key] = round(transform[key] * size)
        if transform['type'] == 'LoadImageFromFile':
            transform['type'] = 'poslabel_mm.LoadMissingImage'
    return transforms


def _schedule(leaf: Config, epochs: int) -> list[dict]:
    """The row's warm-up and decay over so many epochs."""
    schedulers = _to_builtin(leaf.param_scheduler)
    whole, warmup = leaf.train_cfg.max_epochs, schedulers[0]['end']
    lengths = {
        0: 0,
        warmup: WARMUP * epochs,
        whole: epochs,
        whole - warmup: epochs - WARMUP * epochs,
    }
    for scheduler in schedulers:
        for key in {'begin', 'end', 'T_max'} & set(scheduler):
            scheduler[key] = lengths[scheduler[key]]
    return schedulers
