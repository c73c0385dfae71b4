"""`poslabel export`: what it writes computes what the model computes, in each library."""

import errno
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import mmengine
import mmpretrain
import pytest
import torch
from mmpretrain.registry import MODELS as REGISTRY
from models import apl_head, build, classifier, tiny_vit

from poslabel_mm.errors import UserError
from poslabel_mm.interop import export_command, exporting, timm_model
from poslabel_mm.interop.hugging_face_model import hugging_face_files
from poslabel_mm.interop.network import Source
from poslabel_mm.interop.output import unfinished
from poslabel_mm.interop.stock_model import stock_config
from poslabel_mm.interop.verification import verify_program

timm = pytest.importorskip('timm')
safetensors_torch = pytest.importorskip('safetensors.torch')

ARCH = dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64)
VIT_HEAD = dict(type='VisionTransformerClsHead', num_classes=3, in_channels=32)
LINEAR_HEAD = dict(type='LinearClsHead', num_classes=3, in_channels=32)
POOLED = dict(neck=dict(type='GlobalAveragePooling'))
APL = apl_head(in_channels=32)
SWIN = dict(
    type='SwinTransformer',
    arch=dict(embed_dims=16, depths=[2, 1], num_heads=[2, 4]),
    img_size=32,
    window_size=4,
    out_indices=(1,),
)
OWN_SWIN = SWIN | dict(type='poslabel_mm.PositionalSwinTransformer')


def vit(**kwargs):
    return tiny_vit(arch=ARCH, **kwargs)


def own_vit(**kwargs):
    return vit(type='poslabel_mm.PositionalVisionTransformer', **kwargs)


def swin_classifier(backbone, grid=4):
    head = apl_head(in_channels=32, grid_size=grid)
    return classifier(head, backbone, head=LINEAR_HEAD, **POOLED)


MAE = dict(
    type='poslabel_mm.PositionalLabelMAE',
    backbone=dict(
        type='poslabel_mm.PositionalMAEViT', arch=ARCH, img_size=16, patch_size=4, mask_ratio=0.75
    ),
    neck=dict(
        type='MAEPretrainDecoder',
        num_patches=16,
        patch_size=4,
        embed_dim=32,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    ),
    head=dict(
        type='MAEPretrainHead',
        norm_pix=True,
        patch_size=4,
        loss=dict(type='PixelReconstructionLoss', criterion='L2'),
    ),
    pos_head=APL,
)
MOCO_NECK = dict(
    type='NonLinearNeck',
    in_channels=32,
    hid_channels=16,
    out_channels=8,
    with_bias=False,
    with_last_bn=True,
    with_avg_pool=False,
)
MOCO = dict(
    type='poslabel_mm.PositionalLabelMoCoV3',
    backbone=dict(
        type='poslabel_mm.PositionalMoCoV3ViT',
        arch=ARCH,
        img_size=16,
        patch_size=4,
        stop_grad_conv1=True,
        pos_swap=0.2,
        norm_eval=True,
    ),
    neck=MOCO_NECK,
    head=dict(
        type='MoCoV3Head',
        predictor=MOCO_NECK | dict(in_channels=8),
        loss=dict(type='CrossEntropyLoss', loss_weight=2.0),
        temperature=0.2,
    ),
    base_momentum=0.01,
    pos_head=APL,
)
NEST = dict(
    type='TIMMBackbone', model_name='nest_tiny', img_size=16, patch_size=1, drop_path_rate=0.1
)
MODELS = {
    'ViT': classifier(
        [APL, dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=32, grid_size=4)],
        own_vit(),
        head=VIT_HEAD,
    ),
    'stock ViT': classifier(None, vit(), head=VIT_HEAD),
    'no encoding': classifier(APL, own_vit(pos_encoding='none'), head=LINEAR_HEAD),
    'fixed encoding': classifier(APL, own_vit(pos_encoding='sincos'), head=LINEAR_HEAD),
    'layer scale': classifier(APL, vit(layer_scale_init_value=0.1), head=VIT_HEAD),
    'not square': classifier(
        apl_head(in_channels=32, grid_size=(4, 8)), own_vit(img_size=(16, 32)), head=VIT_HEAD
    ),
    'averaged': classifier(APL, vit(out_type='avg_featmap', final_norm=False), head=LINEAR_HEAD),
    'DeiT': classifier(
        APL, vit(type='poslabel_mm.DeiTVisionTransformer', init_cfg=None), head=VIT_HEAD
    ),
    'distilled DeiT': classifier(
        APL, vit(type='DistilledVisionTransformer'), head=VIT_HEAD | dict(type='DeiTClsHead')
    ),
    'Swin': swin_classifier(SWIN),
    'own stock Swin': swin_classifier(OWN_SWIN | dict(pos_encoding='rpb', last_downsample=True)),
    'modified Swin': swin_classifier(OWN_SWIN, grid=8),
    'NesT': classifier(
        apl_head(in_channels=384), NEST, head=LINEAR_HEAD | dict(in_channels=384), **POOLED
    ),
    'rotary': classifier(APL, own_vit(pos_encoding='rope'), head=VIT_HEAD),
    'causal': classifier(
        APL,
        vit(type='poslabel_mm.CausalVisionTransformer', out_type='avg_featmap'),
        head=LINEAR_HEAD,
    ),
    'exchanged encodings': classifier(APL, own_vit(pos_swap=0.2), head=VIT_HEAD),
    'MAE': MAE,
    'MFF': MAE
    | dict(
        type='poslabel_mm.PositionalLabelMFF',
        backbone=MAE['backbone'] | dict(type='MFFViT', out_indices=[0, 1]),
    ),
    'MoCo v3': MOCO,
}
# What is refused, and how.
REFUSED = {
    (
        'modified Swin',
        'stock',
    ): "has no PositionalSwinTransformer with pos_encoding='cpe' and last",
    ('modified Swin', 'timm'): "timm has no PositionalSwinTransformer with pos_encoding='cpe' and",
    ('rotary', 'stock'): "MMPretrain has no PositionalVisionTransformer with pos_encoding='rope'",
    ('rotary', 'timm'): "timm has no PositionalVisionTransformer with pos_encoding='rope'",
    ('causal', 'stock'): 'MMPretrain has no CausalVisionTransformer with causal attention',
    ('causal', 'timm'): 'timm has no CausalVisionTransformer with causal attention',
    ('averaged', 'hf'): "transformers' ViT has no out_type='avg_featmap'",
    ('layer scale', 'hf'): "transformers' ViT has no layer scale",
    ('distilled DeiT', 'hf'): "transformers' ViT has no distillation token and no DeiTClsHead",
    ('rotary', 'hf'): "transformers has no PositionalVisionTransformer with pos_encoding='rope'",
    ('Swin', 'hf'): 'takes a ViT that classifies, not PositionalLabelClassifier with SwinTrans',
    ('MAE', 'hf'): 'takes a ViT that classifies, not PositionalLabelMAE with PositionalMAEViT',
}
ENDINGS = {
    'stock': '.pth',
    'timm': '.safetensors',
    'hf': '',
    'onnx': '.onnx',
    'torch-export': '.pt2',
    'safetensors': '.safetensors',
}


def drawn(cfg, seed=0):
    """A model none of whose weights is as it was initialised."""
    model = build(cfg, seed, training=False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.add_(noise, alpha=0.2)
    return model


def saved(folder, cfg, model):
    """A config and a checkpoint of a model, as the command takes them."""
    config, checkpoint = folder / 'config.py', folder / 'epoch_1.pth'
    config.write_text(
        f"default_scope = 'mmpretrain'\nmodel = {cfg!r}\n"
        'data_preprocessor = dict(mean=[127.0, 120.0, 110.0], std=[60.0, 50.0, 40.0], '
        'to_rgb=True)\n'
        "test_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), "
        "dict(type='ResizeEdge', scale=20, edge='short', interpolation='bicubic'), "
        "dict(type='CenterCrop', crop_size=16), dict(type='PackInputs')]))\n"
    )
    meta = dict(dataset_meta=dict(classes=['a', 'b', 'c']))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), checkpoint)
    return str(config), str(checkpoint)


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    """Config and checkpoint by the model's name, made when they are asked for."""
    made = {}

    def source(name):
        if name not in made:
            folder = tmp_path_factory.mktemp('source')
            made[name] = saved(folder, MODELS[name], drawn(MODELS[name]))
        return made[name]

    return source


def export(source, form, out, capsys):
    """Run the command; its exit status and what it printed."""
    try:
        status = export_command.main([*source, '--to', form, '--out', str(out)])
    except SystemExit as ended:
        status = ended.code
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def check(name, form, sources, folder, capsys):
    out = folder / f'out{ENDINGS[form]}'
    status, text = export(sources(name), form, out, capsys)
    if (name, form) in REFUSED:
        assert status == 1 and REFUSED[name, form] in text
        assert text.startswith('error: ') and text.count('\n') == 1
        assert not list(folder.iterdir())
        return None
    assert status == 0, text
    assert 'verified' in text
    assert [path.name for path in folder.iterdir()] == [out.name]
    return out, text


@pytest.mark.parametrize(
    'name, form',
    [
        *((n, f) for n in MODELS if n != 'NesT' for f in ('stock', 'timm', 'safetensors')),
        # timm fixes NesT's widths: 17 million weights.
        pytest.param('NesT', 'timm', marks=pytest.mark.slow),
    ],
)
def test_models_for_mmpretrain_and_timm(name, form, sources, tmp_path, capsys):
    written = check(name, form, sources, tmp_path, capsys)
    if written is None:
        return
    out, text = written
    weights = (
        torch.load(out, weights_only=True)['state_dict']
        if form == 'stock'
        else safetensors_torch.load_file(out)
    )
    assert not [key for key in weights if 'pos_head' in key or 'neck' in key]
    assert 'left out' in text or name == 'stock ViT'
    if form != 'timm':
        assert 'are equal (largest difference 0.0)' in text
        assert_reads(text, weights)


def assert_reads(text, weights):
    """The printed line, as a user would run it, gives a model with the weights."""
    import safetensors.torch

    (line,) = [line[11:] for line in text.splitlines() if line.startswith('read ')]
    names = dict(mmpretrain=mmpretrain, mmengine=mmengine, safetensors=safetensors)
    exec(line if line.startswith('model = ') else f'model = {line}', names)
    own = names['model'].state_dict()
    assert set(own) == set(weights)
    assert all(torch.equal(own[name], value) for name, value in weights.items())


def test_names_of_moco_v3_s_own_sizes_are_resolved():
    """Building MoCo v3's ViT adds them to MMPretrain's ViT, in that process alone."""
    backbone = dict(type='MoCoV3ViT', arch='mocov3-small', img_size=16, patch_size=4)
    source = SimpleNamespace(
        cfg=mmengine.Config(dict(model=dict(backbone=backbone))),
        is_classifier=False,
        model=SimpleNamespace(backbone=REGISTRY.build(backbone)),
    )
    sizes = dict(embed_dims=384, num_layers=12, num_heads=12, feedforward_channels=1536)
    assert stock_config(source) == dict(
        type='VisionTransformer', arch=sizes, img_size=16, patch_size=4
    )


def test_what_timm_is_told_builds_it(sources, tmp_path, capsys):
    """The printed call, as a user would run it."""
    out, text = check('not square', 'timm', sources, tmp_path, capsys)
    (call,) = [line[11:] for line in text.splitlines() if line.startswith('read ')]
    assert call == (
        "timm.create_model('vit_base_patch16_224', img_size=(16, 32), patch_size=4, "
        'num_classes=3, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2.0, '
        'pretrained_cfg_overlay=dict(input_size=(3, 16, 32), mean=(0.498039, 0.470588, 0.431373), '
        "std=(0.235294, 0.196078, 0.156863), interpolation='bicubic', crop_pct=0.8), "
        f"checkpoint_path='{out}')"
    )
    model = eval(call, dict(timm=timm))
    assert model.num_classes == 3
    images = timm.data.resolve_model_data_config(model)
    assert images['input_size'] == (3, 16, 32) and images['interpolation'] == 'bicubic'
    assert images['crop_pct'] == 0.8 and images['std'] == (0.235294, 0.196078, 0.156863)
    assert 'images     RGB, 3x16x32, normalised: (pixel from 0 to 255 - [127, 120, 110]) /' in text


def test_hugging_face_s_processor_does_what_the_test_does(sources, tmp_path):
    config, checkpoint = sources('ViT')
    source = Source(mmengine.Config.fromfile(config), checkpoint)
    assert hugging_face_files(source, str(tmp_path))
    images = json.loads((tmp_path / 'preprocessor_config.json').read_text())
    assert images['size'] == dict(shortest_edge=20) and images['resample'] == 3  # bicubic
    assert images['crop_size'] == dict(height=16, width=16)
    assert images['image_mean'][0] == pytest.approx(127 / 255)
    (tmp_path / 'preprocessor_config.json').unlink()
    source.cfg.test_dataloader.dataset.pipeline.pop(1)  # the resizing
    assert not hugging_face_files(source, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ['config.json']


# What goes wrong


@pytest.fixture
def exchanged_norms(monkeypatch):
    """A table with two names exchanged builds a model that fits, and computes something else."""
    pairs = dict(timm_model.TIMM_VIT.pairs)
    first, second = 'backbone.layers.{i}.ln1', 'backbone.layers.{i}.ln2'
    pairs[first], pairs[second] = pairs[second], pairs[first]
    monkeypatch.setattr(timm_model, 'TIMM_VIT', type(timm_model.TIMM_VIT)(pairs))


@pytest.fixture(scope='module')
def untrained(tmp_path_factory):
    """A ViT whose classifier is zero, as MMPretrain's starts."""
    model = drawn(MODELS['ViT'])
    for parameter in model.head.parameters():
        parameter.data.zero_()
    return saved(tmp_path_factory.mktemp('untrained'), MODELS['ViT'], model)


def test_weights_that_differ_are_refused(sources, untrained, tmp_path, capsys, exchanged_norms):
    for source in sources('ViT'), untrained:
        status, text = export(source, 'timm', tmp_path / 'out.pth', capsys)
        assert status == 1
        assert text.startswith('error: not exported: the outputs of what was written differ from')
        assert not list(tmp_path.iterdir())


def linear(weight):
    network = torch.nn.Linear(4, 3)
    torch.nn.init.constant_(network.weight, weight), torch.nn.init.ones_(network.bias)
    return network


BATCHES = [torch.arange(4.0 * size).view(size, 4) for size in (1, 2)]


@pytest.mark.parametrize('weight', [1.0, 1e-3, 1e-6])
def test_outputs_of_a_healthy_model_may_lie_close_together(weight):
    network = linear(weight)
    # Also where the images differ in an earlier batch than the last.
    for batches in BATCHES, BATCHES[::-1], BATCHES[:1]:
        assert 'are equal (largest difference 0.0)' in verify_program(network, network, batches)


@pytest.mark.parametrize('weight', [1e-6, 0])
def test_a_program_of_constants_is_refused(weight):
    """Where it differs by less than the bound too, as the outputs hardly differ."""
    network = linear(weight)
    with torch.no_grad():
        constant = network(BATCHES[0])
    with pytest.raises(
        UserError, match='^not exported: the outputs of the model differ between images by only'
    ):
        verify_program(network, lambda images: constant.expand(len(images), 3), BATCHES)


@pytest.mark.parametrize('to', ['stock', 'timm', 'hf', 'safetensors'])
def test_weights_of_an_untrained_classifier_are_exported(untrained, to, tmp_path, capsys):
    """Whose outputs are the same for all images."""
    if to == 'hf':
        pytest.importorskip('transformers')
    status, text = export(untrained, to, tmp_path / f'out{ENDINGS[to]}', capsys)
    assert (status, 'are equal (largest difference 0.0)' in text) == (0, True), text


@pytest.mark.slow
def test_a_program_of_an_untrained_classifier_is_not_left(untrained, tmp_path, capsys):
    status, text = export(untrained, 'torch-export', tmp_path / 'out.pt2', capsys)
    assert status == 1 and text.count('\n') == 1
    assert text.startswith('error: not exported: the outputs of the model differ between images ')
    assert 'train the model first, or take --to safetensors' in text
    assert not list(tmp_path.iterdir())


def test_heads_of_several_tasks_are_refused_by_name(tmp_path, capsys):
    heads = dict(a=dict(type='LinearClsHead', num_classes=2), b=LINEAR_HEAD)
    cfg = classifier(
        None, vit(), head=dict(type='MultiTaskHead', task_heads=heads, in_channels=32)
    )
    source = saved(tmp_path, cfg, build(cfg))
    status, text = export(source, 'stock', tmp_path / 'out.pth', capsys)
    assert status == 1 and text.startswith('error: a classifier with MultiTaskHead cannot be')


@pytest.mark.parametrize(
    'form, out, said',
    [
        ('timm', 'out.onnx', 'must end in .safetensors or .pth'),
        ('hf', 'taken', 'exists: remove it, or name another'),
        ('stock', 'gone/out.pth', 'the folder of --out'),
        ('nonsense', 'out.pth', "invalid choice: 'nonsense'"),
    ],
)
def test_arguments_are_refused_before_anything_is_read(form, out, said, tmp_path, capsys):
    (tmp_path / 'taken').mkdir()
    try:
        status, text = export(['no.py', 'no.pth'], form, tmp_path / out, capsys)
    except UserError as error:
        status, text = 1, f'error: {error}'
    assert status == 1 and said in text
    assert [path.name for path in tmp_path.iterdir()] == ['taken']


def test_ctrl_c_leaves_nothing_behind(sources, tmp_path, capsys, monkeypatch):
    def interrupted(source, path):
        torch.save({}, path)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setitem(exporting.WRITERS, 'stock', interrupted)
    status, text = export(sources('ViT'), 'stock', tmp_path / 'out.pth', capsys)
    assert (status, text) == (130, 'interrupted\n')
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) == before


def no_links(*paths):
    raise OSError(errno.EPERM, 'Operation not permitted')


@pytest.mark.parametrize('kind', ['link', 'no links', 'folder'])
def test_what_was_made_in_the_meantime_is_kept(kind, tmp_path, monkeypatch):
    if kind == 'no links':
        monkeypatch.setattr(os, 'link', no_links)
    make = Path.mkdir if kind == 'folder' else Path.touch
    out = tmp_path / 'out'
    with unfinished(str(out)) as path:
        make(Path(path))
    assert [path.name for path in tmp_path.iterdir()] == ['out']
    out = tmp_path / 'taken'
    with pytest.raises(UserError, match='taken was made by another program in the meantime'):
        with unfinished(str(out)) as path:
            make(Path(path))
            out.write_text('kept')
    assert out.read_text() == 'kept' and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    'number, kind, said',
    [(errno.ENOSPC, UserError, 'could not write'), (errno.ENOENT, FileNotFoundError, 'weights')],
)
def test_errors_of_other_files_are_not_those_of_out(number, kind, said, tmp_path):
    with pytest.raises(kind, match=said):
        with unfinished(str(tmp_path / 'out')):
            raise OSError(number, 'reason', 'weights.bin')
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_line(sources, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    status, text = export(sources('ViT'), 'onnx', tmp_path / 'out.onnx', capsys)
    assert status == 1
    assert text == (
        'error: --to onnx needs onnx, onnxscript, onnxruntime: '
        "pip install 'poslabel_mm[exchange]'\n"
    )


# With packages of the extra `exchange`


def with_packages(form):
    for package in export_command.FORMATS[form].packages:
        pytest.importorskip(package)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    ['ViT', 'not square', 'no encoding', *(name for name, form in REFUSED if form == 'hf')],
)
def test_models_for_hugging_face(name, sources, tmp_path, capsys):
    with_packages('hf')
    written = check(name, 'hf', sources, tmp_path, capsys)
    if written is None:
        return
    out, text = written
    assert 'class scores of 2 images and the features before the classifier' in text
    config, images = (
        json.loads((out / name).read_text())
        for name in ('config.json', 'preprocessor_config.json')
    )
    assert config['id2label'] == {'0': 'a', '1': 'b', '2': 'c'}
    assert images['image_mean'][0] == pytest.approx(127 / 255)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['ViT', 'modified Swin'])
def test_programs_of_onnx_take_any_batch(name, sources, tmp_path, capsys):
    with_packages('onnx')
    out, text = check(name, 'onnx', sources, tmp_path, capsys)
    assert 'outputs at batches of 1, 2, 5' in text
    import onnx

    graph = onnx.load(out).graph
    assert [value.name for value in (*graph.input, *graph.output)] == ['images', 'scores']
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert not [weight.name for weight in graph.initializer if 'pos_head' in weight.name]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['Swin', 'MAE'])
def test_programs_of_torch_export_take_any_batch(name, sources, tmp_path, capsys):
    out, text = check(name, 'torch-export', sources, tmp_path, capsys)
    assert 'outputs at batches of 1, 2, 5' in text
    assert not [key for key in torch.export.load(out).state_dict if 'pos_head' in key]
