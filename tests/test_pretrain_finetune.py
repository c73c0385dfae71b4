"""Pre-training and fine-tuning, their configs, and both in one command."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from in_process import InProcess
from mmengine.config import Config
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample
from tiny_run import make_images, weights, write_config

from poslabel_mm import UserError, config_path
from poslabel_mm.experiments import chain, work
from poslabel_mm.experiments.chain_run import chain_of
from poslabel_mm.launch import tools as launch

PAIRS = {
    'mae-vit-b_in1k.py': 'vit-b_from-mae_in1k.py',
    'mae-vit-b_apl_in1k.py': 'vit-b_apl_from-mae_in1k.py',
    'mae-vit-b_rpl_in1k.py': 'vit-b_rpl_from-mae_in1k.py',
    'mae-vit-b_axial_in1k.py': 'vit-b_axial_from-mae_in1k.py',
    'mae-vit-tiny_digits.py': 'vit-tiny_from-mae_digits.py',
    'mae-vit-tiny_apl_digits.py': 'vit-tiny_apl_from-mae_digits.py',
    'mae-vit-tiny_rpl_digits.py': 'vit-tiny_rpl_from-mae_digits.py',
    'mae-vit-tiny_axial_digits.py': 'vit-tiny_axial_from-mae_digits.py',
}
every_pair = pytest.mark.parametrize('pretraining, finetuning', PAIRS.items())
LABELS = dict(
    apl='poslabel_mm.PositionalLabelHead',
    rpl='poslabel_mm.RelativePositionalLabelHead',
    axial='poslabel_mm.AxialRelativeLabelHead',
)


def load(name):
    return Config.fromfile(config_path(name))


@every_pair
def test_finetuning_starts_where_pretraining_ends(pretraining, finetuning):
    first, second = load(pretraining), load(finetuning)
    start = second.model.backbone.init_cfg
    assert start.type == 'Pretrained' and start.prefix == 'backbone.'
    assert start.checkpoint == (
        f'work_dirs/{Path(pretraining).stem}/epoch_{first.train_cfg.max_epochs}.pth'
    )
    assert second.model.backbone.pos_encoding == 'learned_sincos'


@every_pair
def test_labels_and_encoding_are_where_they_should_be(pretraining, finetuning):
    first, second = load(pretraining), load(finetuning)
    kind = next((kind for kind in LABELS if f'_{kind}_' in pretraining), None)
    assert first.model.backbone.get('mask_ratio', 0.75) == 0.75
    for cfg in first, second:
        pos_head = cfg.model.get('pos_head', dict())
        assert pos_head.get('type') == LABELS.get(kind)
    assert first.model.backbone.get('pos_encoding') == (kind and 'none')


@every_pair
def test_runs_can_be_stopped_and_gone_on_with(pretraining, finetuning):
    for cfg in load(pretraining), load(finetuning):
        hooks = {hook.type for hook in cfg.custom_hooks}
        assert hooks == {
            'poslabel_mm.EpochSeedHook',
            'poslabel_mm.NonFiniteLossHook',
            'poslabel_mm.StopSignalHook',
            'poslabel_mm.ResumeOptionsHook',
        }
        checkpoint = cfg.default_hooks.checkpoint
        assert checkpoint.type == 'poslabel_mm.AtomicCheckpointHook'
        assert checkpoint.max_keep_ckpts == 3
        assert '_scope_' not in cfg.visualizer and not cfg.resume


@pytest.mark.parametrize(
    'stock, ours',
    [
        ('mae/mae_vit-base-p16_8xb512-amp-coslr-400e_in1k.py', 'mae-vit-b_apl_in1k.py'),
        ('mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py', 'vit-b_apl_from-mae_in1k.py'),
    ],
)
def test_recipe_is_mmpretrains_own(tmp_path, stock, ours):
    (tmp_path / 'stock.py').write_text(f"_base_ = 'mmpretrain::{stock}'")
    expected = Config.fromfile(str(tmp_path / 'stock.py'))
    # MMEngine would pass it to the function, which takes no such argument.
    expected.train_dataloader.get('collate_fn', dict()).pop('_scope_', None)
    got = load(ours)
    for key in (
        'optim_wrapper',
        'param_scheduler',
        'train_cfg',
        'train_dataloader',
        'data_preprocessor',
        'auto_scale_lr',
    ):
        assert got.get(key) == expected.get(key), key
    assert got.model.get('neck') == expected.model.get('neck')
    assert got.model.head == expected.model.head


@every_pair
def test_models_are_built_and_trained(pretraining, finetuning):
    """With a smaller encoder, for ViT-B would take its time."""
    arch = dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=32)
    for cfg in load(pretraining), load(finetuning):
        model = cfg.model
        model.backbone.update(arch=arch, init_cfg=None)
        if 'pos_head' in model:
            model.pos_head.in_channels = 32
        if cfg.filename.endswith(pretraining):
            model.neck.update(embed_dim=32, decoder_embed_dim=16, decoder_depth=1)
            side = model.neck.patch_size * (14 if 'in1k' in pretraining else 6)
            model = MODELS.build(model)
            model.init_weights()
            losses = model.loss(torch.rand(2, 3, side, side), None)
            assert all(torch.isfinite(value) for value in losses.values())
        else:
            model.head.in_channels = 32
            MODELS.build(model).init_weights()


def test_finetuned_tokens_are_normalised_before_the_head_reads_them():
    """The recipe's norm comes after the tokens are averaged."""
    model = load('vit-b_apl_from-mae_in1k.py').model
    assert not model.backbone.final_norm
    model.backbone.update(
        img_size=32,
        init_cfg=None,
        arch=dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=32),
    )
    model.head.in_channels = 32
    model.pos_head.update(in_channels=32, grid_size=2)
    model.pop('train_cfg', None)  # no Mixup
    model = MODELS.build(model)
    seen = []
    model.pos_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.pos_head.loss = lambda patch_tokens: dict(
        loss_apl=model.pos_head(patch_tokens.tokens).sum()
    )
    model.loss(100 * torch.randn(2, 3, 32, 32), [DataSample().set_gt_label(0)] * 2)
    (tokens,) = seen
    assert tokens.shape == (2, 4, 32)
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.var(-1, unbiased=False), torch.ones(2, 4), atol=1e-2, rtol=0)


# ------------------------------------------------------------ the one command


PRETRAINING = """
_base_ = {base!r}
model = dict(
    _delete_=True,
    type='poslabel_mm.PositionalLabelMAE',
    backbone=dict(
        type='poslabel_mm.PositionalMAEViT', pos_encoding='none',
        arch=dict(
            embed_dims=16, num_layers=2, num_heads=2,
            feedforward_channels=32),
        img_size=16, patch_size=4),
    neck=dict(
        type='MAEPretrainDecoder', num_patches=16, patch_size=4, embed_dim=16,
        decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2),
    head=dict(
        type='MAEPretrainHead', norm_pix=True, patch_size=4,
        loss=dict(type='PixelReconstructionLoss', criterion='L2')),
    pos_head=dict(
        type='poslabel_mm.PositionalLabelHead', in_channels=16, grid_size=4))
data_preprocessor = dict(
    _delete_=True, type='SelfSupDataPreprocessor', mean=[127.] * 3,
    std=[60.] * 3)
test_dataloader = test_evaluator = test_cfg = None
param_scheduler = None
train_cfg = dict(max_epochs=1)
"""

FINETUNING = """
model['backbone'].update(
    type='poslabel_mm.PositionalVisionTransformer',
    pos_encoding='learned_sincos')
param_scheduler = None
train_cfg = dict(by_epoch=True, max_epochs=1)
"""


@pytest.fixture
def configs(tmp_path):
    data = make_images(tmp_path / 'train')
    finetuning = write_config(tmp_path, data, FINETUNING)
    pretraining = tmp_path / 'mae.py'
    pretraining.write_text(PRETRAINING.format(base=finetuning))
    return str(pretraining), finetuning


@pytest.fixture
def call(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('POSLABEL_MM_RESUME_COMMAND', '')

    def call(*argv):
        process = InProcess(monkeypatch)
        monkeypatch.setattr(work, 'ChildProcesses', process)
        assert chain.main([str(argument) for argument in argv]) == 0
        return process.tools

    return call


def test_from_pretraining_to_accuracy_in_one_command(call, configs, tmp_path, capfd):
    work = tmp_path / 'work'
    command = (*configs, '--work-dir', work, '--pretraining', 'model.backbone.mask_ratio=0.5')
    assert call(*command) == ['train.py', 'train.py', 'test.py']
    assert 'accuracy/top1: ' in capfd.readouterr().out
    first, second = work / 'mae' / 'seed0', work / 'tiny' / 'seed0'
    pretrained, tuned = (weights(folder / 'epoch_1.pth') for folder in (first, second))
    # One epoch of a small learning rate later, but not another drawing.
    for key in pretrained:
        if key.startswith('backbone.') and key in tuned:
            torch.testing.assert_close(tuned[key], pretrained[key], atol=0.1, rtol=0)
    assert 'backbone.pos_embed' not in pretrained
    assert tuned['backbone.pos_embed'].abs().max() > 0.9  # the sincos one

    # What Figure 8 is drawn from.
    logs = first.glob('*/vis_data/scalars.json')
    entry = json.loads(next(logs).read_text().splitlines()[0])
    assert {'loss_recon', 'loss_apl', 'apl_acc', 'epoch'} <= set(entry)
    assert Config.fromfile(first / 'mae.py').model.backbone.mask_ratio == 0.5

    # All of it is done; without the last steps, they are done again.
    assert call(*command) == []
    (second / 'metrics.json').unlink()
    (second / 'last_checkpoint').unlink()
    assert call(*command) == ['train.py', 'test.py']

    with pytest.raises(
        UserError,
        match='mae/seed0 was made with other settings, .*mask_ratio=0.5 '
        'and not 0.25: move it away, or choose another --work-dir',
    ):
        call(*command[:-1], 'model.backbone.mask_ratio=0.25')


@pytest.mark.parametrize(
    'options, message',
    [
        (
            ['--finetuning', 'model.backbone.arch.feedforward_channels=48'],
            r'encoders differ: .* \(32, 16\) in .*mae.py but \(48, 16\)',
        ),
        (
            ['--finetuning', 'model.backbone.arch.num_layers=3'],
            r'encoders differ: only .*tiny.py has layers.2.',
        ),
        (
            ['--pretraining', 'model.backbone.arch.num_layers=3'],
            r'encoders differ: only .*mae.py has layers.2.',
        ),
        (
            ['--finetuning', 'model.head.loss.num_classes=5'],
            r'head.num_classes is 2, but model.head.loss.num_classes is 5',
        ),
        (
            ['--pretraining', 'model.backbone.mask=0.5', 'model.neck'],
            'options of .*mae.py are KEY=VALUE pairs, got model.neck',
        ),
        (['--pretraining', 'model.neck.patch_size.a=1'], 'does not fit .*mae.py'),
        (['--finetuning', 'test_dataloader=None'], 'no test_dataloader'),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(
    call, configs, tmp_path, options, message
):
    with pytest.raises(UserError, match=message):
        call(*configs, '--work-dir', tmp_path / 'work', *options)
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize('left', ['nothing', 'epoch_1.pth'])
def test_a_finetuned_model_is_not_paired_with_another_pretraining(call, configs, tmp_path, left):
    """As after `rm -r work/mae`; nothing is trained, nothing lost."""
    work = tmp_path / 'work'
    run = chain_of(*configs, 0, work)
    for one in run.pretraining, run:
        one.claim().close()
        (one.folder / '20260101_000000').mkdir()
        one.checkpoint.write_text('weights')
    if left == 'nothing':
        shutil.rmtree(run.pretraining.folder)
    message = f'{run.folder} was trained from another pre-training than'
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            call(*configs, '--work-dir', work)
    assert run.checkpoint.read_text() == 'weights'


@pytest.mark.parametrize(
    'checkpoint, message',
    [
        ('', 'no checkpoint is named'),
        ('nowhere.pth', 'nowhere.pth does not exist'),
        (
            'smaller.pth',
            'smaller.pth is not of backbone: .* it has other sizes for '
            'patch_embed.projection.weight; name another with .*checkpoint=FILE',
        ),
        (
            'other.pth',
            "other.pth has nothing under the prefix 'backbone.': its keys begin with fc;",
        ),
    ],
)
def test_training_from_an_unfit_checkpoint_is_refused(
    configs, tmp_path, monkeypatch, capfd, checkpoint, message
):
    shape = (8, 3, 4, 4)
    torch.save(
        {'backbone.patch_embed.projection.weight': torch.zeros(shape)}, tmp_path / 'smaller.pth'
    )
    torch.save({'fc.weight': torch.zeros(1)}, tmp_path / 'other.pth')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'train.py',
            configs[1],
            '--work-dir',
            'work',
            '--cfg-options',
            'model.backbone.init_cfg.type=Pretrained',
            'model.backbone.init_cfg.prefix=backbone.',
            f'model.backbone.init_cfg.checkpoint={checkpoint}',
        ],
    )
    monkeypatch.setenv('LOCAL_RANK', '0')
    with pytest.raises(SystemExit) as left:
        launch.train()
    assert left.value.code == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and re.search(message, errors[0])
    assert not (tmp_path / 'work').exists()
