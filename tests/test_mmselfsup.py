"""The MAE extension under MMSelfSup 1.0, in an environment of its own."""
import json
import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
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
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder],
                   check=True)
    site, = folder.glob('lib/python*/site-packages')
    (site / 'base.pth').write_text(sysconfig.get_paths()['purelib'])
    python = folder / 'bin' / 'python'
    subprocess.run([
        sys.executable, '-m', 'pip', '--python', python, 'install', '-q',
        '--no-deps', *PACKAGES
    ], check=True)
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
        img_size=16, patch_size=4, mask_ratio=0.75),
    neck=dict(
        type='MAEPretrainDecoder', num_patches=16, patch_size=4, embed_dim=16,
        decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2),
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
            dict(type='PackSelfSupInputs', meta_keys=['img_path']),
        ]))
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3))
train_cfg = dict(by_epoch=True, max_epochs=2)
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
randomness = dict(seed=0)
log_level = 'INFO'
"""


def train(python, tmp_path, name, algorithm, encoder, **more):
    """Through MMSelfSup's own tools/train.py; returns its losses."""
    data = tmp_path / 'data'
    if not data.exists():
        make_images(data)
    config = tmp_path / f'{name}.py'
    config.write_text(
        CONFIG.format(
            algorithm=algorithm, encoder=encoder, more=more, data=str(data)))
    code = ('import os.path as osp, mmselfsup, poslabel_mm; '
            'print(osp.dirname(mmselfsup.__file__))')
    env = os.environ | dict(
        PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    where = subprocess.run([python, '-c', code], env=env, check=True,
                           capture_output=True, text=True).stdout.split()[-1]
    done = subprocess.run([
        python, Path(where) / '.mim' / 'tools' / 'train.py', config,
        '--work-dir', tmp_path / name
    ], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    log, = (tmp_path / name).glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_trains_under_mmselfsups_own_tool(python, tmp_path):
    stock = train(python, tmp_path, 'stock', 'MAE', 'MAEViT')
    weight_zero = train(
        python, tmp_path, 'ours', 'PositionalLabelMAE', 'PositionalMAEViT',
        pos_head=dict(
            type='poslabel_mm.PositionalLabelHead', in_channels=16,
            grid_size=4, loss_weight=0.))
    assert len(stock) == len(weight_zero) == 6
    assert [entry['loss_recon'] for entry in weight_zero] == [
        entry['loss'] for entry in stock]
    assert all('apl_acc' in entry for entry in weight_zero)
