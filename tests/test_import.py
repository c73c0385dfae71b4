"""`poslabel import`: models of other libraries, with random weights, compute the same here."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from models import apl_head, build, classifier, tiny_vit
from test_export import MAE
from torch import nn

from poslabel_mm.interop import import_command
from poslabel_mm.interop.hugging_face_keys import (
    HUGGING_FACE_HEADS,
    HUGGING_FACE_VIT,
    split_qkv,
)
from poslabel_mm.interop.vit_keys import TIMM_VIT
from poslabel_mm.launch.checks.checkpoint import check_load_from
from poslabel_mm.launch.checks.init_cfg import check_pretrained
from poslabel_mm.launch.stock_tools import load_tool, tool_path

timm = pytest.importorskip('timm')
safetensors_torch = pytest.importorskip('safetensors.torch')

ARCH = dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64)
TIMM_ARCH = dict(embed_dim=32, depth=2, num_heads=4, mlp_ratio=2, img_size=16, patch_size=4)
HEAD = dict(type='LinearClsHead', num_classes=3, in_channels=32)
VIT_HEAD = HEAD | dict(type='VisionTransformerClsHead')
POOLED = dict(neck=dict(type='GlobalAveragePooling'))
APL = apl_head(in_channels=32)
SWIN = dict(
    type='SwinTransformer',
    arch=dict(embed_dims=16, depths=[2, 1], num_heads=[2, 4]),
    img_size=32,
    window_size=4,
    out_indices=(1,),
)
TIMM_SWIN = dict(embed_dim=16, depths=(2, 1), num_heads=(2, 4), img_size=32, window_size=4)


def vit(**kwargs):
    return tiny_vit(arch=ARCH, **kwargs)


def own_vit(**kwargs):
    return vit(type='poslabel_mm.PositionalVisionTransformer', **kwargs)


def swin_classifier(backbone=SWIN):
    return classifier(APL, backbone, head=HEAD, **POOLED)


MAE_CONFIG = MAE | dict(neck=MAE['neck'] | dict(mlp_ratio=2))


def drawn(module):
    """All parameters drawn anew, by one seed."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.add_(noise, alpha=0.2)
    return module.eval()


def timm_vit(name='vit_base_patch16_224', **kwargs):
    return drawn(timm.create_model(name, num_classes=3, **{**TIMM_ARCH, **kwargs}))


def deit_iii():
    return timm_vit('deit3_base_patch16_224')


def as_deit_iii(weights):
    """timm's names as DeiT III's own code has them."""
    return dict(
        model={
            name.replace('ls1.gamma', 'gamma_1').replace('ls2.gamma', 'gamma_2'): value
            for name, value in weights.items()
        }
    )


def timm_swin():
    model = timm.create_model('swin_base_patch4_window7_224', num_classes=3, **TIMM_SWIN)
    return drawn(model)


def official_swin(weights):
    """timm's names as Swin's own code has them: a stage ends with its merging."""
    official = {}
    for name, value in weights.items():
        parts = name.split('.')
        if parts[2:3] == ['downsample']:
            parts[1] = str(int(parts[1]) - 1)
        official['.'.join(parts).replace('head.fc.', 'head.')] = value
    official['layers.0.blocks.0.attn.relative_position_index'] = torch.zeros(16, 16).long()
    official['layers.0.blocks.1.attn_mask'] = torch.zeros(4, 16, 16)
    return official


class MAE(nn.Module):
    """MAE's own model, but for the masking: an encoder of timm and a decoder of its blocks."""

    def __init__(self):
        super().__init__()
        self.encoder = timm_vit()
        self.decoder_embed = nn.Linear(32, 16)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 16))
        norm = partial(nn.LayerNorm, eps=1e-6)
        block = timm.models.vision_transformer.Block
        self.decoder_blocks = nn.ModuleList([block(16, 2, 2, qkv_bias=True, norm_layer=norm)])
        self.decoder_norm = norm(16)
        self.decoder_pred = nn.Linear(16, 4 * 4 * 3)
        drawn(self)
        self.encoder.pos_embed.data = mae_encoding(4, 32)
        self.decoder_pos_embed = nn.Parameter(mae_encoding(4, 16))

    def forward(self, images):
        tokens = self.encoder.forward_features(images)
        x = self.decoder_embed(tokens) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return tokens, self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def weights(self):
        """By the names of its files."""
        encoder = self.encoder.state_dict()
        own = {k: v for k, v in self.state_dict().items() if not k.startswith('encoder.')}
        return {k: v for k, v in encoder.items() if not k.startswith('head.')} | own


def mae_encoding(side, channels):
    """As MAE's own code computes it (util/pos_embed.py): the column comes first."""
    columns, rows = np.meshgrid(np.arange(side, dtype=float), np.arange(side, dtype=float))
    omega = 1 / 10000 ** (np.arange(channels // 4) / (channels / 4))
    halves = []
    for places in columns, rows:
        angles = places.reshape(-1, 1) * omega
        halves += [np.sin(angles), np.cos(angles)]
    patches = np.concatenate(halves, axis=1)
    encoding = np.concatenate([np.zeros((1, channels)), patches])
    return torch.tensor(encoding, dtype=torch.float32)[None]


def run_import(content, layout, cfg, folder, capsys, *options, save=torch.save, name='file.pth'):
    """Write a file and a config, run the command, and give what came of it."""
    file, config, out = folder / name, folder / 'config.py', folder / 'out.pth'
    save(content, file)
    config.write_text(
        f"default_scope = 'mmpretrain'\nmodel = {cfg!r}\n"
        'data_preprocessor = dict(mean=[127.0, 120.0, 110.0], std=[60.0, 50.0, 40.0])\n'
    )
    argv = [str(file), '--from', layout, '--to', str(config), '--out', str(out), *options]
    try:
        status = import_command.main(argv)
    except SystemExit as ended:
        status = ended.code
    printed = capsys.readouterr()
    return SimpleNamespace(
        status=status, text=printed.out + printed.err, file=file, config=config, out=out
    )


def loaded(result, cfg):
    """The config's model with the file that was written, which passes both of a run's checks."""
    assert result.status == 0, result.text
    run = Config.fromfile(result.config)
    run.load_from = str(result.out)
    check_load_from(run)
    run = Config.fromfile(result.config)
    run.model.backbone.init_cfg = dict(
        type='Pretrained', checkpoint=str(result.out), prefix='backbone.'
    )
    check_pretrained(run)
    model = build(cfg, training=False)
    load_checkpoint(model, str(result.out), map_location='cpu', logger='silent')
    return model.eval().double()


def images(height=16, width=16):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 3, height, width, generator=generator).double()


def assert_same(found, expected):
    assert found.dtype == torch.float64  # an epsilon of the norms shows
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


AVERAGED = classifier(APL, vit(out_type='avg_featmap', final_norm=False), head=HEAD)
SCALED = classifier(APL, vit(layer_scale_init_value=1e-5), head=VIT_HEAD)
DISTILLED = classifier(
    APL, vit(type='DistilledVisionTransformer'), head=HEAD | dict(type='DeiTClsHead')
)
NEST = classifier(
    None,
    dict(type='TIMMBackbone', model_name='nest_tiny', img_size=16, patch_size=1),
    head=HEAD | dict(in_channels=384),
    **POOLED,
)
DISTILLED_NAME = 'deit_base_distilled_patch16_224'
# Layout, config, the library's model, and its file.
CASES = {
    'timm ViT': ('timm', classifier(APL, own_vit(), head=VIT_HEAD), timm_vit, dict),
    'timm ViT, averaged': ('timm', AVERAGED, lambda: timm_vit(global_pool='avg'), dict),
    'timm ViT, layer scale': ('timm', SCALED, lambda: timm_vit(init_values=0.1), dict),
    'MAE, fine-tuned': (
        'mae',
        AVERAGED,
        lambda: timm_vit(global_pool='avg'),
        lambda weights: dict(model=weights, epoch=3),
    ),
    'MAE, queries, keys and values apart': (
        'mae',
        AVERAGED,
        lambda: timm_vit(global_pool='avg'),
        lambda weights: dict(model=apart(weights)),
    ),
    'DeiT': ('deit', classifier(APL, own_vit(), head=VIT_HEAD), timm_vit, lambda w: dict(model=w)),
    'DeiT, distilled': (
        'deit',
        DISTILLED,
        lambda: timm_vit(DISTILLED_NAME),
        lambda weights: dict(model=weights),
    ),
    'DeiT III': ('deit', SCALED, deit_iii, as_deit_iii),
    'DeiT III, of timm': ('timm', SCALED, deit_iii, dict),
    'DINOv2': (
        'dinov2',
        SCALED,
        lambda: timm_vit(init_values=0.1),
        lambda weights: {**weights, 'mask_token': torch.zeros(1, 32)},
    ),
    'DINOv2, in chunks, a teacher': (
        'dinov2',
        SCALED,
        lambda: timm_vit(init_values=0.1),
        lambda weights: dict(
            teacher={
                f'backbone.{name.replace("blocks.", "blocks.0.")}': value
                for name, value in weights.items()
            }
        ),
    ),
    'timm Swin': ('timm', swin_classifier(), timm_swin, dict),
    "Swin's own": ('swin', swin_classifier(), timm_swin, lambda w: dict(model=official_swin(w))),
    'NesT': (
        'timm',
        NEST,
        lambda: drawn(timm.create_model('nest_tiny', img_size=16, patch_size=1, num_classes=3)),
        dict,
    ),
}


def apart(weights):
    split = {}
    for name, value in weights.items():
        if '.qkv.' in name:
            for letter, part in zip('qkv', value.chunk(3)):
                split[name.replace('.qkv.', f'.{letter}.')] = part.clone()
        else:
            split[name] = value
    return split


@pytest.mark.parametrize(
    'case',
    # timm fixes NesT's widths: 17 million weights.
    [pytest.param(case, marks=[pytest.mark.slow] * (case == 'NesT')) for case in CASES],
)
def test_models_of_other_libraries_compute_the_same(case, tmp_path, capsys):
    layout, cfg, make, as_file = CASES[case]
    theirs = make()
    result = run_import(as_file(theirs.state_dict()), layout, cfg, tmp_path, capsys)
    ours = loaded(result, cfg)
    theirs.double()
    side = cfg['backbone'].get('img_size', 16)
    with torch.no_grad():
        if 'DINOv2' in case:
            found = ours.backbone(images())[-1]
            expected = theirs.forward_features(images())[:, 0]
        else:
            found, expected = ours(images(side, side)), theirs(images(side, side))
    assert_same(found, expected)


# MAE's own files


def test_mae_s_own_model_with_its_decoder(tmp_path, capsys):
    theirs = MAE()
    result = run_import(dict(model=theirs.weights()), 'mae', MAE_CONFIG, tmp_path, capsys)
    ours = loaded(result, MAE_CONFIG)
    assert 'rows and columns are exchanged' in result.text
    theirs.double()
    with torch.no_grad():
        tokens, pixels = theirs(images())
        found = ours.backbone(images(), mask=None)[-1]
        in_order = torch.arange(16).expand(2, -1)
        assert_same(found, tokens)
        assert_same(ours.neck(found, in_order), pixels)


def test_mae_s_encoder_without_its_encoding_gets_it(tmp_path, capsys):
    theirs = MAE()
    weights = theirs.weights()
    del weights['pos_embed']
    result = run_import(dict(model=weights), 'mae', MAE_CONFIG, tmp_path, capsys)
    ours = loaded(result, MAE_CONFIG)
    assert "the file has no pos_embed: MAE's own sine-cosine encoding takes its" in result.text
    with torch.no_grad():
        found, expected = ours.backbone(images(), mask=None)[-1], theirs.double()(images())[0]
    # The two encodings were rounded to float32 by themselves.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_config_that_starts_from_a_checkpoint_starts_from_this_one(tmp_path, capsys):
    init_cfg = dict(type='Pretrained', checkpoint='not_trained_yet.pth', prefix='backbone.')
    cfg = classifier(APL, vit(init_cfg=init_cfg), head=VIT_HEAD)
    result = run_import(dict(model=MAE().weights()), 'mae', cfg, tmp_path, capsys)
    start = result.text.splitlines()[-1].removeprefix('start with --cfg-options ')
    run = Config.fromfile(result.config)
    run.merge_from_dict(dict(option.split('=') for option in start.split()))
    assert run.model.backbone.init_cfg == init_cfg | dict(checkpoint=str(result.out))
    check_pretrained(run)


def test_the_decoder_is_left_out_of_a_classifier(tmp_path, capsys):
    result = run_import(dict(model=MAE().weights()), 'mae', AVERAGED, tmp_path, capsys)
    loaded(result, AVERAGED)
    assert 'left out   mask_token: takes the place of masked patches' in result.text
    assert "more: MAE's decoder, which a config has that pre-trains" in result.text
    assert 'new        backbone.ln2.weight, backbone.ln2.bias, head.fc.weight and' in result.text


# Reports


def test_what_differs_is_reported(tmp_path, capsys):
    weights = timm_vit(img_size=32).state_dict()
    weights['head.weight'], weights['head.bias'] = torch.zeros(7, 32), torch.zeros(7)
    weights['register_tokens'] = torch.zeros(1, 4, 32)
    cfg = CASES['timm ViT'][1]
    result = run_import(weights, 'dinov2', cfg, tmp_path, capsys, save=safetensors_torch.save_file)
    loaded(result, cfg)
    lines = result.text.splitlines()
    assert lines[0] == 'arrived    30 tensors: 30 of backbone'
    assert lines[1].startswith('new        head.layers.head.weight, head.layers.head.bias, pos_')
    assert lines[2] == 'resized    backbone.pos_embed: 1x65x32 to 1x17x32'
    assert lines[3].startswith('left out   register_tokens: MMPretrain has no register tokens')
    assert 'left out   head.layers.head.weight: 7x32, and 3x32 in the config' in lines[4:6]
    assert lines[6] == (
        f'note       {result.file} does not tell the number of attention heads: 4 are assumed, as '
        'the config has them, and 1e-06 as epsilon of the norms'
    )
    assert lines[7:] == [
        f'written    {result.out}',
        f'start with --cfg-options load_from={result.out}',
    ]


def test_a_config_without_encoding_passes_it_over(tmp_path, capsys):
    cfg = classifier(APL, own_vit(pos_encoding='none'), head=VIT_HEAD)
    result = run_import(timm_vit().state_dict(), 'timm', cfg, tmp_path, capsys)
    loaded(result, cfg)
    assert 'pos_embed is ignored: the model of the config adds no encoding' in result.text


def test_the_modified_swin_takes_what_fits_it(tmp_path, capsys):
    backbone = SWIN | dict(type='poslabel_mm.PositionalSwinTransformer')
    cfg = classifier(apl_head(in_channels=32, grid_size=8), backbone, head=HEAD, **POOLED)
    theirs = timm_swin().state_dict()
    result = run_import(theirs, 'timm', cfg, tmp_path, capsys)
    ours = loaded(result, cfg)
    qkv = 'blocks.1.attn.qkv.weight', 'blocks.1.attn.w_msa.qkv.weight'
    assert torch.equal(ours.backbone.stages[0].state_dict()[qkv[1]], theirs[f'layers.0.{qkv[0]}'])
    norm = 'backbone.stages.0.downsample.norm'
    assert f'left out   {norm}.weight, {norm}.bias: 64, and 16 in the config' in result.text
    assert 'new        backbone.stages.0.blocks.0.cpe.' in result.text


@pytest.mark.parametrize(
    'given, has_row, built, checkpoint_grid',
    [
        (16, False, 16, None),
        (20, False, 16, None),  # another grid, a square
        ((12, 20), False, (12, 20), (3, 5)),
        ((12, 20), True, (12, 20), (3, 5)),
        # 15 patches and a class token are as many as a square of 4.
        ((12, 20), True, (16, 24), (3, 5)),
    ],
)
def test_an_encoding_without_the_class_token_gets_a_row_for_it(
    given, has_row, built, checkpoint_grid, tmp_path, capsys
):
    backbone = own_vit(
        img_size=built, layer_scale_init_value=1e-5, checkpoint_grid=checkpoint_grid
    )
    cfg = classifier(None, backbone, head=VIT_HEAD)
    theirs = timm_vit(img_size=given, init_values=0.1, no_embed_class=not has_row).state_dict()
    result = run_import(theirs, 'timm', cfg, tmp_path, capsys)
    arrived = loaded(result, cfg).backbone.pos_embed
    assert ('pos_embed is of the patches alone: ' in result.text) != has_row
    assert bool(arrived[:, 0].any()) == has_row
    resized = 'resized    backbone.pos_embed' in result.text
    assert resized == (given != built)
    if not resized:
        encoding = theirs['pos_embed'].double()
        assert torch.equal(arrived[:, -encoding.shape[1] :], encoding)


def test_a_grid_that_is_no_square_is_named(tmp_path, capsys):
    cfg = classifier(None, own_vit(img_size=(16, 64)), head=VIT_HEAD)
    theirs = timm_vit(img_size=(16, 64))
    options = '--cfg-options', 'model.backbone.checkpoint_grid=(4,16)'
    result = run_import(theirs.state_dict(), 'timm', cfg, tmp_path, capsys)
    assert result.status == 1 and options[1].replace('4,16', 'rows,columns') in result.text
    result = run_import(theirs.state_dict(), 'timm', cfg, tmp_path, capsys, *options)
    with torch.no_grad():
        assert_same(loaded(result, cfg)(images(16, 64)), theirs.double()(images(16, 64)))


# Refusals

PLAIN = classifier(APL, vit(), head=VIT_HEAD)
REFUSED = {
    'layers are missing': (
        lambda: timm_vit(depth=1).state_dict(),
        'timm',
        PLAIN,
        'it lacks backbone.layers.1.ln1.weight, ',
    ),
    'layers are left': (
        lambda: timm_vit(depth=3).state_dict(),
        'timm',
        PLAIN,
        'it has backbone.layers.2.ln1.weight, ',
    ),
    'another width': (
        lambda: timm_vit(embed_dim=16).state_dict(),
        'timm',
        PLAIN,
        'it has other sizes for backbone.cls_token, ',
    ),
    'layer scale': (
        lambda: timm_vit(init_values=0.1).state_dict(),
        'dinov2',
        PLAIN,
        'has layer scale, for which VisionTransformer has no place: --cfg-options '
        'model.backbone.layer_scale_init_value=1e-5',
    ),
    'layer scale of DeiT III': (
        lambda: as_deit_iii(deit_iii().state_dict()),
        'deit',
        PLAIN,
        'has layer scale, for which VisionTransformer has no place: --cfg-options '
        'model.backbone.layer_scale_init_value=1e-5',
    ),
    "MMPretrain's DeiT III, which uses one norm twice": (
        lambda: as_deit_iii(deit_iii().state_dict()),
        'deit',
        classifier(None, dict(type='DeiT3', arch=ARCH, img_size=16, patch_size=4), head=VIT_HEAD),
        "MMPretrain's DeiT3, whose layers use their first norm twice",
    ),
    'no layer scale': (
        lambda: timm_vit().state_dict(),
        'timm',
        SCALED,
        'it lacks backbone.layers.0.attn.gamma1.weight',
    ),
    'norms of queries and keys': (
        lambda: timm_vit(qk_norm=True).state_dict(),
        'timm',
        PLAIN,
        'has blocks.0.attn.q_norm.weight, ',
    ),
    'an unknown weight of a layer': (
        lambda: {**timm_vit().state_dict(), 'blocks.1.weird.weight': torch.ones(3)},
        'timm',
        PLAIN,
        'has blocks.1.weird.weight, for which VisionTransformer has no place: without',
    ),
    'an unknown weight of a timm model': (
        lambda: {**drawn(timm.create_model('test_vit')).state_dict(), 'blocks.0.w': torch.ones(3)},
        'timm',
        classifier(
            None,
            dict(type='TIMMBackbone', model_name='test_vit'),
            head=HEAD | dict(in_channels=64),
            **POOLED,
        ),
        'has blocks.0.w, for which TIMMBackbone has no place',
    ),
    'a norm before the layers': (
        lambda: timm_vit(pre_norm=True).state_dict(),
        'timm',
        PLAIN,
        'it has backbone.pre_norm.weight, ',
    ),
    'a distillation token': (
        lambda: timm_vit(DISTILLED_NAME).state_dict(),
        'deit',
        PLAIN,
        'has a distillation token, for which VisionTransformer has no place: set model.back',
    ),
    "another library's": (
        lambda: timm_vit().state_dict(),
        'hf',
        PLAIN,
        'is not a file that --from hf reads: its keys are those of timm: `poslabel import FILE',
    ),
    'another backbone': (
        lambda: timm_vit().state_dict(),
        'swin',
        PLAIN,
        '--from swin has weights for SwinTransformer, and the backbone of',
    ),
    'NaN': (
        lambda: {**timm_vit().state_dict(), 'norm.bias': torch.full((32,), torch.nan)},
        'timm',
        PLAIN,
        'holds NaN or infinity in backbone.ln1.bias',
    ),
    'no weights': (lambda: dict(epoch=3), 'timm', PLAIN, 'holds no weights'),
    'code': (lambda: dict(model=print), 'timm', PLAIN, 'it holds print, which could run'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_arrive_is_one_line_and_no_file(case, tmp_path, capsys):
    make, layout, cfg, said = REFUSED[case]
    result = run_import(make(), layout, cfg, tmp_path, capsys)
    assert result.status == 1
    assert result.text.startswith('error: ') and result.text.count('\n') == 1
    assert said in result.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ['config.py', 'file.pth']


def test_the_file_is_called_after_the_one_that_was_read():
    argv = ['a/mae_vit.pth', '--from', 'mae', '--to', 'config.py']
    assert import_command.parse_args(argv, 'poslabel import').out == 'mae_vit_poslabel.pth'


def test_names_are_those_of_mmpretrain_s_converter():
    """MMPretrain ships one for a ViT of this layout, DeiT-3's."""
    tool = load_tool(tool_path('model_converters/deit3_to_mmpretrain.py'))
    weights = timm_vit().state_dict()
    names = TIMM_VIT | {'head.layers.head': 'head'}
    assert {names.ours(name) for name in weights} == set(tool.convert_deit3(weights))
    assert [names.theirs(names.ours(name)) for name in weights] == list(weights)


def test_averaged_weights_beside_the_others_are_named(tmp_path, capsys):
    weights = timm_vit().state_dict()
    content = dict(state_dict_ema=weights, state_dict=weights, model_ema=weights, epoch=3)
    result = run_import(content, 'timm', PLAIN, tmp_path, capsys)
    assert result.status == 0
    assert "under 'state_dict' are read, and those under 'state_dict_ema', 'model_" in result.text
    result.out.unlink()
    result = run_import(dict(model_ema=weights), 'timm', PLAIN, tmp_path, capsys)
    assert result.status == 1 and "has weights under 'model_ema' alone: save" in result.text


# Hugging Face's config.json

HF_CONFIG = dict(hidden_size=32, num_attention_heads=4, hidden_act='gelu', layer_norm_eps=1e-6)


def hf_file(folder, **config):
    """A ViT of timm by Hugging Face's names, beside its config.json."""
    weights = build(PLAIN, training=False).state_dict()
    names = HUGGING_FACE_VIT | HUGGING_FACE_HEADS
    renamed = {names.theirs(name): value for name, value in split_qkv(weights).items()}
    renamed.pop(None)  # of position heads
    (folder / 'config.json').write_text(json.dumps(HF_CONFIG | config))
    return renamed


def test_hugging_face_s_epsilon_is_named_and_can_be_set(tmp_path, capsys):
    weights = hf_file(tmp_path, layer_norm_eps=1e-12)
    result = run_import(weights, 'hf', PLAIN, tmp_path, capsys)
    (note,) = [line for line in result.text.splitlines() if line.startswith('note')]
    assert 'with epsilon 1e-12, and the config has 1e-06: --cfg-options' in note
    options = note.partition(': ')[2].removesuffix(' computes the same').split()
    result.out.unlink()
    result = run_import(weights, 'hf', PLAIN, tmp_path, capsys, *options)
    assert result.status == 0 and 'note' not in result.text


@pytest.mark.parametrize(
    'config, said',
    [
        (dict(num_attention_heads=2), 'has 2 attention heads, and the config 4: set num_heads'),
        (dict(hidden_act='relu'), "has hidden_act='relu', and the config gelu"),
    ],
)
def test_what_hugging_face_s_config_tells_otherwise_is_refused(config, said, tmp_path, capsys):
    result = run_import(hf_file(tmp_path, **config), 'hf', PLAIN, tmp_path, capsys)
    assert result.status == 1 and said in result.text and result.text.count('\n') == 1
    assert not result.out.exists()


# With transformers, of the extra `exchange`


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['ViT', 'MAE', 'file'])
def test_models_of_hugging_face(kind, tmp_path, capsys):
    transformers = pytest.importorskip('transformers')
    sizes = dict(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
        num_labels=3,
    )
    cfg = classifier(APL, vit(norm_cfg=dict(type='LN', eps=1e-12)), head=VIT_HEAD)
    if kind == 'MAE':
        theirs = transformers.ViTMAEModel(transformers.ViTMAEConfig(**sizes, mask_ratio=0.0))
    else:
        theirs = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes))
    drawn(theirs)
    options = dict(save=lambda model, path: model.save_pretrained(path), name='folder')
    if kind == 'file':
        theirs.save_pretrained(tmp_path / 'saved')
        weights = safetensors_torch.load_file(tmp_path / 'saved' / 'model.safetensors')
        options = dict(save=torch.save)
    content = weights if kind == 'file' else theirs
    result = run_import(content, 'hf', cfg, tmp_path, capsys, **options)
    ours = loaded(result, cfg)
    theirs.double()
    with torch.no_grad():
        if kind == 'MAE':
            noise = (
                torch.arange(16.0).double().expand(2, -1)
            )  # of the masking: all patches in order
            expected = theirs(images(), noise=noise).last_hidden_state[:, 0]
            found = ours.backbone(images())[-1]
        else:
            found, expected = ours(images()), theirs(images()).logits
    assert_same(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['encoder', 'classifier', 'file', 'SwiGLU', 'registers'])
def test_dinov2_of_hugging_face(kind, tmp_path, capsys):
    transformers = pytest.importorskip('transformers')
    sizes = dict(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        mlp_ratio=2,
        image_size=16,
        patch_size=4,
        num_labels=3,
        use_swiglu_ffn=kind == 'SwiGLU',
    )
    name = 'Dinov2WithRegisters' if kind == 'registers' else 'Dinov2'
    if kind == 'registers':
        sizes['num_register_tokens'] = 2
    model = 'ForImageClassification' if kind == 'classifier' else 'Model'
    config = getattr(transformers, f'{name}Config')(**sizes)
    theirs = drawn(getattr(transformers, name + model)(config))
    content, options = theirs, dict(save=lambda m, path: m.save_pretrained(path), name='folder')
    if kind == 'file':
        theirs.save_pretrained(tmp_path / 'saved')
        content = safetensors_torch.load_file(tmp_path / 'saved' / 'model.safetensors')
        options = dict(save=torch.save)
    backbone = vit(layer_scale_init_value=1e-5)
    if kind == 'SwiGLU':
        backbone['layer_cfgs'] = dict(ffn_type='swiglu_fused')
    cfg = classifier(APL, backbone, head=VIT_HEAD)
    result = run_import(content, 'hf', cfg, tmp_path, capsys, **options)
    ours = loaded(result, cfg)
    assert 'mask_token: takes the place of masked patches, only in pre-training' in result.text
    assert ('MMPretrain has no register tokens' in result.text) == (kind == 'registers')
    assert ('3x64, and 3x32 in the config' in result.text) == (kind == 'classifier')
    assert ('attention heads' in result.text) == (kind == 'file')
    theirs = (theirs.dinov2 if kind == 'classifier' else theirs).double()
    if kind == 'registers':
        return  # other features without them, as the report says
    with torch.no_grad():
        assert_same(ours.backbone(images())[-1], theirs(images()).last_hidden_state[:, 0])
