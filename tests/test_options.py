"""Each wrong option is one line with its key, when the model is built."""

import sys

import numpy as np
import pytest
import torch
from mmengine.registry import HOOKS, MODELS
from models import apl_head, batch, build, classifier, tiny_vit
from selfsup_models import ALGORITHMS, rpl_head
from tiny_run import make_images, write_config

from poslabel_mm import UserError, options
from poslabel_mm.launch import tools as launch
from poslabel_mm.launch.build_errors import build_error_line
from poslabel_mm.models import (
    PatchTokenNeck,
    PositionalLabelHead,
    PositionalVisionTransformer,
    RelativePositionalLabelHead,
)

NAN = float('nan')
NOT_WHOLE = 'is refused: set it to a whole number from 1 on'


@pytest.mark.parametrize(
    'option, reason',
    [
        (dict(in_channels=0), f'=0 {NOT_WHOLE}'),
        (dict(in_channels=16.0), f'=16.0 {NOT_WHOLE}'),
        (
            dict(in_channels=32),
            '=32 does not fit: the patch tokens of VisionTransformer have 16 '
            'channels; set in_channels=16',
        ),
        (dict(hidden_channels=False), f'=False {NOT_WHOLE}'),
        (dict(hidden_channels=0), f'=0 {NOT_WHOLE}'),
        (dict(hidden_channels=np.bool_(True)), f'=np.True_ {NOT_WHOLE}'),
        (
            dict(feat_channels=10**400),
            ' is too large: the head would have more than 2**30 weights',
        ),
        (dict(feat_channels=[4]), f'=[4] {NOT_WHOLE}'),
        (dict(pairs_per_token=True), f'=True {NOT_WHOLE}'),
        (dict(pairs_per_token='3'), f"='3' {NOT_WHOLE}"),
        (dict(loss_weight=-0.5), '=-0.5 is refused: set it to a number from 0 to 1e+06'),
        (dict(loss_weight=NAN), '=nan is refused: set it to a number from 0 to 1e+06'),
        (dict(loss_weight=1e30), '=1e+30 is refused: set it to a number from 0 to 1e+06'),
        (dict(loss_weight=True), '=True is refused: set it to a number from 0 to 1e+06'),
        (dict(loss_weight='0.5'), "='0.5' is refused: set it to a number from 0 to 1e+06"),
        (
            dict(grid_size=0),
            '=0 is refused: a patch grid is a positive int or a pair (H, W) of them',
        ),
        (
            dict(grid_size=(4, 5)),
            '=(4, 5) does not fit: VisionTransformer was built for a 4x4 patch '
            'grid; set grid_size=(4, 4), or model.backbone.img_size to the size of the images',
        ),
        (dict(grid_size=10**9), ' is too large: the head would have more than 2**30 weights'),
        (
            dict(query_channels=3),
            "=3 is unknown; choose from ['first_half', 'second_half', 'all']",
        ),
        (dict(on_grid_mismatch=None), "=None is unknown; choose from ['error', 'rescale']"),
        (
            dict(init_cfg='Xavier'),
            "='Xavier' is refused: set it to None, a dict with a type, or a list of such dicts",
        ),
    ],
)
def test_a_wrong_option_of_a_head(option, reason):
    (key,) = option
    with pytest.raises(UserError) as error:
        build(classifier([apl_head(), rpl_head(**option)]))
    assert str(error.value) == f'model.pos_head.1.{key}{reason}'


@pytest.mark.parametrize(
    'make, line',
    [
        (lambda: PositionalLabelHead(16, 4, loss_weight=NAN), r'^loss_weight=nan '),
        (lambda: RelativePositionalLabelHead(16, 4, feat_channels=0), '^feat_channels=0 '),
        (lambda: PatchTokenNeck(stage=True), '^stage=True is refused'),
        (lambda: PatchTokenNeck(eps=-1), '^eps=-1 is refused: set it to a number from 0 to 1$'),
        (
            lambda: PositionalVisionTransformer(checkpoint_grid=(True, 4)),
            r'^checkpoint_grid=\(True, 4\) is no patch grid: set it to \(rows, columns\)$',
        ),
    ],
)
def test_a_part_built_alone_names_the_key_alone(make, line):
    with pytest.raises(UserError, match=line):
        make()


@pytest.mark.parametrize(
    'cfg, line',
    [
        (classifier(apl_head(loss_weight=-1)), r'^model\.pos_head\.loss_weight=-1 '),
        (
            classifier(apl_head(), pos_neck=dict(type='poslabel_mm.PatchTokenNeck', stage=2)),
            r'^model\.pos_neck\.stage=2 is refused: VisionTransformer has no such stage; '
            r'choose from 0 to 1$',
        ),
        (
            classifier(
                apl_head(grid_size=2), pos_neck=dict(type='poslabel_mm.PatchTokenNeck', stage=0)
            ),
            r'^model\.pos_head\.grid_size=\(2, 2\) does not fit: VisionTransformer .* 4x4',
        ),
        (classifier(apl_head(), pos_neck='x'), r"^model\.pos_neck='x' is refused"),
        (
            classifier(
                apl_head(),
                tiny_vit(type='poslabel_mm.PositionalVisionTransformer', pos_encoding=['none']),
            ),
            r"^model\.backbone\.pos_encoding=\['none'\] is unknown",
        ),
        (
            classifier(dict(in_channels=16)),
            r'^model\.pos_head=.* is refused: set it to a dict with a',
        ),
        (
            classifier([apl_head(), dict(type='ReLU')]),
            r'^model\.pos_head\.1: ReLU is no position head',
        ),
    ],
)
def test_a_wrong_option_of_a_model(cfg, line):
    with pytest.raises(UserError, match=line):
        build(cfg)


@pytest.mark.parametrize('ratio', ['0.75', None, True, [0.75]])
def test_a_ratio_of_the_wrong_type(ratio):
    cfg = ALGORITHMS['MAE'].cfg()
    cfg['backbone']['mask_ratio'] = ratio
    cfg.update(type='poslabel_mm.PositionalLabelMAE', pos_head=apl_head())
    with pytest.raises(UserError, match=r'^model\.backbone\.mask_ratio=.* is refused'):
        build(cfg)


def test_scalars_of_numpy_and_torch_are_numbers():
    head = build(
        rpl_head(
            in_channels=np.int32(16),
            grid_size=[np.int64(4), 4],
            hidden_channels=torch.tensor(6),
            pairs_per_token=np.uint8(3),
            loss_weight=np.float32(0.25),
        )
    )
    found = (
        head.in_channels,
        head.grid_shape,
        head.fc1.out_features,
        head.pairs_per_token,
        head.loss_weight,
    )
    assert found == (16, (4, 4), 6, 3, 0.25)
    assert {type(value) for value in found} == {int, tuple, float}


def swin(grid_size, stage=None, **backbone):
    return classifier(
        apl_head(in_channels=8 if stage == 0 else 32, grid_size=grid_size),
        backbone=dict(
            type='SwinTransformer',
            window_size=2,
            arch=dict(embed_dims=8, depths=[1, 1, 1], num_heads=[1, 1, 1]),
            out_indices=(2,),
        )
        | backbone,
        neck=dict(type='GlobalAveragePooling'),
        pos_neck=None if stage is None else dict(type='poslabel_mm.PatchTokenNeck', stage=stage),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=32),
    )


# 20x36 px are 5x9 patches; a merging rounds up.
@pytest.mark.parametrize('stage, grid', [(None, (2, 3)), (0, (5, 9))])
def test_the_grid_of_a_swins_stages(stage, grid):
    images = batch(2, 20, 36)
    assert 'loss_apl' in build(swin(grid, stage, img_size=(20, 36))).loss(*images)
    with pytest.raises(UserError, match=rf'grid_size=\(3, 2\).* a {grid[0]}x{grid[1]} patch grid'):
        build(swin((3, 2), stage, img_size=(20, 36)))
    # A Swin has nothing of the size that it is built for: its default says nothing.
    assert 'loss_apl' in build(swin(grid, stage)).loss(*images)


def test_other_images_are_seen_when_they_come():
    model = build(classifier(apl_head(on_grid_mismatch='rescale', grid_size=3)))
    assert 'loss_apl' in model.loss(*batch(2, 16, 20))
    with pytest.raises(UserError, match='4x5 patch grid'):
        build(classifier(apl_head())).loss(*batch(2, 16, 20))


def test_a_value_is_shown_in_short():
    error = options.wrong('key', 'x' * 10**6 + '\n', 'is wrong')
    assert len(str(error)) < 100 and '\n' not in str(error)


@pytest.mark.parametrize(
    'text, line',
    [
        (
            "model['pos_head'][1]['feat_chanels'] = 3",
            "model.pos_head.1: RelativePositionalLabelHead takes no option 'feat_chanels'; did "
            'you mean feat_channels?',
        ),
        (
            "model['pos_head'][1].pop('in_channels')",
            "model.pos_head.1: RelativePositionalLabelHead lacks 'in_channels'",
        ),
        (
            "model['backbone']['patchsize'] = 3",
            "model.backbone: VisionTransformer takes no option 'patchsize'; did you mean "
            'patch_size?',
        ),
        (
            "model['pos_head'][1]['type'] = 'poslabel_mm.Nope'",
            'model.pos_head.1: poslabel_mm.Nope is not in the mmpretrain::model registry\n',
        ),
        (
            "model['pos_head'][1] = 'RelativePositionalLabelHead'",
            "model.pos_head.1='RelativePositionalLabelHead' is refused: set it to a dict with a "
            'type',
        ),
        ("model['pos_head'][1]['loss_weight'] = -1", 'model.pos_head.1.loss_weight=-1 is refused'),
        # MMPretrain's own classifier builds our backbone.
        (
            "model.pop('pos_head'); model['type'] = 'ImageClassifier'; model['backbone'].update("
            "type='poslabel_mm.PositionalVisionTransformer', pos_encoding='rotary')",
            "model.backbone.pos_encoding='rotary' is unknown; choose from",
        ),
    ],
)
def test_the_tools_print_one_line(tmp_path, monkeypatch, capfd, text, line):
    data = make_images(tmp_path / 'train')
    config = write_config(tmp_path, data, f'{text}\n')
    monkeypatch.setattr(sys, 'argv', ['train.py', config, '--work-dir', str(tmp_path / 'run')])
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('POSLABEL_MM_RESUME_COMMAND', '')
    with pytest.raises(SystemExit) as left:
        launch.train()
    error = capfd.readouterr().err
    assert left.value.code == 1
    assert f'error: {line}' in error and 'Traceback' not in error
    assert not (tmp_path / 'run').exists()


def test_a_part_of_no_model_is_named_by_its_class():
    with pytest.raises(TypeError) as error:
        HOOKS.build(dict(type='LoggerHook', intervall=1))
    assert build_error_line(error.value) == (
        "LoggerHook takes no option 'intervall'; did you mean interval?"
    )


class Broken(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        torch.nn.Linear(2, 2, scale=scale)


def test_a_fault_inside_of_a_part_keeps_its_traceback():
    """`scale` is an option that it takes; what it does with it is its own fault."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'scale'") as error:
        MODELS.build(dict(type=Broken, scale=2))
    assert build_error_line(error.value) is None
