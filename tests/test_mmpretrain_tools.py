"""MMPretrain's tools on a ViT, a Swin and an MAE with position heads, as docs/tools.md says."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from models import apl_head, build, classifier, tiny_vit
from PIL import Image
from tiny_run import RUNTIME

from poslabel_mm.launch import tools as launch
from poslabel_mm.launch.stock_tools import list_tools

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).resolve().parents[1] / 'docs/tools.md').read_text('utf-8')
TABLE = {
    tool: dict(zip(('ViT', 'Swin', 'MAE'), (cell.strip() for cell in cells.split('|'))))
    for tool, cells in re.findall(r'^\| `([\w/-]+\.py)` \| (.*) \|$', PAGE, re.M)
}
NOT_RUN = r'train\.py|test\.py|(model|dataset)_converters/|torchserve/|.*/(shape_bias|utils)\.py'
# What a cell that is not "works" stands for in the line that is printed.
SAID = {
    'no test images': 'has no test_dataloader, whose images',
    'no validation images': 'has no val_dataloader, whose images',
    'no test results': 'MAE.pkl does not exist',
    'not for it': 'must ',
}
HEAD = dict(type='LinearClsHead', num_classes=2, in_channels=16)
SWIN = dict(
    type='SwinTransformer',
    arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 2]),
    img_size=16,
    patch_size=2,
    window_size=4,
    out_indices=(1,),
)
MAE = dict(
    type='poslabel_mm.PositionalLabelMAE',
    backbone=tiny_vit(type='MAEViT', mask_ratio=0.75),
    neck=dict(
        type='MAEPretrainDecoder',
        num_patches=16,
        patch_size=4,
        embed_dim=16,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    ),
    head=dict(
        type='MAEPretrainHead',
        patch_size=4,
        loss=dict(type='PixelReconstructionLoss', criterion='L2'),
    ),
    pos_head=apl_head(),
)
MODELS = {
    'ViT': classifier(apl_head(), head=HEAD | dict(type='VisionTransformerClsHead')),
    'Swin': classifier(apl_head(), SWIN, head=HEAD, neck=dict(type='GlobalAveragePooling')),
    'MAE': MAE,
}
CONFIG = """
_base_ = {runtime!r}
model = {model!r}
data_preprocessor = dict(mean=[127.0] * 3, std=[60.0] * 3, to_rgb=True)
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=16), dict(type='PackInputs')
]
train_dataloader = dict(
    batch_size=4, num_workers=1, collate_fn=dict(type='default_collate'),
    dataset=dict(type='CustomDataset', data_root='data', pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False))
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3))
param_scheduler = dict(type='CosineAnnealingLR', T_max=1, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=1)
log_level = 'ERROR'
"""
TESTED = """
val_dataloader = test_dataloader = train_dataloader
val_evaluator = test_evaluator = dict(type='Accuracy', topk=(1,))
val_cfg = test_cfg = dict()
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Images of two classes; of each model a config, a checkpoint, a log and test results."""
    folder = tmp_path_factory.mktemp('tools')
    rng = np.random.default_rng(0)
    for name in 'ab':
        (folder / 'data' / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f'data/{name}/{i}.png')
    for name, model in MODELS.items():
        text = CONFIG.format(runtime=RUNTIME, model=model)
        (folder / f'{name}.py').write_text(text + TESTED * (name != 'MAE'))
        torch.save(dict(state_dict=build(model).state_dict(), meta={}), folder / f'{name}.pth')
        (folder / f'{name}.json').write_text(
            '{"loss": 2.0, "time": 0.1, "epoch": 1, "step": 1}\n'
            '{"loss": 1.0, "time": 0.1, "epoch": 1, "step": 2}\n'
        )
    return folder


def arguments(tool, name):
    """What the tool is told, in the folder."""
    config, weights = f'{name}.py', f'{name}.pth'
    extra = ['--num-extra-tokens', '0'] * (name == 'Swin')
    image, picture = 'data/a/0.png', f'{name}_{Path(tool).stem}.png'
    return {
        'analyze_logs': ['plot_curve', f'{name}.json', '--keys', 'loss', '--out', picture],
        'analyze_results': [config, f'{name}.pkl', '--out-dir', f'{name}_out', '--topk', '1'],
        'confusion_matrix': [config, weights],
        'eval_metric': [f'{name}.pkl', '--metric', 'type=Accuracy', 'topk=1'],
        'get_flops': [config, '--shape', '16'],
        'kfold-cross-valid': [config, '--num-splits', '2', '--fold', '0', '--work-dir', 'folds'],
        'print_config': [config],
        'verify_dataset': [config, '--out-path', f'{name}_broken.log'],
        'publish_model': [weights, f'{name}_published.pth'],
        'reparameterize_model': [config, weights, f'{name}_out.pth'],
        'browse_dataset': [config, '-o', f'{name}_browsed', '-n', '1', '--not-show'],
        'vis_cam': [image, config, weights, '--save-path', picture, '--vit-like', *extra],
        'vis_scheduler': [config, '-s', picture, '--not-show'],
        'vis_tsne': [config, '--checkpoint', weights, '--perplexity', '2', '--work-dir', 'tsne'],
    }[Path(tool).stem]


def run(tool, words, monkeypatch, capfd):
    """The exit status, and all that was printed."""
    monkeypatch.setattr(sys, 'argv', ['tool'])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    try:
        launch.other_tool([tool, *words])
        status = 0
    except SystemExit as ended:
        status = ended.code or 0
    return status, ''.join(capfd.readouterr())


def test_the_table_has_every_tool_that_is_for_models():
    assert {tool for tool in list_tools() if not re.match(NOT_RUN, tool)} <= set(TABLE)
    assert set(TABLE) <= set(list_tools())


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('tool', TABLE)
def test_the_table(tool, name, folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    monkeypatch.setenv('MPLBACKEND', 'Agg')
    for unreadable in ('analyze_results', 'eval_metric'):
        if unreadable in tool and name != 'MAE' and not os.path.exists(f'{name}.pkl'):
            monkeypatch.setattr(
                sys, 'argv', ['test.py', f'{name}.py', f'{name}.pth', '--out', f'{name}.pkl']
            )
            launch.test()
    status, text = run(tool, arguments(tool, name), monkeypatch, capfd)
    cell = TABLE[tool][name]
    if cell == 'works':
        assert status == 0, text
        return
    assert status == 1, text
    (line,) = [line for line in text.splitlines() if line.startswith('error: ')]
    assert SAID[cell] in line


def test_missing_data_is_one_line(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    cfg = Config.fromfile('ViT.py')
    cfg.train_dataloader.dataset.data_root = 'gone'
    cfg.dump('gone.py')
    words = ['gone.py', '-o', 'browsed', '--not-show']
    status, text = run('visualization/browse_dataset.py', words, monkeypatch, capfd)
    assert status == 1 and re.search(r'^error: .*gone', text, re.M), text
