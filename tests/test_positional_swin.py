"""The modified Swin of the paper, against the stock one and the arithmetic.

C is the width of the first stage, L the blocks of each stage.
"""

import copy
import math
import re

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.models.utils import WindowMSA
from mmpretrain.registry import MODELS
from models import apl_head, batch, build, classifier

from poslabel_mm.errors import UserError
from poslabel_mm.models import PositionalSwinTransformer

pytestmark = pytest.mark.computes

MERGING = [
    f'stages.2.downsample.{name}' for name in ('norm.weight', 'norm.bias', 'reduction.weight')
]
TINY = dict(
    arch=dict(embed_dims=8, depths=[1, 1, 2, 2], num_heads=[1, 2, 4, 8]),
    img_size=64,
    patch_size=4,
    window_size=2,
    drop_path_rate=0.2,
)
DEPTHS = TINY['arch']['depths']
BLOCKS = [(stage, block) for stage, depth in enumerate(DEPTHS) for block in range(depth)]


def stock(**kwargs):
    return dict(type='SwinTransformer') | TINY | kwargs


def ours(**kwargs):
    return stock(type='poslabel_mm.PositionalSwinTransformer') | kwargs


def images(size=2, height=64, width=64):
    return batch(size, height, width)[0]


def keys_of(module, blocks=BLOCKS):
    return {f'stages.{s}.blocks.{b}.{name}' for s, b in blocks for name in module}


CPE = ['cpe.proj.weight', 'cpe.proj.bias']
BIAS = ['attn.w_msa.relative_position_bias_table', 'attn.w_msa.relative_position_index']


def expected_parameters(C, L, pos_encoding):
    """The paper's network, layer by layer; 7x7 windows, C/32 heads."""
    count = 3 * 4 * 4 * C + C + 2 * C  # 4x4 patches and their norm
    for stage, depth in enumerate(L):
        width, heads = C * 2**stage, C * 2**stage // 32
        block = 2 * 2 * width  # norm1, norm2
        block += width * 3 * width + 3 * width  # q, k, v
        block += width * width + width  # projection
        block += width * 4 * width + 4 * width + 4 * width * width + width
        if pos_encoding == 'cpe':
            block += 3 * 3 * width + width
        elif pos_encoding == 'rpb':
            window = 14 if stage == 3 else 7
            block += (2 * window - 1) ** 2 * heads
        count += depth * block
        if stage < 2:
            count += 2 * 4 * width + 4 * width * 2 * width  # merging of 2x2
        elif stage == 2:
            count += 2 * width + width * 2 * width  # norm and linear alone
    return count + 2 * 8 * C  # final norm


def stage_shapes(model, side):
    """What each stage hands on before its downsampling, as (C, H, W)."""
    shapes = []
    for stage in model.stages:
        stage.register_forward_hook(lambda _, __, out: shapes.append((out[0].shape[-1], *out[1])))
    model.eval()
    with torch.no_grad():
        out = model(torch.zeros(1, 3, side, side))[-1]
    assert out.shape[1:] == shapes[-1]
    return shapes


@pytest.mark.parametrize('pos_encoding', ['cpe', 'rpb', 'none'])
def test_swin_t_at_224_px_ends_in_768_x_14_x_14(pos_encoding):
    model = PositionalSwinTransformer('tiny', pos_encoding=pos_encoding)
    assert sum(p.numel() for p in model.parameters()) == expected_parameters(
        96, (2, 2, 6, 2), pos_encoding
    )
    shapes = stage_shapes(model, 224)
    assert shapes == [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 14, 14)]


def test_swin_b():
    """At 32 px, where the windows of the first stages are padded."""
    model = PositionalSwinTransformer('base', pad_small_map=True)
    assert sum(p.numel() for p in model.parameters()) == expected_parameters(
        128, (2, 2, 18, 2), 'cpe'
    )
    shapes = stage_shapes(model, 32)
    assert shapes == [(128, 8, 8), (256, 4, 4), (512, 2, 2), (1024, 2, 2)]


@pytest.mark.parametrize('training', [False, True])
def test_with_bias_and_merging_it_is_the_stock_swin(training):
    a = build(stock(), training=training)
    b = build(ours(pos_encoding='rpb', last_downsample=True), training=training)
    assert list(a.state_dict()) == list(b.state_dict())
    results = []
    for model in (a, b):
        torch.manual_seed(7)  # for the drop path
        out = model(images())[0]
        out.sum().backward()
        results.append([out] + [p.grad for p in model.parameters()])
    assert all(map(torch.equal, *results))


def test_without_bias_it_is_the_stock_swin_with_a_bias_of_zero():
    a = build(stock(), training=False)
    for module in a.modules():
        if isinstance(module, WindowMSA):
            module.relative_position_bias_table.data.zero_()
    b = build(ours(pos_encoding='none', last_downsample=True), training=False)
    b.load_state_dict(a.state_dict())  # strict: the bias is passed over
    torch.testing.assert_close(b(images())[0], a(images())[0])


def test_encoding_is_a_residual_convolution_before_every_block():
    a = build(ours(pos_encoding='cpe'), training=False)
    b = build(ours(pos_encoding='none'), training=False)
    b.load_state_dict(a.state_dict(), strict=False)
    seen = {}
    for s, i in BLOCKS:
        a.stages[s].blocks[i].norm1.register_forward_pre_hook(
            lambda _, inputs, name=(s, i): seen.update({name: inputs[0]})
        )
    a(images())
    x, hw_shape = b.patch_embed(images())
    for s, stage in enumerate(b.stages):
        for i, block in enumerate(stage.blocks):
            maps = x.transpose(1, 2).unflatten(2, hw_shape)
            conv = a.stages[s].blocks[i].cpe.proj
            assert conv.groups == conv.in_channels == conv.out_channels
            x = x + conv(maps).flatten(2).transpose(1, 2)
            torch.testing.assert_close(seen[s, i], x)
            x = block(x, hw_shape)
        if stage.downsample:
            x, hw_shape = stage.downsample(x, hw_shape)


@pytest.mark.parametrize('size', [(64, 64), (64, 96), (128, 64)])
def test_the_last_stage_attends_over_the_whole_map(size):
    """Every token of any map depends on every other one."""
    model = build(ours(pos_encoding='none'), training=False).double()
    H, W = size[0] // 16, size[1] // 16
    x = torch.randn(1, H * W, 64, dtype=torch.float64, requires_grad=True)
    # One output each at the two ends, whose windows would differ.
    out, _ = model.stages[-1](x, (H, W))
    for token in (0, H * W - 1):
        (grad,) = torch.autograd.grad(out[0, token].pow(2).sum(), x, retain_graph=True)
        assert (grad[0].abs().sum(-1) > 1e-12).all()
    assert model(images(1, *size).double())[0].shape == (1, 64, H, W)


@pytest.mark.parametrize('img_size, window', [(64, 4), ((64, 112), 4), ((72, 100), 5)])
def test_with_bias_the_last_windows_are_as_large_as_the_map(img_size, window):
    """And are not shifted; a merging of 9 tokens leaves 5."""
    model = build(ours(pos_encoding='rpb', img_size=img_size))
    for block in model.stages[-1].blocks:
        assert (block.attn.window_size, block.attn.shift_size) == (window, 0)
        assert block.attn.w_msa.window_size == (window, window)


@pytest.mark.parametrize('size', [(64, 64), (64, 96), (96, 64)])
@pytest.mark.parametrize('pos_encoding', ['cpe', 'rpb', 'none'])
@pytest.mark.parametrize('last_downsample', [True, False])
def test_other_input_sizes(pos_encoding, last_downsample, size):
    model = build(ours(pos_encoding=pos_encoding, last_downsample=last_downsample), training=False)
    stride = 32 if last_downsample else 16
    assert model(images(1, *size))[0].shape == (1, 64, size[0] // stride, size[1] // stride)


@pytest.mark.parametrize('with_cp', [False, True])
def test_every_parameter_learns(with_cp):
    model = build(ours(with_cp=with_cp, drop_path_rate=0.0))
    x = images().requires_grad_()
    model(x)[0].pow(2).mean().backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0
        for name, p in model.named_parameters()
        if 'norm3' not in name
    )


def test_layerwise_decay_and_freezing_know_the_new_layers():
    model = build(ours(frozen_stages=2))
    depth = {name: model.get_layer_depth(name)[0] for name, _ in model.named_parameters()}
    assert depth['stages.2.blocks.1.cpe.proj.weight'] == 4
    assert depth['stages.2.downsample.reduction.weight'] == 4
    assert all(
        p.requires_grad != name.startswith(('patch_embed', 'stages.0', 'stages.1', 'stages.2'))
        for name, p in model.named_parameters()
    )


@pytest.mark.parametrize('wrapped', [False, True])
@pytest.mark.parametrize(
    'pos_encoding, last_downsample, missing',
    [
        ('rpb', True, set()),
        ('none', True, set()),
        ('cpe', True, keys_of(CPE)),
        ('rpb', False, {*MERGING, *keys_of(BIAS, BLOCKS[-2:])}),
        ('none', False, {*MERGING}),
        ('cpe', False, {*MERGING, *keys_of(CPE)}),
    ],
)
def test_a_stock_state_dict_loads(pos_encoding, last_downsample, missing, wrapped):
    """Only the named keys are missing, and none is left over."""
    a, b = stock(), ours(pos_encoding=pos_encoding, last_downsample=last_downsample)
    if wrapped:
        neck = dict(type='GlobalAveragePooling')
        a, b = (classifier(backbone=cfg, neck=neck) for cfg in (a, b))
        missing = {f'backbone.{name}' for name in missing}
    a, b = build(a, seed=1), build(b, seed=2)
    result = b.load_state_dict(copy.deepcopy(a.state_dict()), strict=False)
    assert set(result.missing_keys) == missing
    assert result.unexpected_keys == []
    for name, value in b.state_dict().items():
        if name not in missing:
            assert torch.equal(value, a.state_dict()[name]), name


def test_the_first_published_checkpoints_load(tmp_path):
    """Their final norm had no number, and masks were saved (version 1)."""
    a, b = build(stock(), seed=1), build(ours(pos_encoding='rpb', last_downsample=True), seed=2)
    old = {name.replace('norm3.', 'norm.'): value for name, value in a.state_dict().items()}
    old['stages.0.blocks.1.attn.attn_mask'] = torch.zeros(1)
    result = b.load_state_dict(old)
    assert not result.missing_keys and not result.unexpected_keys
    assert torch.equal(b.norm3.weight, a.norm3.weight)


def test_a_stock_swin_takes_our_checkpoint():
    a, b = build(stock(), seed=1), build(ours(pos_encoding='rpb', last_downsample=True), seed=2)
    load_state_dict(a, b.state_dict(), strict=True)
    a.eval()
    b.eval()
    assert torch.equal(a(images())[0], b(images())[0])


def test_a_stock_swin_refuses_a_checkpoint_without_the_last_merging():
    """Its own merging is of another shape, so it names those keys."""
    a = build(stock())
    for pos_encoding in ('cpe', 'rpb', 'none'):
        theirs = build(ours(pos_encoding=pos_encoding)).state_dict()
        with pytest.raises(RuntimeError) as error:
            a.load_state_dict(theirs, strict=False)
        named = set(re.findall('size mismatch for ([^:]+)', str(error.value)))
        assert named == set(MERGING)
    # What else the two do not share.
    none = set(build(ours(pos_encoding='none')).state_dict())
    cpe = set(build(ours()).state_dict())
    assert set(a.state_dict()) - none == keys_of(BIAS)
    assert cpe - none == keys_of(CPE)


def cubic(x):
    """Keys' kernel, a = -0.75."""
    x, a = abs(x), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def resized(table, size, wanted):
    """One axis after the other, half-pixel centres, borders repeated."""
    weights = torch.zeros(wanted, size)
    for i in range(wanted):
        centre = (i + 0.5) * size / wanted - 0.5
        for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
            weights[i, min(max(j, 0), size - 1)] += cubic(centre - j)
    maps = table.view(size, size, -1)
    maps = torch.einsum('ir,js,rsh->ijh', weights, weights, maps)
    return maps.reshape(wanted**2, -1)


@pytest.mark.parametrize(
    'build_swin, key, sizes, windows',
    [
        (
            lambda size: ours(pos_encoding='rpb', img_size=size),
            'stages.3.blocks.0.attn.w_msa.relative_position_bias_table',
            (64, 96),
            (7, 11),
        ),
        (
            lambda size: stock(window_size=size),
            'stages.0.blocks.0.attn.w_msa.relative_position_bias_table',
            (4, 6),
            (7, 11),
        ),
    ],
    ids=['ours', 'stock'],
)
def test_a_checkpoint_of_another_window_keeps_its_bias(build_swin, key, sizes, windows):
    """It is interpolated, the stock Swin's too, whose own way SciPy broke."""
    a, b = (build(build_swin(size), seed=size) for size in sizes)
    table = a.state_dict()[key]
    table.copy_(torch.randn_like(table))
    result = b.load_state_dict(copy.deepcopy(a.state_dict()), strict=False)
    assert not result.unexpected_keys
    assert all('relative_position_index' in name for name in result.missing_keys)
    after = b.state_dict()[key]
    assert len(table) == windows[0] ** 2 and len(after) == windows[1] ** 2
    torch.testing.assert_close(after, resized(table, *windows), rtol=1e-5, atol=1e-5)


def test_one_stage_has_no_last_merging():
    arch = dict(embed_dims=16, depths=[1], num_heads=[1])
    with pytest.raises(UserError, match='set last_downsample=True'):
        build(ours(arch=arch, out_indices=(0,)))


@pytest.mark.parametrize(
    'name, corrupt',
    [
        ('stages.3.blocks.1.ffn.layers.0.0.weight', lambda x: x[:-1]),
        ('stages.3.blocks.0.attn.w_msa.qkv.weight', lambda x: x[:, :-1]),
        ('stages.3.blocks.0.norm1.weight', lambda x: x[:-1]),
        ('stages.2.downsample.reduction.weight', lambda x: x[:-1]),
        ('stages.2.downsample.norm.bias', lambda x: x[:-1]),
        ('stages.2.blocks.0.norm1.weight', lambda x: x[:-1]),
    ],
)
@pytest.mark.parametrize('pos_encoding', ['cpe', 'rpb', 'none'])
def test_a_wrong_shape_in_a_stock_checkpoint_is_an_error(pos_encoding, name, corrupt):
    state = build(stock()).state_dict()
    state[name] = corrupt(state[name])
    with pytest.raises(RuntimeError, match=f'size mismatch for {name}'):
        build(ours(pos_encoding=pos_encoding)).load_state_dict(state, strict=False)


def test_a_map_smaller_than_the_window_needs_padding():
    small = images(1, 32, 32)
    model = build(ours(pos_encoding='rpb'), training=False)
    with pytest.raises(AssertionError, match='pad_small_map=True'):
        model(small)
    model = build(ours(pos_encoding='rpb', pad_small_map=True), training=False)
    assert model(small)[0].shape == (1, 64, 2, 2)


def test_labels_train_it():
    model = build(
        classifier(
            apl_head(in_channels=64),
            backbone=ours(),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=64),
        )
    )
    out = model.loss(*batch(2, 64, 64))
    out['loss_apl'].backward()
    assert model.backbone.stages[0].blocks[0].cpe.proj.weight.grad.any()


def test_a_copy_encodes_with_its_own_convolutions():
    model = build(ours(), training=False)
    twin = copy.deepcopy(model)
    for s, i in BLOCKS:
        twin.stages[s].blocks[i].cpe.proj.weight.data.zero_()
    before = model(images())[0]
    assert not torch.allclose(twin(images())[0], before)
    assert torch.equal(model(images())[0], before)


@pytest.mark.slow
def test_it_compiles():
    model = build(ours(), training=False)
    stage, tokens = model.stages[2], torch.randn(2, 16, 32)
    compiled = torch.compile(stage, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(tokens, (4, 4))[0], stage(tokens, (4, 4))[0])


def test_unknown_encoding_is_refused():
    with pytest.raises(UserError, match="'ape' is unknown.*cpe"):
        MODELS.build(ours(pos_encoding='ape'))
