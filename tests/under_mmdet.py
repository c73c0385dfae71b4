"""Detection, in an environment that has MMDetection: `bash tools/setup_env.sh mmdet`.

tests/test_mm_projects.py runs it without MMCV's operators, with the few that it needs in plain
torch.
"""

import copy
import json
import os
import os.path as osp
import re
import subprocess
import sys
from pathlib import Path

import mmcv_operators
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmengine.runner import save_checkpoint
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from mmengine.structures import InstanceData
from PIL import Image
from torch.distributed import HashStore
from torch.distributed.fsdp import FullyShardedDataParallel

DIST_TRAIN = Path(__file__).resolve().parents[1] / 'tools/dist_train.sh'
STAND_IN = mmcv_operators.stand_in()

import mmdet.models  # noqa: E402
from mmcv.transforms import Pad  # noqa: E402
from mmdet.datasets.transforms import PackDetInputs  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.visualization import DetLocalVisualizer  # noqa: E402

import poslabel_mm.mmdet  # noqa: E402
from poslabel_mm import UserError, cli, config_path  # noqa: E402
from poslabel_mm.models.heads import PositionalLabelHead  # noqa: E402
from poslabel_mm.tokens import PatchTokens  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = Path(config_path('detection/vit-b_retinanet_coco')).parent
STOCK = Path(mmdet.__file__).parent / '.mim'
PAGE = (ROOT / 'docs/detection.md').read_text('utf-8')


@pytest.fixture(autouse=True)
def mmdet_scope(mmpretrain_scope, no_run_before):
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield
    DetLocalVisualizer._instance_dict.clear()


# ------------------------------------------------------------------------------------- the model

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16)
VIT = dict(
    type='mmpretrain.VisionTransformer',
    arch=ARCH,
    img_size=64,
    patch_size=8,
    out_type='featmap',
)
SWIN = dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2])
OURS = {
    'RetinaNet': 'PositionalLabelSingleStageDetector',
    'FasterRCNN': 'PositionalLabelTwoStageDetector',
}


def apl(grid_size=5, in_channels=16, **kwargs):
    return dict(
        type='poslabel_mm.PositionalLabelHead',
        in_channels=in_channels,
        grid_size=grid_size,
        hidden_channels=8,
        feat_channels=8,
        **{'on_grid_mismatch': 'rescale', **kwargs},
    )


RPL = dict(apl(), type='poslabel_mm.RelativePositionalLabelHead')


def build(stock, heads=(), backbone=VIT, **kwargs):
    """One of MMDetection's detectors on a small ViT, or ours if it is given position heads."""
    name = {'RetinaNet': 'retinanet', 'FasterRCNN': 'faster-rcnn'}[stock]
    cfg = Config.fromfile(STOCK / f'configs/_base_/models/{name}_r50_fpn.py').model
    assert cfg.type == stock
    cfg.backbone = copy.deepcopy(backbone)
    pyramid = dict(in_channels=16, out_channels=8, scales=(1, 0.5), num_outs=2)
    cfg.neck = dict(type='poslabel_mm.SimpleFeaturePyramid', **pyramid)
    dense = cfg.bbox_head if stock == 'RetinaNet' else cfg.rpn_head
    dense.update(in_channels=8, feat_channels=8)
    dense.anchor_generator.strides = [8, 16]
    if stock == 'RetinaNet':
        dense.update(stacked_convs=1, num_classes=2)
        cfg.test_cfg.score_thr = 0.0
    else:
        cfg.roi_head.bbox_roi_extractor.update(out_channels=8, featmap_strides=[8, 16])
        cfg.roi_head.bbox_head.update(in_channels=8, fc_out_channels=16, num_classes=2)
        cfg.train_cfg.rpn_proposal.max_per_img = cfg.test_cfg.rpn.max_per_img = 40
        cfg.train_cfg.rcnn.sampler.num = 16
    if heads:
        cfg.update(type=OURS[stock], pos_head=heads)
    cfg.update(kwargs)
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    return model.train()


SIZES = (40, 56), (64, 24), (23, 64), (40, 50)


def batch(model, sizes=SIZES, training=True):
    """Images of these sizes and two boxes in each, as the data preprocessor hands them on."""
    generator = torch.Generator().manual_seed(0)
    data = dict(inputs=[], data_samples=[])
    for height, width in sizes:
        data['inputs'].append(torch.randint(256, (3, height, width), generator=generator))
        boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.5, 1.0, 1.0]])
        sample = DetDataSample(
            gt_instances=InstanceData(
                bboxes=boxes * torch.tensor([width, height] * 2), labels=torch.tensor([0, 1])
            )
        )
        shape = (height, width)
        sample.set_metainfo(dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)))
        data['data_samples'].append(sample)
    return model.data_preprocessor(data, training)


def read_by(head, monkeypatch):
    """What a position head is given from now on."""
    read, stock = [], head.loss
    monkeypatch.setattr(head, 'loss', lambda tokens: read.append(tokens) or stock(tokens))
    return read


def test_the_documented_names_have_docstrings():
    page = (ROOT / 'docs/api/models.md').read_text()
    names = re.findall(r'^::: poslabel_mm\.mmdet\.(\S+)$', page, re.M)
    assert len(names) == 3
    for name in names:
        assert vars(getattr(poslabel_mm.mmdet, name))['__doc__'], name


@pytest.mark.parametrize('stock', OURS)
def test_weight_zero_trains_as_the_stock_model(stock):
    heads = [apl(loss_weight=0.0), dict(RPL, loss_weight=0.0)]
    stock, ours = build(stock), build(stock, heads)
    weights = {k: v for k, v in ours.state_dict().items() if not k.startswith('pos_head.')}
    assert list(weights) == list(stock.state_dict())
    trained = []
    for model in stock, ours:
        torch.manual_seed(1)  # which anchors are sampled
        losses = model(**batch(model), mode='loss')
        model.parse_losses(losses)[0].backward()
        of_stock = {k: v for k, v in losses.items() if k in trained[0]} if trained else losses
        values = {k: torch.stack(v) if isinstance(v, list) else v for k, v in of_stock.items()}
        values |= {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
        trained.append({k: v for k, v in values.items() if not k.startswith('pos_head.')})
    assert {'loss_apl', 'apl_acc', 'loss_rpl', 'rpl_acc'} < set(losses)
    before, after = trained
    assert list(before) == list(after) and len(before) > 20
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize('stock', OURS)
def test_tested_it_is_the_stock_model(stock, monkeypatch):
    stock, ours = build(stock), build(stock, apl())
    assert not stock.load_state_dict(ours.state_dict(), strict=False).missing_keys
    stock.eval(), ours.eval()
    del ours.pos_head  # which a test does without
    assert 'loss_apl' not in ours(**batch(ours), mode='loss')
    found = [model(**batch(model, training=False), mode='predict') for model in (stock, ours)]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.pred_instances.bboxes, other.pred_instances.bboxes)
        assert torch.equal(one.pred_instances.scores, other.pred_instances.scores)
    assert sum(len(one.pred_instances) for one in found[0]) > 0


@pytest.mark.parametrize('stock', OURS)
def test_a_token_is_labelled_with_its_place_in_the_image(stock, monkeypatch):
    model = build(stock, apl())
    read = read_by(model.pos_head, monkeypatch)
    data = batch(model)
    assert data['inputs'].shape[2:] == (64, 64)
    losses = model(**data, mode='loss')
    # Grids of patches of 8 pixels, and the images that have them.
    grids = {(5, 7): [0, 3], (8, 3): [1], (3, 8): [2]}
    assert [group.grid_shape for group in read] == list(grids)
    (maps,) = model.backbone(data['inputs'])
    for group, images in zip(list(read), grids.values(), strict=True):
        rows, columns = group.grid_shape
        own = maps[images, :, :rows, :columns].flatten(2).mT
        assert torch.allclose(group.tokens, own, atol=1e-6)
        # The centres of the patches, in the 5x5 grid of the head.
        y, x = (np.arange(n) * 8 + 4 for n in (rows, columns))
        expected = (y * 5 // (8 * rows))[:, None] * 5 + x * 5 // (8 * columns)
        places = model.pos_head.check(group).indices
        assert (places.numpy() == expected.flatten()).all()
    alone = [model.pos_head.loss(group)['loss_apl'] for group in list(read)]
    assert torch.allclose(losses['loss_apl'], (2 * alone[0] + alone[1] + alone[2]) / 4)


def test_labels_are_those_of_the_image_alone(monkeypatch):
    """Whatever its batch is padded to; sizes that the patches do not divide included."""
    fixed = dict(type='BatchFixedSizePad', size=(96, 88))
    resized = dict(type='BatchSyncRandomResize', random_size_range=(128, 128))
    model = build('RetinaNet', apl())
    read = read_by(model.pos_head, monkeypatch)
    MessageHub.get_current_instance().update_info('iter', 0)
    for sizes, preprocessor, grids in [
        ([(40, 56)], {}, [(5, 7)]),
        ([(40, 56), (64, 64)], dict(batch_augments=[fixed]), [(5, 7), (8, 8)]),
        # It fills 64x64 pixels, and is enlarged with them.
        ([(40, 56)], dict(batch_augments=[resized]), [(10, 14)]),
        # Two rows of patches: the grid alone could be one of patches of 6 pixels.
        ([(8, 12), (12, 12)], dict(pad_size_divisor=1), [(1, 2), (2, 2)]),
    ]:
        cfg = dict(type='DetDataPreprocessor', pad_size_divisor=32) | preprocessor
        model.data_preprocessor = MODELS.build(copy.deepcopy(cfg))
        for augment in model.data_preprocessor.batch_augments or ():
            augment._input_size = (128, 128)
        read.clear()
        losses = model(**batch(model, sizes), mode='loss')
        assert torch.isfinite(losses['loss_apl'])
        assert [group.grid_shape for group in read] == grids
        for group in read:
            count = group.grid_shape[0] * group.grid_shape[1]
            assert group.indices is None or group.indices.tolist() == [list(range(count))]


def test_images_of_one_size_need_no_rescaling():
    head = apl((5, 7), on_grid_mismatch='error')
    model = build('RetinaNet', head, dict(VIT, img_size=(40, 56)))
    assert torch.isfinite(model(**batch(model, [(40, 56)] * 2), mode='loss')['loss_apl'])
    with pytest.raises(UserError, match=r"The input has a 8x3 patch grid .*'rescale'"):
        model(**batch(model, [(64, 24)]), mode='loss')


def test_the_neck_reads_another_layer():
    neck = dict(type='poslabel_mm.PatchTokenNeck', stage=0)
    model = build('RetinaNet', apl(), pos_neck=neck)
    images = batch(model)['inputs']
    patch_tokens = model.patch_tokens(images)
    assert patch_tokens.grid_shape == (8, 8)
    assert torch.allclose(patch_tokens.tokens.mean(-1), torch.zeros(4, 64), atol=1e-5)


def test_padding_of_the_pipeline_is_a_part_of_the_image(monkeypatch):
    """It leaves no trace in the data sample; that of the data preprocessor is no part."""
    model = build('RetinaNet', apl())
    read = read_by(model.pos_head, monkeypatch)
    results = dict(img=np.zeros((24, 40, 3), np.uint8), img_shape=(24, 40), ori_shape=(24, 40))
    packed = []
    for pad in (lambda results: results), Pad(size=(64, 64)):
        padded = pad(dict(results, gt_bboxes=np.array([[0.0, 0.0, 20.0, 20.0]])))
        padded['gt_bboxes_labels'] = np.array([0])
        padded['gt_ignore_flags'] = np.array([False])
        packed.append(PackDetInputs(meta_keys=('img_shape', 'ori_shape'))(padded))
    data = {key: [x[key] for x in packed] for key in packed[0]}
    model(**model.data_preprocessor(data, True), mode='loss')
    assert [group.grid_shape for group in read] == [(3, 5), (8, 8)]


@pytest.mark.parametrize('stock', OURS)
def test_position_gradients_reach_what_shows_an_image_and_no_padding(stock, monkeypatch):
    """They are those of each image on its own, of which every one has the same weight."""
    model = build(stock, apl(loss_weight=1.0))
    model.eval()  # without drop path and dropout
    data = batch(model)
    inputs, data_samples = data['inputs'], data['data_samples']
    all_tokens = model.patch_tokens(inputs)
    tokens = all_tokens.tokens.detach().requires_grad_()
    groups = model.labelled_tokens(all_tokens._replace(tokens=tokens), inputs, data_samples)
    losses = model._position_losses(*groups)
    (gradient,) = torch.autograd.grad(losses['loss_apl'], tokens)
    for image, (height, width) in enumerate(SIZES):
        rows, columns = -(-height // 8), -(-width // 8)
        own = tokens[image].detach().view(8, 8, -1)[:rows, :columns].flatten(0, 1)
        own = own.unsqueeze(0).requires_grad_()
        alone = model.pos_head.loss(PatchTokens(own, (rows, columns)))['loss_apl'] / len(SIZES)
        expected = torch.zeros(8, 8, 16)
        expected[:rows, :columns] = torch.autograd.grad(alone, own)[0].view(rows, columns, -1)
        found = gradient[image].view(8, 8, -1)
        assert (found[:rows, :columns].abs().sum(-1) > 0).all()
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-8)
        assert (found[rows:] == 0).all() and (found[:, columns:] == 0).all()

    # In training they go on into the backbone.
    losses = model.train()(**data, mode='loss')
    losses['loss_apl'].backward()
    for name, parameter in model.backbone.named_parameters():
        if name not in ('ln1.weight', 'ln1.bias'):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    'mode', ['plain', 'checkpointed', 'frozen', 'bfloat16', 'swin', 'with_cp']
)
def test_every_way_to_train_gives_position_gradients(mode):
    swin = dict(type='mmpretrain.SwinTransformer', arch=SWIN, img_size=64, pad_small_map=True)
    # The maps of both are at H/8.
    swin |= dict(out_indices=(1,), with_cp=mode == 'with_cp', drop_path_rate=0.0)
    backbone = swin if mode in ('swin', 'with_cp') else dict(VIT)
    if mode == 'frozen':
        backbone['frozen_stages'] = 1
    model = build('RetinaNet', apl(), backbone)
    if mode == 'checkpointed':
        turn_on_activation_checkpointing(model, ['backbone.layers.0', 'backbone.layers.1'])
    with torch.autocast('cpu', torch.bfloat16, enabled=mode == 'bfloat16'):
        losses = model(**batch(model), mode='loss')
    losses['loss_apl'].backward()
    gradients = {k: p.grad for k, p in model.backbone.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    first = 'stages.0.' if 'Swin' in backbone['type'] else 'layers.0.'
    assert any(name.startswith(first) for name in gradients) != (mode == 'frozen')
    assert any(name.startswith(first.replace('0', '1')) for name in gradients)
    plain = build(
        'RetinaNet', apl(), backbone | dict(with_cp=False) if mode == 'with_cp' else backbone
    )
    expected = plain(**batch(plain), mode='loss')['loss_apl']
    assert torch.allclose(losses['loss_apl'], expected, atol=0.05 if mode == 'bfloat16' else 1e-5)


def test_a_loss_of_the_detector_is_not_overwritten():
    class Taken(PositionalLabelHead):
        def loss(self, patch_tokens):
            return dict(loss_bbox=super().loss(patch_tokens)['loss_apl'])

    model = build('RetinaNet', Taken(**{k: v for k, v in apl().items() if k != 'type'}))
    message = 'Detector and a position head both return loss_bbox: .* another name'
    with pytest.raises(UserError, match=message):
        model(**batch(model), mode='loss')


def test_a_sharded_head_is_gathered_once_a_batch(monkeypatch):
    """However many shapes the images have, as every process has as many as it happens to."""
    torch.distributed.init_process_group('gloo', store=HashStore(), rank=0, world_size=1)
    try:
        model = build('RetinaNet', apl())
        data = batch(model)
        expected = model(**data, mode='loss')['loss_apl']
        model.pos_head = FullyShardedDataParallel(model.pos_head, device_id=torch.device('cpu'))
        gathered = []
        model.pos_head.register_forward_hook(lambda *_: gathered.append(1))
        loss = model(**data, mode='loss')['loss_apl']
        assert torch.allclose(loss, expected) and len(gathered) == 1
        loss.backward()

        model = build('RetinaNet', apl())
        model.pos_head.fc1 = FullyShardedDataParallel(
            model.pos_head.fc1, device_id=torch.device('cpu')
        )
        with pytest.raises(UserError, match='FSDP has sharded layers of PositionalLabelHead'):
            model(**data, mode='loss')
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize('stock', OURS)
def test_models_that_are_refused(stock):
    message = f'{OURS[stock]} has no pos_head; give it one, or use {OURS[stock][15:]}'
    with pytest.raises(UserError, match=message):
        build(stock, type=OURS[stock])
    with pytest.raises(UserError, match='model.pos_head.in_channels=8 does not fit'):
        build(stock, apl(in_channels=8))


@pytest.mark.parametrize('stage', [None, 0, 1])
def test_mmdetections_own_swin_is_read(stage):
    swin = dict(
        type='SwinTransformer',
        embed_dims=8,
        depths=(1, 1),
        num_heads=(1, 1),
        strides=(4, 2),
        out_indices=(0, 1),
        drop_path_rate=0.0,
    )
    neck = dict(type='poslabel_mm.PatchTokenNeck', stage=stage)
    head = apl(in_channels=8 if stage == 0 else 16)
    model = build('RetinaNet', head, swin, **({} if stage is None else dict(pos_neck=neck)))
    images = batch(model)['inputs']
    patch_tokens = model.patch_tokens(images)
    assert patch_tokens.grid_shape == ((16, 16) if stage == 0 else (8, 8))
    # The neck's norm and the backbone's are the same before training.
    norm = model.backbone.norm0 if stage == 0 else model.backbone.norm1
    tokens = patch_tokens.tokens if stage is None else norm(patch_tokens.tokens)
    expected = model.backbone(images)[-1 if stage is None else stage].flatten(2).mT
    assert torch.allclose(tokens, expected, atol=5e-3)


# ----------------------------------------------------------------------------------- the configs


def shrunk(backbone: dict) -> dict:
    """A shipped config's backbone with layers of a few channels."""
    backbone = copy.deepcopy(backbone)
    swin = 'Swin' in backbone['type']
    backbone['arch'] = SWIN if swin else dict(ARCH, embed_dims=32, num_layers=12)
    return backbone


def norms(*stages):
    return {f'norm{i}.{name}' for i in stages for name in ('weight', 'bias')}


NAMES = sorted(path.stem for path in CONFIGS.glob('*.py'))


def new_tensors(name: str) -> set[str]:
    """Tensors of a shipped config's backbone that no checkpoint of its pre-training has."""
    if 'swin' in name:
        # Of the stages before the last, which a classifier does not return.
        return norms(1) if 'retinanet' in name else norms(0, 1)
    return {'pos_embed'} if 'apl' in name and 'from-mae' in name else set()  # trained without it


@pytest.mark.parametrize('name', NAMES)
def test_every_tensor_of_a_checkpoint_is_accounted_for(name, tmp_path):
    cfg = Config.fromfile(CONFIGS / f'{name}.py').model
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
    backbone.init_weights()
    after, saved = backbone.state_dict(), encoder.state_dict()
    assert set(saved) - set(after) == set()  # none is lost
    assert set(after) - set(saved) == new_tensors(name)
    for key, value in saved.items():
        assert torch.equal(after[key], value), key


def test_configs_resolve():
    assert len(NAMES) == 10
    stock = Config.fromfile(STOCK / 'configs/common/ms_3x_coco.py')
    for name in (f'{name}.py' for name in NAMES):
        cfg = Config.fromfile(CONFIGS / name)
        assert ('pos_head' in cfg.model) == ('_apl_' in name)
        if '_apl_' in name:
            two = 'mask-rcnn' in name
            assert cfg.model.type == OURS['FasterRCNN' if two else 'RetinaNet']
        text = (CONFIGS / name).read_text()
        assert text.startswith('# ')
        assert f'\n#   tools/dist_train.sh configs/detection/{name} 8\n' in text
        assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size
        source = osp.basename(osp.dirname(cfg.model.backbone.init_cfg.checkpoint))
        assert f' {source}.py, COCO' in text.replace('\n# ', ' ')
        assert set(cfg) == {*stock, 'model', 'custom_imports'}
        assert cfg.optim_wrapper.optimizer.type == 'AdamW'
        masks = 'mask-rcnn' in name
        train, val = cfg.train_dataloader.dataset.dataset, cfg.val_dataloader.dataset
        for pipeline in cfg.train_pipeline, train.pipeline, cfg.test_pipeline, val.pipeline:
            (load,) = [x for x in pipeline if x.type == 'LoadAnnotations']
            assert load.get('with_mask', False) == masks
        assert [x.type for x in train.pipeline] == [x.type for x in cfg.train_pipeline]
        assert [x.type for x in val.pipeline] == [x.type for x in cfg.test_pipeline]
        assert cfg.test_dataloader == cfg.val_dataloader
        assert cfg.test_evaluator == cfg.val_evaluator
        assert ('segm' in cfg.val_evaluator.metric) == masks


def small_maps(cfg: Config) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Backbone and neck of a shipped model, with layers of a few channels."""
    backbone, neck = shrunk(cfg.backbone), copy.deepcopy(cfg.neck)
    del backbone['init_cfg']
    if 'Swin' in backbone['type']:
        neck['in_channels'] = [channels // 12 for channels in neck['in_channels']]
    else:
        neck['in_channels'] = 32
    return MODELS.build(backbone), MODELS.build(neck)


@pytest.mark.parametrize('name', ['vit-b_mask-rcnn', 'vit-b_retinanet', 'swin-t_mask-rcnn'])
@torch.no_grad()
def test_the_maps_have_the_strides_of_the_anchors(name):
    cfg = Config.fromfile(CONFIGS / f'{name}_coco.py').model
    anchors = (cfg.get('rpn_head') or cfg.bbox_head).anchor_generator
    backbone, neck = small_maps(cfg)
    maps = neck(backbone(torch.zeros(1, 3, 128, 256)))
    sizes = [tuple(x.shape[2:]) for x in maps]
    assert sizes == [(-(-128 // stride), -(-256 // stride)) for stride in anchors.strides]


@pytest.mark.parametrize('name', ['vit-b_mask-rcnn', 'vit-b_retinanet', 'swin-t_mask-rcnn'])
def test_norms_and_encodings_do_not_decay(name):
    cfg = Config.fromfile(CONFIGS / f'{name}_coco.py')
    maps = torch.nn.Sequential(*small_maps(cfg.model))
    groups = build_optim_wrapper(maps, cfg.optim_wrapper).optimizer.param_groups
    decays = {
        id(parameter): group['weight_decay'] for group in groups for parameter in group['params']
    }
    layers = [m for m in maps.modules() if isinstance(m, (torch.nn.LayerNorm, torch.nn.GroupNorm))]
    norms = {id(parameter) for layer in layers for parameter in layer.parameters()}
    names = {id(p): name for name, p in maps.named_parameters()}
    without = {id_ for id_, decay in decays.items() if decay == 0}
    encodings = {'0.pos_embed', '0.cls_token'} if 'vit' in cfg.filename else set()
    assert len(norms) > 8 and norms <= without
    assert {names[id_] for id_ in without - norms} == encodings & set(names.values())


RPL_SNIPPET, MINE, ATSS, DETR = re.findall('```python\n(.*?)```', PAGE, re.DOTALL)


def test_the_documented_config_of_a_stock_detector_gives_losses(tmp_path):
    (tmp_path / 'documented.py').write_text(ATSS)
    cfg = Config.fromfile(tmp_path / 'documented.py')
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, weight_decay=0.05)
    cfg.model.backbone.arch = dict(SWIN, embed_dims=96)
    cfg.model.bbox_head.update(stacked_convs=1)
    del cfg.model.backbone.init_cfg
    model = MODELS.build(cfg.model).train()
    with torch.no_grad():
        losses = model(**batch(model, [(96, 64), (64, 96)]), mode='loss')
    assert torch.isfinite(losses['loss_apl']) and 'loss_centerness' in losses


def test_the_documented_relative_head_draws_pairs(tmp_path, monkeypatch):
    (tmp_path / 'documented.py').write_text(RPL_SNIPPET)
    cfg = Config.fromfile(tmp_path / 'documented.py').model
    head = dict(cfg.pos_head, in_channels=16)
    assert cfg.type == OURS['FasterRCNN'] and head['pairs_per_token'] == 16
    model = build('FasterRCNN', head)
    losses = model(**batch(model), mode='loss')
    assert torch.isfinite(losses['loss_rpl'])


def test_the_documented_detector_of_your_own_is_one(monkeypatch):
    try:
        exec(DETR, {'__name__': __name__})
        detector = MODELS.get('PositionalLabelDETR')
        assert detector.__bases__ == (poslabel_mm.mmdet.DetectorLabels, mmdet.models.DETR)
        cfg = Config.fromfile(STOCK / 'configs/detr/detr_r50_8xb2-150e_coco.py').model
        cfg.backbone = dict(VIT)
        cfg.update(type='PositionalLabelDETR', pos_head=apl(), num_queries=5)
        cfg.neck.in_channels = [16]
        cfg.encoder.num_layers = cfg.decoder.num_layers = 1
        model = MODELS.build(cfg).train()
        read = read_by(model.pos_head, monkeypatch)
        losses = model(**batch(model, [(40, 56), (64, 24)]), mode='loss')
        assert torch.isfinite(losses['loss_apl']) and 'loss_iou' in losses
        assert [group.grid_shape for group in read] == [(5, 7), (8, 3)]
    finally:
        MODELS.module_dict.pop('PositionalLabelDETR', None)


# ---------------------------------------------------------------------------------------- a run

MASK_RCNN = """
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16
        ),
        img_size=32,
        patch_size=16,
        drop_path_rate=0.0,
        init_cfg=dict(checkpoint='classifier.pth'),
    ),
    neck=dict(in_channels=16, out_channels=8),
    rpn_head=dict(in_channels=8, feat_channels=8),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8),
        bbox_head=dict(in_channels=8, fc_out_channels=16),
        mask_roi_extractor=dict(out_channels=8),
        mask_head=dict(in_channels=8, conv_out_channels=8, num_convs=1),
    ),
    train_cfg=dict(rpn_proposal=dict(max_per_img=40), rcnn=dict(sampler=dict(num=16))),
    test_cfg=dict(rpn=dict(max_per_img=40), rcnn=dict(max_per_img=10)),
)
"""
RETINANET = """
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=8, depths=[1] * 4, num_heads=[1] * 4),
        window_size=2,
        init_cfg=None,
    ),
    neck=dict(in_channels=[16, 64], out_channels=8),
    bbox_head=dict(in_channels=8, feat_channels=8, stacked_convs=1, num_classes=3),
    test_cfg=dict(score_thr=0.0, max_per_img=10),
)
"""
# The page's first config, and the same of a single-stage detector.
RETINANET_PAGE = MINE.partition('model = ')[0].replace(
    'vit-b_apl_mask-rcnn', 'swin-t_apl_retinanet'
)
POS_HEAD = 'model["pos_head"] = dict(in_channels={}, grid_size=3, hidden_channels=8)\n'
DETECTORS = {
    'vit': (MINE, MASK_RCNN, POS_HEAD.format(16), {'loss_rpn_cls', 'loss_mask', 'loss_apl'}),
    'swin': (RETINANET_PAGE, RETINANET, POS_HEAD.format(64), {'loss_bbox', 'loss_apl'}),
}
# Small images, and no processes beside.
OPTIONS = [
    '--cfg-options',
    'train_dataloader.dataset.pipeline.2.scale=[(96,48),(96,64)]',
    *(f'{part}_dataloader.dataset.pipeline.1.scale=(96,64)' for part in ('val', 'test')),
    *(
        f'{part}_dataloader.{name}'
        for part in ('train', 'val', 'test')
        for name in ('num_workers=0', 'persistent_workers=False')
    ),
    'default_hooks.logger.interval=1',
    'log_level=ERROR',
]


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A folder with the page's dataset, of images of several shapes, and a classifier."""
    folder = tmp_path_factory.mktemp('project')
    mine = folder / 'data/mine'
    (mine / 'images').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split in 'train', 'val':
        images, objects = [], []
        for i, (width, height) in enumerate([(64, 40), (36, 64), (72, 40), (40, 52)]):
            image = rng.integers(0, 80, (height, width, 3), dtype=np.uint8)
            name = f'{split}_{i}.jpg'
            for label in 1, 2:
                x, y = int(rng.integers(0, width - 20)), int(rng.integers(0, height - 20))
                image[y : y + 20, x : x + 20, label] = 220
                corners = [x, y, x + 20, y, x + 20, y + 20, x, y + 20]
                objects.append(
                    dict(
                        id=len(objects) + 1,
                        image_id=i,
                        category_id=label,
                        bbox=[x, y, 20, 20],
                        area=400,
                        segmentation=[corners],
                        iscrowd=0,
                    )
                )
            Image.fromarray(image).save(mine / 'images' / name)
            images.append(dict(id=i, file_name=name, width=width, height=height))
        categories = [dict(id=i, name=name) for i, name in enumerate(('cat', 'dog', 'bird'), 1)]
        content = dict(images=images, annotations=objects, categories=categories)
        (mine / f'{split}.json').write_text(json.dumps(content))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        classifier = ROOT_MODELS.build(
            dict(
                type='poslabel_mm.PositionalLabelClassifier',
                backbone=dict(VIT, out_type='cls_token', img_size=32, patch_size=16),
                head=dict(type='VisionTransformerClsHead', num_classes=2, in_channels=16),
                pos_head=apl(2),
            )
        )
    save_checkpoint(dict(state_dict=classifier.state_dict()), str(folder / 'classifier.pth'))
    return folder


def logged(name):
    """The lines of a run's last log: of iterations, and of validations."""
    log = sorted(Path('work_dirs', name).glob('*/vis_data/scalars.json'))[-1]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [x for x in lines if 'loss' in x], [x for x in lines if 'coco/bbox_mAP' in x]


@pytest.mark.parametrize('name', DETECTORS)
def test_a_run_is_trained_validated_resumed_and_tested(name, project, monkeypatch):
    monkeypatch.chdir(project)
    page, small, pos_head, losses = DETECTORS[name]
    Path(f'my_{name}.py').write_text(page)
    Path(f'{name}.py').write_text(f"_base_ = './my_{name}.py'\n{small}{pos_head}")
    assert cli.main(['train', f'{name}.py', *OPTIONS, 'train_cfg.max_epochs=1']) == 0
    steps, (validation,) = logged(name)
    assert len(steps) == 2 and losses < set(steps[0])
    assert all(np.isfinite(step['loss']) for step in steps)
    assert -1 <= validation['coco/bbox_mAP'] <= 1

    DetLocalVisualizer._instance_dict.clear()
    assert cli.main(['train', f'{name}.py', '--resume', *OPTIONS, 'train_cfg.max_epochs=2']) == 0
    steps, _ = logged(name)
    assert [step['step'] for step in steps] == [3, 4]

    # The baseline takes the checkpoint.
    DetLocalVisualizer._instance_dict.clear()
    Path(f'my_{name}.py').write_text(page.replace('_apl', ''))
    Path('stock.py').write_text(f"_base_ = './my_{name}.py'\n{small}")
    assert cli.main(['test', 'stock.py', f'work_dirs/{name}/epoch_2.pth', *OPTIONS]) == 0


@pytest.mark.skipif(STAND_IN, reason="a process of its own has MMCV's operators only if built")
def test_mmdetections_own_tool_trains_a_shipped_config(project, monkeypatch):
    monkeypatch.chdir(project)
    shipped = "__import__('poslabel_mm').config_path('detection/swin-t_apl_retinanet_coco.py')"
    page = RETINANET_PAGE.partition('\n')[2]
    Path('my_own.py').write_text(f'_base_ = {shipped}\n{page}')
    Path('own_tool.py').write_text(f"_base_ = './my_own.py'\n{RETINANET}{POS_HEAD.format(64)}")
    done = subprocess.run(
        [sys.executable, STOCK / 'tools/train.py', 'own_tool.py', *OPTIONS]
        + ['train_cfg.max_epochs=1'],
        env=os.environ | dict(LOCAL_RANK='0'),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    steps, (validation,) = logged('own_tool')
    assert len(steps) == 2 and {'loss_bbox', 'loss_apl'} < set(steps[0])
    assert -1 <= validation['coco/bbox_mAP'] <= 1


@pytest.mark.skipif(STAND_IN, reason="a process of its own has MMCV's operators only if built")
@pytest.mark.parametrize('name', DETECTORS)
def test_two_processes_train_and_validate_a_detector(name, project, monkeypatch):
    # Each has images of other shapes, and labels on other grids.
    monkeypatch.chdir(project)
    page, small, pos_head, losses = DETECTORS[name]
    Path(f'my_{name}.py').write_text(page)
    Path(f'two_{name}.py').write_text(f"_base_ = './my_{name}.py'\n{small}{pos_head}")
    done = subprocess.run(
        ['bash', DIST_TRAIN, f'two_{name}.py', '2', *OPTIONS]
        + ['train_cfg.max_epochs=2', 'train_dataloader.batch_size=1'],
        env=os.environ | dict(PYTHON=sys.executable),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    steps, validations = logged(f'two_{name}')
    assert len(steps) == 4 and losses < set(steps[0])
    assert all(np.isfinite(step['loss']) for step in steps)
    assert [-1 <= found['coco/bbox_mAP'] <= 1 for found in validations] == [True, True]
