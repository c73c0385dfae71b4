"""The MAE extension under MMSelfSup 1.0, in an environment of its own."""

import json
import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
import torch
from tiny_run import make_images

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ['mmselfsup==1.0.0', 'mmcls==1.0.0rc6', 'mmcv-lite==2.0.1', 'attrs']

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def python(tmp_path_factory):
    """This environment's packages, with MMSelfSup and its mmcv over them."""
    try:
        metadata.version('mmpretrain')
    except metadata.PackageNotFoundError:
        pytest.skip('MMSelfSup needs the openmmlab stack')
    folder = tmp_path_factory.mktemp('mmselfsup') / 'env'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    (site,) = folder.glob('lib/python*/site-packages')
    (site / 'base.pth').write_text(sysconfig.get_paths()['purelib'])
    python = folder / 'bin' / 'python'
    subprocess.run(
        [sys.executable, '-m', 'pip', '--python', python, 'install', '-q', '--no-deps', *PACKAGES],
        check=True,
    )
    return python


CONFIG = """
default_scope = 'mmselfsup'
custom_imports = dict(imports=['poslabel_mm.mmselfsup'])
model = dict(
    type={algorithm!r},
    backbone=dict(
        type={encoder!r},
        arch=dict(
            embed_dims=16, num_layers=2, num_heads=2,
            feedforward_channels=32),
        img_size={side}, patch_size=4, **{encoding}),
    neck=dict(
        type='MAEPretrainDecoder', num_patches={side[0]} * {side[1]} // 16,
        patch_size=4, embed_dim=16, decoder_embed_dim=16, decoder_depth=1,
        decoder_num_heads=2),
    head=dict(
        type='MAEPretrainHead', norm_pix=True, patch_size=4,
        loss=dict(type='MAEReconstructionLoss')),
    data_preprocessor=dict(mean=[127.] * 3, std=[60.] * 3))
model.update({more})
train_dataloader = dict(
    batch_size=4, num_workers=0, collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmcls.CustomDataset', data_root={data!r},
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale={side}[::-1]),
            dict(type='PackSelfSupInputs', meta_keys=['img_path']),
        ]))
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3))
train_cfg = dict(by_epoch=True, max_epochs={epochs})
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
randomness = dict(seed=0)
log_level = 'INFO'
"""


def train(
    python, tmp_path, name, algorithm, encoder, epochs=2, side=(16, 16), pos_head=None, **encoding
):
    """Through MMSelfSup's own tools/train.py; returns its losses."""
    data = tmp_path / 'data'
    if not data.exists():
        make_images(data)
    config = tmp_path / f'{name}.py'
    more = dict(pos_head=pos_head) if pos_head else dict()
    config.write_text(
        CONFIG.format(
            algorithm=algorithm,
            encoder=encoder,
            epochs=epochs,
            side=side,
            encoding=encoding,
            more=more,
            data=str(data),
        )
    )
    code = 'import os.path as osp, mmselfsup, poslabel_mm; print(osp.dirname(mmselfsup.__file__))'
    env = os.environ | dict(PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES='')
    where = subprocess.run(
        [python, '-c', code], env=env, check=True, capture_output=True, text=True
    ).stdout.split()[-1]
    done = subprocess.run(
        [
            python,
            Path(where) / '.mim' / 'tools' / 'train.py',
            config,
            '--work-dir',
            tmp_path / name,
        ],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (log,) = (tmp_path / name).glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in log.read_text().splitlines()]


def heads(grid_size=4, **kwargs):
    return [
        dict(type=f'poslabel_mm.{kind}', in_channels=16, grid_size=grid_size) | kwargs
        for kind in ('PositionalLabelHead', 'RelativePositionalLabelHead')
    ]


def test_weight_zero_trains_as_stock_mae(python, tmp_path):
    stock = train(python, tmp_path, 'stock', 'MAE', 'MAEViT')
    weight_zero = train(
        python,
        tmp_path,
        'ours',
        'PositionalLabelMAE',
        'PositionalMAEViT',
        pos_head=heads(loss_weight=0.0),
    )
    assert len(stock) == len(weight_zero) == 6
    assert [entry['loss_recon'] for entry in weight_zero] == [entry['loss'] for entry in stock]
    assert all({'apl_acc', 'rpl_acc'} <= set(entry) for entry in weight_zero)


@pytest.mark.parametrize(
    'mask_ratio, side',
    [
        (0.75, (16, 16)),
        (0, (16, 16)),  # the labels alone train
        (0.5, (12, 16)),
    ],
)
def test_labels_train_without_encoding(python, tmp_path, mask_ratio, side):
    grid_size = side[0] // 4, side[1] // 4
    log = train(
        python,
        tmp_path,
        'ours',
        'PositionalLabelMAE',
        'PositionalMAEViT',
        epochs=8,
        side=side,
        mask_ratio=mask_ratio,
        pos_encoding='none',
        pos_head=heads(grid_size),
    )

    def mean(name, entries):
        return sum(entry[name] for entry in entries) / len(entries)

    for name in 'loss_apl', 'loss_rpl', 'loss_recon':
        first, last = mean(name, log[:3]), mean(name, log[-3:])
        if name == 'loss_recon' and mask_ratio == 0:
            assert first == last == 0
        else:
            assert last < first, name
    checkpoint = torch.load(tmp_path / 'ours' / 'epoch_8.pth', weights_only=False)
    weights = checkpoint['state_dict']
    assert 'backbone.cls_token' in weights
    assert 'backbone.pos_embed' not in weights
