"""A training run of seconds: 12 random images, a ViT of 16 channels.

It learns positional labels, for the run to be more than the stock one, and
draws the pairs of the relative ones.
"""

import itertools
import os.path as osp

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from torch import Tensor

RUNTIME = osp.join(
    osp.dirname(osp.dirname(osp.realpath(__file__))), 'configs', '_base_', 'runtime.py'
)

CONFIG = """
_base_ = {runtime!r}
model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(
            embed_dims=16, num_layers=2, num_heads=2,
            feedforward_channels=32),
        img_size=16, patch_size=4),
    head=dict(
        type='VisionTransformerClsHead', num_classes=2, in_channels=16,
        loss=dict(
            type='LabelSmoothLoss', label_smooth_val=0.1,
            mode='classy_vision')),
    pos_head=[
        dict(
            type='poslabel_mm.PositionalLabelHead', in_channels=16,
            grid_size=4),
        dict(
            type='poslabel_mm.RelativePositionalLabelHead', in_channels=16,
            grid_size=4, pairs_per_token=3)
    ])
data_preprocessor = dict(num_classes=2, mean=[127.] * 3, std=[60.] * 3)
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=4, num_workers=0, collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset', data_root={data!r}, pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True))
test_dataloader = dict(
    batch_size=4, num_workers=0, collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset', data_root={data!r}, pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False))
test_evaluator = dict(type='Accuracy', topk=(1, ))
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-2))
param_scheduler = dict(
    type='CosineAnnealingLR', T_max=4, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=3)
test_cfg = dict()
default_hooks = dict(logger=dict(interval=1))
log_level = 'ERROR'
randomness = dict(seed=7)
"""

RUNS = itertools.count()

# What makes a run depend on its random state, in every place there is.
RANDOM = {
    'model.backbone.drop_path_rate': 0.3,
    'model.train_cfg': dict(augments=[dict(type='Mixup', alpha=0.8)]),
    'train_dataloader.dataset.pipeline': [
        dict(type='LoadImageFromFile'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='RandomCrop', crop_size=16, padding=2),
        dict(type='PackInputs'),
    ],
}


def make_images(folder, per_class: int = 6) -> str:
    """Write `per_class` random images for each of two classes."""
    rng = np.random.default_rng(0)
    for name in 'a', 'b':
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f'{i}.png')
    return str(folder)


def write_config(tmp_path, data: str, text: str = '') -> str:
    """Write the config, with more text at its end; returns its path."""
    path = tmp_path / 'tiny.py'
    path.write_text(CONFIG.format(runtime=RUNTIME, data=data) + text)
    return str(path)


def make_config(tmp_path, data: str, work_dir: str, **options) -> Config:
    cfg = Config.fromfile(write_config(tmp_path, data))
    cfg.work_dir = str(tmp_path / work_dir)
    # MMEngine tells runs of one process apart by this name and the second.
    cfg.experiment_name = f'tiny_{next(RUNS)}'
    cfg.merge_from_dict(options)
    return cfg


class Recorder:
    """Losses of every iteration that a Runner trained."""

    def __init__(self, runner: Runner) -> None:
        self.losses: list[float] = []
        step = runner.model.train_step

        def train_step(*args, **kwargs):
            log_vars = step(*args, **kwargs)
            self.losses.append(log_vars['loss'].item())
            return log_vars

        runner.model.train_step = train_step


def train(cfg: Config) -> list[float]:
    runner = Runner.from_cfg(cfg)
    recorder = Recorder(runner)
    runner.train()
    return recorder.losses


def weights(path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)['state_dict']


def listing(folder) -> dict:
    """Every file below a folder with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }
