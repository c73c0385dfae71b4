"""What tests/test_mm_projects.py runs, in an environment that has MMSegmentation."""

import copy
import json
import os
import os.path as osp
import re
import subprocess
import sys
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmengine.runner import save_checkpoint
from mmengine.structures import PixelData
from mmpretrain.models.utils import resize_pos_embed
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from PIL import Image

import poslabel_mm.mmseg  # noqa: F401  (registers)
from poslabel_mm import UserError, cli, config_path
from poslabel_mm.launch.checks.build import check_model
from poslabel_mm.tokens import PatchTokenReader

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = Path(config_path('segmentation/vit-b_fcn_ade20k')).parent


@pytest.fixture(autouse=True)
def mmseg_scope(mmpretrain_scope, no_run_before):
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield
    SegLocalVisualizer._instance_dict.clear()


# ------------------------------------------------------------------------------------- the model

VIT = dict(
    type='mmpretrain.VisionTransformer',
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16),
    img_size=(16, 32),
    patch_size=8,
    out_type='featmap',
    out_indices=[0, 1],
)
FCN = dict(
    type='FCNHead',
    in_channels=16,
    in_index=1,
    channels=8,
    num_convs=1,
    concat_input=False,
    dropout_ratio=0.0,
    num_classes=3,
    norm_cfg=dict(type='BN'),
)


def apl(grid_size=(2, 4), in_channels=16, **kwargs):
    return dict(
        type='poslabel_mm.PositionalLabelHead',
        in_channels=in_channels,
        grid_size=grid_size,
        hidden_channels=8,
        feat_channels=8,
        **kwargs,
    )


RPL = dict(apl(), type='poslabel_mm.RelativePositionalLabelHead')


def build(type='PositionalLabelEncoderDecoder', backbone=VIT, decode_head=FCN, **kwargs):
    cfg = dict(
        type=type,
        backbone=backbone,
        decode_head=decode_head,
        data_preprocessor=dict(type='SegDataPreProcessor', size_divisor=8),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
        **kwargs,
    )
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg))
    model.init_weights()
    return model.train()


def batch(model, sizes=((16, 32),) * 2):
    """Images of these sizes and their segments, as the data preprocessor hands them on."""
    generator = torch.Generator().manual_seed(0)
    data = dict(inputs=[], data_samples=[])
    for size in sizes:
        data['inputs'].append(torch.randint(256, (3, *size), generator=generator))
        segments = torch.randint(3, (1, *size), generator=generator)
        data['data_samples'].append(SegDataSample(gt_sem_seg=PixelData(data=segments)))
    return model.data_preprocessor(data, True)


def read_by(head, monkeypatch):
    """What a position head is given from now on."""
    read, stock = [], head.loss
    monkeypatch.setattr(head, 'loss', lambda tokens: read.append(tokens) or stock(tokens))
    return read


def test_the_documented_names_have_docstrings():
    page = (ROOT / 'docs/api/models.md').read_text()
    names = re.findall(r'^::: poslabel_mm\.mmseg\.(\S+)$', page, re.M)
    assert len(names) == 2
    for name in names:
        assert vars(getattr(poslabel_mm.mmseg, name))['__doc__'], name


def test_weight_zero_trains_as_the_stock_model():
    stock = build('EncoderDecoder')
    heads = [apl(loss_weight=0.0), dict(RPL, loss_weight=0.0)]
    ours = build(pos_head=heads)
    weights = {k: v for k, v in ours.state_dict().items() if not k.startswith('pos_head.')}
    assert list(weights) == list(stock.state_dict())
    gradients = []
    for model in stock, ours:
        losses = model(**batch(model), mode='loss')
        model.parse_losses(losses)[0].backward()
        gradients.append({k: p.grad for k, p in model.named_parameters() if p.grad is not None})
        gradients[-1]['decode.loss_ce'] = losses['decode.loss_ce'].detach()
    assert {'loss_apl', 'apl_acc', 'loss_rpl', 'rpl_acc'} < set(losses)
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())
    stock.eval(), ours.eval()
    assert 'loss_apl' not in ours(**batch(ours), mode='loss')
    images = batch(stock)['inputs']
    assert torch.equal(stock(images), ours(images))
    assert not stock.load_state_dict(ours.state_dict(), strict=False).missing_keys


@pytest.mark.parametrize('auxiliary', [False, True])
def test_the_heads_read_what_is_no_padding(auxiliary, monkeypatch):
    if auxiliary:
        head = dict(type='PositionalLabelAuxiliaryHead', pos_head=apl())
        model = build('EncoderDecoder', auxiliary_head=head)
        read = read_by(model.auxiliary_head.pos_head, monkeypatch)
    else:
        model = build(pos_head=apl())
        read = read_by(model.pos_head, monkeypatch)
    data = batch(model, [(16, 32), (9, 16), (8, 20), (16, 17)])
    losses = model(**data, mode='loss')
    prefix = 'aux.' if auxiliary else ''
    # In a grid of 2 x 4.
    assert [group.indices.tolist() for group in read] == [
        [[0, 1, 2]],
        [[0, 1, 4, 5]],
        [[0, 1, 2, 4, 5, 6]],
        [[0, 1, 2, 3, 4, 5, 6, 7]],
    ]
    images = {3: 2, 4: 1, 6: 3, 8: 0}
    _, tokens = model.backbone(data['inputs'])
    for group in read:
        image = images[group.tokens.shape[1]]
        expected = tokens[image].flatten(1).T[group.indices[0]]
        assert torch.allclose(group.tokens[0], expected, atol=1e-6)
    head = model.auxiliary_head.pos_head if auxiliary else model.pos_head
    alone = [head.loss(group)['loss_apl'] for group in list(read)]
    assert torch.allclose(losses[f'{prefix}loss_apl'], sum(alone) / 4)


def test_a_crop_that_is_no_square_has_its_own_grid_or_is_rescaled(monkeypatch):
    with pytest.raises(UserError, match=r'model.pos_head.grid_size=.* built for a 2x4 patch grid'):
        build(pos_head=apl(4))
    model = build(pos_head=apl(4, on_grid_mismatch='rescale'))
    losses = model(**batch(model), mode='loss')
    assert torch.isfinite(losses['loss_apl'])
    model = build(pos_head=apl())
    with pytest.raises(UserError, match=r"The input has a 4x4 patch grid .*'rescale'"):
        model(**batch(model, [(32, 32)]), mode='loss')


def test_the_neck_reads_another_layer():
    neck = dict(type='poslabel_mm.PatchTokenNeck', stage=0)
    model = build(pos_head=apl(), pos_neck=neck)
    images = batch(model)['inputs']
    first, _ = model.backbone(images)
    first = torch.nn.functional.layer_norm(first.flatten(2).mT, (16,), eps=1e-6)
    assert torch.allclose(model.patch_tokens(images).tokens, first, atol=1e-5)


@pytest.mark.parametrize(
    'backbone, channels, grid',
    [
        (
            dict(
                type='VisionTransformer',
                img_size=(16, 32),
                patch_size=8,
                embed_dims=16,
                num_layers=2,
                num_heads=2,
                out_indices=(0, 1),
            ),
            16,
            (2, 4),
        ),
        (
            dict(
                type='SwinTransformer',
                embed_dims=8,
                depths=(1, 1),
                num_heads=(1, 1),
                strides=(4, 2),
                out_indices=(0, 1),
            ),
            16,
            (2, 4),
        ),
        (
            dict(
                type='MixVisionTransformer',
                embed_dims=8,
                num_stages=2,
                num_layers=[1, 1],
                num_heads=[1, 2],
                patch_sizes=[7, 3],
                sr_ratios=[2, 1],
                strides=[4, 2],
                out_indices=(0, 1),
            ),
            16,
            (2, 4),
        ),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
def test_backbones_of_mmsegmentation_are_read(backbone, channels, grid):
    model = build(backbone=backbone, pos_head=apl(grid, channels))
    patch_tokens = model.patch_tokens(batch(model)['inputs'])
    assert patch_tokens.grid_shape == grid and patch_tokens.indices is None
    model.backbone.eval()
    last = model.backbone(batch(model)['inputs'])[-1]
    last = last.flatten(2).mT
    if backbone['type'] == 'VisionTransformer':  # it has no norm after its last layer
        last = torch.nn.functional.layer_norm(last, (channels,))
    reader = PatchTokenReader(model.backbone)
    with reader:
        model.backbone(batch(model)['inputs'])
    assert torch.allclose(reader.take().tokens, last, atol=1e-5)


@pytest.mark.parametrize(
    'head, message',
    [
        (
            dict(pos_head=dict(type='poslabel_mm.SwappedEncodingHead', in_channels=16)),
            'SwappedEncodingHead needs more than a feature map',
        ),
        (dict(pos_head=dict(FCN)), 'FCNHead is no position head'),
        (dict(pos_head=None), 'model.auxiliary_head.pos_head'),
        (dict(pos_head=apl(), in_index='last'), 'model.auxiliary_head.in_index'),
    ],
)
def test_auxiliary_heads_that_are_refused(head, message):
    with pytest.raises(UserError, match=message):
        build('EncoderDecoder', auxiliary_head=dict(type='PositionalLabelAuxiliaryHead', **head))


def test_models_that_are_refused():
    for kwargs in dict(), dict(pos_head=None):
        with pytest.raises(UserError, match='PositionalLabelEncoderDecoder has no pos_head'):
            build(**kwargs)
    head = dict(type='PositionalLabelAuxiliaryHead', pos_head=apl(), in_index=2)
    model = build('EncoderDecoder', auxiliary_head=head)
    message = 'auxiliary_head.in_index=2 is refused: there are 2 feature maps; .* from -1 to 1'
    with pytest.raises(UserError, match=message):
        model(**batch(model), mode='loss')
    # A tool of ours finds it before the run.
    neck = dict(type='MultiLevelNeck', in_channels=[16, 16], out_channels=16, scales=[2, 1])
    for parts in dict(backbone=VIT), dict(backbone=VIT, neck=neck):
        cfg = dict(type='EncoderDecoder', decode_head=FCN, auxiliary_head=head, **parts)
        with pytest.raises(UserError, match=message):
            check_model(Config(dict(default_scope='mmseg', model=cfg)))


# ----------------------------------------------------------------------------------- the configs

SMALL_VIT = dict(embed_dims=32, num_layers=12, num_heads=2, feedforward_channels=8)
SMALL_SWIN = dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2])


def shrunk(backbone: dict) -> dict:
    """A shipped config's backbone with layers of a few channels."""
    backbone = copy.deepcopy(backbone)
    backbone['arch'] = SMALL_SWIN if 'Swin' in backbone['type'] else SMALL_VIT
    return backbone


NORMS = {f'norm{i}.{name}' for i in range(3) for name in ('weight', 'bias')}


@pytest.mark.parametrize(
    'name, resized, new',
    [
        ('vit-b_apl_fcn', {'pos_embed'}, set()),
        ('vit-b_upernet', {'pos_embed'}, set()),
        ('vit-b_upernet_from-mae', {'pos_embed'}, set()),
        # Pre-trained without encoding.
        ('vit-b_apl_upernet_from-mae', set(), {'pos_embed'}),
        ('swin-t_apl_fcn', set(), set()),
        # Of the stages before the last, which a classifier does not return.
        ('swin-t_upernet', set(), NORMS),
    ],
)
def test_every_tensor_of_a_checkpoint_is_accounted_for(name, resized, new, tmp_path):
    cfg = Config.fromfile(CONFIGS / f'{name}_ade20k.py').model
    init_cfg = cfg.backbone.init_cfg
    source = osp.basename(osp.dirname(init_cfg.checkpoint))
    pretrained = Config.fromfile(config_path(source))
    assert f'/epoch_{pretrained.train_cfg.max_epochs}.pth' in init_cfg.checkpoint
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        encoder = ROOT_MODELS.build(shrunk(pretrained.model.backbone))
        encoder.init_weights()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    holder = torch.nn.Module()
    holder.backbone = encoder
    save_checkpoint(dict(state_dict=holder.state_dict()), str(tmp_path / 'made_here.pth'))

    backbone = shrunk(cfg.backbone)
    backbone['init_cfg']['checkpoint'] = str(tmp_path / 'made_here.pth')
    backbone = MODELS.build(backbone)
    before = copy.deepcopy(backbone.state_dict())
    backbone.init_weights()
    after, saved = backbone.state_dict(), encoder.state_dict()
    assert set(saved) - set(after) == set()  # none is lost
    assert set(after) - set(saved) == new
    assert {key for key in saved if saved[key].shape != after[key].shape} == resized
    for key in saved:
        expected = saved[key]
        if key in resized:
            expected = resize_pos_embed(expected, (14, 14), (32, 32), 'bicubic', 1)
        assert torch.equal(after[key], expected), key
    for key in NORMS & new:
        assert torch.equal(after[key], before[key])


def test_configs_resolve():
    names = sorted(path.name for path in CONFIGS.glob('*_ade20k.py'))
    assert len(names) == 10
    for name in names:
        cfg = Config.fromfile(CONFIGS / name)
        assert cfg.model.get('pretrained') is None
        assert ('pos_head' in cfg.model) == ('_apl_' in name)
        assert cfg.model.data_preprocessor.size == (512, 512)
        text = (CONFIGS / name).read_text()
        assert text.startswith('# ')
        assert f'\n#   tools/dist_train.sh configs/segmentation/{name} 8\n' in text
        assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size
        assert (f'of {name.partition("_")[0]}' in text) or 'MAE' in text


SNIPPETS = re.findall(
    '```python\n(.*?)```', (ROOT / 'docs/segmentation.md').read_text('utf-8'), re.DOTALL
)


@pytest.mark.parametrize('text', SNIPPETS, ids=['own data', 'own model', 'auxiliary'])
def test_the_documented_configs_give_losses(text, tmp_path):
    (tmp_path / 'documented.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'documented.py')
    assert cfg.model.decode_head.num_classes == (3 if 'classes' in cfg else 19)
    auxiliary = cfg.model.auxiliary_head
    stock_auxiliary = auxiliary[0] if isinstance(auxiliary, list) else auxiliary
    cfg.model.decode_head.channels = stock_auxiliary.channels = 8
    if cfg.model.backbone.type == 'SwinTransformer':
        cfg.model.backbone.depths = [1] * 4
    else:
        cfg.model.neck.out_channels = stock_auxiliary.in_channels = 8
        cfg.model.decode_head.in_channels = [8] * 4
        cfg.model.backbone.update(
            arch=dict(SMALL_VIT, embed_dims=768, num_layers=4), out_indices=[0, 1, 2, 3]
        )
        del cfg.model.backbone.init_cfg
    model = MODELS.build(cfg.model).train()
    with torch.no_grad():
        losses = model(**batch(model, [(512, 300)] * 2), mode='loss')
    assert torch.isfinite(losses['aux_1.loss_apl' if 'Auxiliary' in text else 'loss_apl'])


# ---------------------------------------------------------------------------------------- a run

TINY = """
_base_ = {base}
data_preprocessor = dict(size=(32, 32))
shapes = dict(
    type='BaseSegDataset',
    data_root='shapes',
    metainfo=dict(classes=('ground', 'green', 'blue')),
)
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
crop = dict(type='RandomCrop', crop_size=(32, 32))
pack = dict(type='PackSegInputs')
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        _delete_=True,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=[*load, crop, pack],
        **shapes,
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        _delete_=True,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=[*load, pack],
        **shapes,
    ),
)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=3, val_interval=3)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
log_level = 'ERROR'
randomness = dict(seed=0)
"""
VIT_UPERNET = """
arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16)
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        arch=dict(_delete_=True, **arch),
        img_size=32,
        patch_size=8,
        out_indices=[0, 1],
        drop_path_rate=0.0,
        init_cfg=dict(checkpoint='classifier.pth'),
    ),
    neck=dict(in_channels=[16, 16], out_channels=8, scales=[2, 1]),
    decode_head=dict(
        in_channels=[8, 8], in_index=[0, 1], channels=8, num_classes=3, pool_scales=(1, 2),
        dropout_ratio=0.0,
    ),
    auxiliary_head=dict(
        in_channels=8, in_index=1, channels=8, num_classes=3, dropout_ratio=0.0,
    ),
    pos_head=dict(in_channels=16, grid_size=4, hidden_channels=8, feat_channels=8),
    test_cfg=dict(mode='whole'),
)
"""
SWIN_FCN = """
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=8, depths=[1] * 3, num_heads=[1] * 3),
        window_size=2,
        out_indices=(2,),
        init_cfg=None,
    ),
    decode_head=dict(in_channels=32, channels=8, num_classes=3),
    pos_head=dict(in_channels=32, grid_size=4, hidden_channels=8, feat_channels=8),
)
"""


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A folder with a dataset in MMSegmentation's layout, and a classifier's checkpoint."""
    folder = tmp_path_factory.mktemp('project')
    rng = np.random.default_rng(0)
    for split in 'training', 'validation':
        for kind in 'images', 'annotations':
            (folder / 'shapes' / kind / split).mkdir(parents=True)
        for i in range(4):
            height, width = [(40, 36), (28, 40)][i % 2]  # the second is padded
            image = rng.integers(0, 80, (height, width, 3), dtype=np.uint8)
            segments = np.zeros((height, width), np.uint8)
            for label in 1, 2:
                y, x = rng.integers(0, height - 12), rng.integers(0, width - 12)
                image[y : y + 12, x : x + 12, label] = 220
                segments[y : y + 12, x : x + 12] = label
            Image.fromarray(image).save(folder / f'shapes/images/{split}/{i}.jpg')
            Image.fromarray(segments).save(folder / f'shapes/annotations/{split}/{i}.png')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        classifier = ROOT_MODELS.build(
            dict(
                type='poslabel_mm.PositionalLabelClassifier',
                backbone=dict(VIT, out_type='cls_token', out_indices=-1, img_size=16),
                head=dict(type='VisionTransformerClsHead', num_classes=2, in_channels=16),
                pos_head=apl(2),
            )
        )
    save_checkpoint(dict(state_dict=classifier.state_dict()), str(folder / 'classifier.pth'))
    return folder


def write(project, name, base, text):
    (project / f'{name}.py').write_text(TINY.format(base=base) + text)


def logged(project, name):
    """The lines of a run's last log: of iterations, and of validations."""
    log = sorted((project / 'work_dirs' / name).glob('*/vis_data/scalars.json'))[-1]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [x for x in lines if 'loss' in x], [x for x in lines if 'mIoU' in x]


def test_a_run_from_a_classifier_is_trained_validated_resumed_and_tested(
    project, monkeypatch, capsys
):
    monkeypatch.chdir(project)
    write(
        project, 'vit', repr('poslabel_mm::segmentation/vit-b_apl_upernet_ade20k.py'), VIT_UPERNET
    )
    assert cli.main(['train', 'vit.py']) == 0
    steps, (validation,) = logged(project, 'vit')
    assert len(steps) == 3 and {'decode.loss_ce', 'aux.loss_ce', 'loss_apl'} < set(steps[0])
    assert 0 <= validation['mIoU'] <= 100

    SegLocalVisualizer._instance_dict.clear()
    longer = ['--cfg-options', 'train_cfg.max_iters=4', 'train_cfg.val_interval=4']
    assert cli.main(['train', 'vit.py', '--resume', *longer]) == 0
    (step,), _ = logged(project, 'vit')
    assert step['step'] == 4

    SegLocalVisualizer._instance_dict.clear()
    assert cli.main(['test', 'vit.py', 'work_dirs/vit/iter_4.pth']) == 0

    capsys.readouterr()
    missing = 'model.backbone.init_cfg.checkpoint=missing.pth'
    with pytest.raises(SystemExit, match='1'):
        cli.main(['train', 'vit.py', '--work-dir', 'other', '--cfg-options', missing])
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith('error: checkpoint missing.pth does not exist: train that model first')
    assert not (project / 'other').exists()


def test_mmsegmentations_own_tool_trains_a_shipped_config(project, monkeypatch):
    monkeypatch.chdir(project)
    base = "__import__('poslabel_mm').config_path('segmentation/swin-t_apl_fcn_ade20k.py')"
    write(project, 'swin', base, SWIN_FCN)
    tool = Path(mmseg.__file__).parent / '.mim/tools/train.py'
    # A process of its own: here poslabel_mm.mmseg is imported already.
    done = subprocess.run(
        [sys.executable, tool, 'swin.py'],
        env=os.environ | dict(LOCAL_RANK='0'),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    steps, (validation,) = logged(project, 'swin')
    assert len(steps) == 3 and {'decode.loss_ce', 'loss_apl'} < set(steps[0])
    assert 0 <= validation['mIoU'] <= 100


def test_the_pages_first_config_is_trained(project, monkeypatch):
    """With its folders, a small model and small images."""
    monkeypatch.chdir(project)
    page = (ROOT / 'docs/segmentation.md').read_text()
    Path('my_segmentation.py').write_text(
        re.search(r'^```python\n(.+?)^```', page, re.M | re.S)[1]
    )
    Path('data').mkdir()
    Path('data/mine').symlink_to(project / 'shapes')
    small = "_base_ = './my_segmentation.py'\ndata_preprocessor = dict(size=(32, 32))\n"
    Path('small.py').write_text(small + VIT_UPERNET.replace('num_classes=3, ', ''))
    options = [
        'train_dataloader.dataset.pipeline.2.scale=(64,40)',
        'train_dataloader.dataset.pipeline.3.crop_size=(32,32)',
        'val_dataloader.dataset.pipeline.1.scale=(64,40)',
        'train_cfg.max_iters=1',
        'train_cfg.val_interval=1',
        'default_hooks.logger.interval=1',
    ]
    for loader in 'train_dataloader', 'val_dataloader':
        options += [f'{loader}.num_workers=0', f'{loader}.persistent_workers=False']
    assert cli.main(['train', 'small.py', '--cfg-options', *options]) == 0
    steps, (validation,) = logged(project, 'small')
    assert {'decode.loss_ce', 'aux.loss_ce', 'loss_apl'} < set(steps[0])
    assert 0 <= validation['mIoU'] <= 100


# -------------------------------------------------------------------------------- a small study

SCENES = """
title: Segmentation
tables:
  - id: 1
    title: Labels
    metric: {mIoU: mIoU}
    columns: {pixels right: aAcc}
    rows:
      - id: scratch
        name: from its first weights
        config: segmentation/vit-micro_fcn_fashion-scenes.py
        options: [model.backbone.init_cfg=None]
      - {id: vit, name: ViT, config: segmentation/vit-micro_fcn_fashion-scenes.py, pretrain: vit-micro_apl_imagenette.py, baseline: scratch}
      - {id: labels, name: labels, config: segmentation/vit-micro_apl_fcn_fashion-scenes.py, pretrain: vit-micro_apl_imagenette.py, baseline: vit}
"""  # noqa: E501


def write_garments(folder):
    """Fashion-MNIST's four files with a few light garments."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for side, count in ('train', 12), ('t10k', 6):
        for kind, array in (
            ('images-idx3', rng.integers(32, 256, (count, 28, 28))),
            ('labels-idx1', rng.integers(0, 10, count)),
        ):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, '>i4').tobytes()
            path = folder / f'{side}-{kind}-ubyte'
            path.write_bytes(head + array.astype(np.uint8).tobytes())


def test_a_study_of_segmentation_is_trained_tested_and_tabulated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_garments(tmp_path / 'data' / 'fashion_mnist')
    for side in 'train', 'val':
        for label in range(10):
            folder = tmp_path / 'data' / 'imagenette' / side / f'n{label}'
            folder.mkdir(parents=True)
            for i in range(1 + 6 * (side == 'train')):
                Image.new('RGB', (90, 90), (25 * label, 90, 30 * i)).save(folder / f'{i}.JPEG')
    (tmp_path / 'scenes.yml').write_text(SCENES)
    small = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'param_scheduler=None']
    # A classifier's loader has no such option.
    scenes = [
        f'{side}_dataloader.dataset.{option}'
        for side, n in (('train', 6), ('val', 3), ('test', 3))
        for option in (f'num_scenes={n}', 'garments=2')
    ]
    manifest = yaml.safe_load(SCENES)
    for row in manifest['tables'][0]['rows']:
        row['options'] = [*row.get('options', []), *scenes]
    (tmp_path / 'scenes.yml').write_text(yaml.safe_dump(manifest))
    arguments = ['--manifest', 'scenes.yml', '--all', '--cfg-options', *small]
    assert cli.main(['reproduce', *arguments]) == 0
    out = capsys.readouterr().out
    assert re.search(r'vit-micro_apl_fcn_fashion-scenes\S*, seed 0: mIoU \d+\.\d\d %', out)
    (results,) = tmp_path.glob('work_dirs/*/*/results.md')
    text = results.read_text()
    assert '| measured mIoU | gain in mIoU | seeds | pixels right |' in text
    lines = [
        line for line in text.splitlines() if '`segmentation' in line or 'fcn_fashion' in line
    ]
    assert len(lines) == 3 and all(re.search(r'\| \d+\.\d\d \|', line) for line in lines)
    assert f'onedl-mmsegmentation {mmseg.__version__}' in text  # beside the stack's versions
    # Done is done.
    assert cli.main(['reproduce', *arguments]) == 0
    assert '0 of 4 runs to be done' in capsys.readouterr().out
