"""``poslabel look``: which pictures are made of which model, and what they show."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import ModuleList
from mmengine.runner import load_checkpoint
from mmpretrain.registry import MODELS
from PIL import Image
from selfsup_models import ALGORITHMS
from tiny_run import RUNTIME, make_images

from poslabel_mm import UserError, cli, config_path
from poslabel_mm.experiments.recorded import read_csv
from poslabel_mm.launch import saved_model
from poslabel_mm.tokens import OffsetPredictions
from poslabel_mm.tokens.predictions import rows_and_columns
from poslabel_mm.visualization import jigsaw, look, look_model, look_pictures, position_map
from poslabel_mm.visualization.look_images import find_images, spread

pytestmark = pytest.mark.computes
ROOT = Path(__file__).resolve().parents[1]

# A ViT whose tokens hold their place and nothing else, and a head that reads it off.
CONFIG = """
_base_ = {runtime!r}
model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    backbone=dict(
        type='VisionTransformer', img_size=16, patch_size=4,
        arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16)),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=16),
    pos_head=dict(
        type='poslabel_mm.PositionalLabelHead', in_channels=16, grid_size=4, channels='all',
        hidden_channels=16, feat_channels=16))
data_preprocessor = dict(num_classes=2, mean=[127.] * 3, std=[60.] * 3, to_rgb=True)
test_dataloader = dict(
    batch_size=4, num_workers=0,
    dataset=dict(
        type='CustomDataset', data_root={data!r},
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]),
    sampler=dict(type='DefaultSampler', shuffle=False))
test_evaluator = dict(type='Accuracy', topk=(1, ))
test_cfg = dict()
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp('looked') / 'test')


def save_checkpoint(model, path):
    meta = dict(dataset_meta=dict(classes=('cat', 'dog')))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return str(path)


@torch.no_grad()
def plant(model):
    """Make the tokens of a model their places, and have the head tell them."""
    vit, head = model.backbone, model.pos_head
    vit.patch_embed.projection.weight.mul_(1e-3)
    vit.pos_embed.zero_()
    vit.pos_embed[0, 1:] = 10 * torch.eye(16)
    for layer in vit.layers:
        layer.attn.proj.weight.mul_(1e-3)
        for module in layer.ffn.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.mul_(1e-3)
    for linear in head.fc1, head.fc2, head.classifier:
        linear.weight.copy_(torch.eye(16))
        linear.bias.zero_()


@pytest.fixture
def planted(tmp_path, data, monkeypatch):
    """A config and a checkpoint of a model that reads places off its encoding."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['poslabel'])
    config = tmp_path / 'planted.py'
    config.write_text(CONFIG.format(runtime=RUNTIME, data=data))
    model = MODELS.build(Config.fromfile(str(config)).model)
    model.init_weights()
    plant(model)
    return str(config), save_checkpoint(model, tmp_path / 'planted.pth')


def call(capsys, *argv):
    """Exit status, standard output and standard error of the command in this process."""
    try:
        status = cli.main(['look', *map(str, argv)])
    except SystemExit as left:
        status = left.code
    out, err = capsys.readouterr()
    return status, out.splitlines(), err.splitlines()


def fails(capsys, *argv):
    """The one line of a call that is refused."""
    status, out, err = call(capsys, *argv)
    assert (status, out) == (1, []) and len(err) == 1, (status, out, err)
    return err[0]


@pytest.fixture
def drawn(monkeypatch):
    """The rows that are handed to the pictures, by the picture's kind."""
    rows = {}
    for module, name, position in (
        (jigsaw, 'draw_jigsaw', 2),
        (position_map, 'draw_map', 2),
        (position_map, 'draw_cell_errors', 1),
        (look_pictures.features, 'draw_features', 3),
    ):

        def recorded(*args, stock=getattr(module, name), name=name, position=position):
            rows.setdefault(name.removeprefix('draw_'), []).append(args[position])
            return stock(*args)

        monkeypatch.setattr(module, name, recorded)
    return rows


def test_all_pictures_of_a_split(planted, capsys, drawn):
    config, checkpoint = planted
    status, out, err = call(capsys, config, checkpoint, 'test', '--out', 'o', '--pictures', 2)
    assert (status, err) == (0, [])
    names = ['test-0_map', 'test-11_map', 'test-0_jigsaw', 'test-11_jigsaw']
    names += ['test-0_features', 'test-11_features', 'errors']
    assert [line for line in out if line.endswith('.png')] == [f'o/{name}.png' for name in names]
    assert all(Image.open(f'o/{name}.png').size[0] > 500 for name in names)
    assert 'places: 100.0 % right, 0.00 patches off on average (12 images)' in out
    for (row,) in drawn['map']:
        assert row.predicted.tolist() == list(range(16)) and not row.errors.any()
    ((errors,),) = drawn['cell_errors']
    assert errors.right.shape == (4, 4) and (errors.right == 1).all()
    # The encoding is kept: what it says is the slot, whatever the slot shows.
    for (row,) in drawn['jigsaw']:
        assert row.places.tolist() == list(range(16)) != row.order.tolist()
        assert np.array_equal(row.restored, row.shuffled)
        assert all(text.startswith(('cat (', 'dog (')) for text in row.classes)
    assert any('positional encoding left at its places' in line for line in out)


@pytest.mark.parametrize('encoding', ['shuffled', 'removed'])
def test_the_jigsaw_tells_where_the_position_is(planted, capsys, drawn, data, encoding):
    config, checkpoint = planted
    status, out, _ = call(
        capsys, config, checkpoint, f'{data}/a/3.png', '--out', 'o', '--what', 'jigsaw',
        '--encoding', encoding,
    )  # fmt: skip
    assert status == 0 and out[0] == 'o/3_jigsaw.png'
    ((row,),) = drawn['jigsaw']
    original = np.asarray(Image.open(f'{data}/a/3.png'))
    assert np.array_equal(row.original, original)  # as RGB, whatever the loader's order is
    if encoding == 'shuffled':
        assert np.array_equal(row.restored, original)
        assert '100.0 % of the patches put right (1 image; positional encoding shuffled' in out[1]
    else:
        assert not np.array_equal(row.restored, original)
        assert 'positional encoding removed' in out[1]


def test_a_seed_shuffles_anew_and_repeats(planted, capsys, drawn):
    for seed in 0, 0, 1:
        options = '--what', 'jigsaw', '--pictures', 1, '--seed', seed
        call(capsys, *planted, 'test', '--out', 'o', *options)
    first, again, other = (row.order.tolist() for (row,) in drawn['jigsaw'])
    assert first == again != other


def test_options_may_stand_before_the_images(planted, capsys):
    status, out, _ = call(capsys, *planted, '--what', 'map', '--pictures', 1, '--out', 'o', 'test')
    assert status == 0 and out == ['o/test-0_map.png']


def test_two_checkpoints_are_shown_in_one_picture(planted, capsys, drawn, tmp_path):
    config, checkpoint = planted
    model = MODELS.build(Config.fromfile(config).model)
    model.init_weights()
    (tmp_path / 'other').mkdir()
    other = save_checkpoint(model, tmp_path / 'other/epoch_1.pth')
    status, out, _ = call(
        capsys, config, checkpoint, 'test', '--against', other, '--out', 'o', '--pictures', 1
    )
    assert status == 0
    labels = [f'{tmp_path.name}/planted', 'other/epoch_1']
    for kind in 'map', 'jigsaw', 'cell_errors', 'features':
        assert [row.label for row in drawn[kind][0]] == labels
    first, second = drawn['jigsaw'][0]
    assert np.array_equal(first.shuffled, second.shuffled)
    assert sum(line.startswith(f'places of {labels[1]}: ') for line in out) == 1


def test_a_checkpoint_without_heads_shows_its_features(planted, capsys, drawn, tmp_path):
    config, checkpoint = planted
    content = torch.load(checkpoint, weights_only=True)
    for key in [key for key in content['state_dict'] if key.startswith('pos_head.')]:
        del content['state_dict'][key]
    torch.save(content, 'stock.pth')
    status, out, err = call(capsys, config, 'stock.pth', 'test', '--out', 'o', '--pictures', 1)
    assert status == 0 and out == ['o/test-0_features.png']
    assert err == [
        'note: checkpoint stock.pth has no position head: of this model the features alone are '
        'shown'
    ]
    line = fails(
        capsys, config, 'stock.pth', 'test', '--what', 'jigsaw', 'features', '--out', 'new'
    )
    assert line == (
        'error: checkpoint stock.pth has no position head, which --what jigsaw needs: its '
        'features can be shown, with --what features'
    )
    assert not Path('new').exists()


class Offsets(torch.nn.Module):
    """A relative head that sees how every two patches lie, wherever they are shown."""

    loss_name = 'loss_offsets'

    def loss(self, patch_tokens):
        return {}

    def predict(self, patch_tokens):
        true_places = patch_tokens.tokens[..., :16].argmax(-1)
        here = rows_and_columns(true_places, (4, 4)).float()
        slots = torch.arange(16).expand(len(here), -1)
        return OffsetPredictions((4, 4), slots, here.unsqueeze(2) - here.unsqueeze(1))


def test_offsets_become_places(planted, capsys, monkeypatch, drawn):
    build = saved_model.build_model

    def with_two_heads(cfg):
        model = build(cfg)
        model.pos_head = ModuleList([model.pos_head, Offsets()])
        return model

    config, checkpoint = planted
    content = torch.load(checkpoint, weights_only=True)
    content['state_dict'] = {
        key.replace('pos_head.', 'pos_head.0.'): value
        for key, value in content['state_dict'].items()
    }
    torch.save(content, 'two.pth')
    monkeypatch.setattr(saved_model, 'build_model', with_two_heads)
    status, out, _ = call(
        capsys, config, 'two.pth', 'test', '--out', 'o', '--pictures', 1, '--encoding', 'shuffled'
    )
    assert status == 0
    for head in 'apl', 'offsets':
        assert f'places of {head}: 100.0 % right, 0.00 patches off on average (12 images)' in out
        assert any(line.startswith(f'jigsaw of {head}: 100.0 %') for line in out)
    assert [row.label for row in drawn['map'][0]] == ['apl', 'offsets']


def test_a_stock_config_shows_its_features(planted, capsys, drawn):
    config, checkpoint = planted
    cfg = Config.fromfile(config)
    cfg.model.type = 'ImageClassifier'
    cfg.model.pop('pos_head')
    cfg.dump('stock.py')
    content = torch.load(checkpoint, weights_only=True)
    weights = content['state_dict']
    content['state_dict'] = {k: v for k, v in weights.items() if not k.startswith('pos_head.')}
    torch.save(content, 'stock.pth')
    status, out, err = call(capsys, 'stock.py', 'stock.pth', 'test', '--out', 'o', '--pictures', 1)
    assert status == 0 and out == ['o/test-0_features.png']
    assert err[0].startswith('note: the model of stock.pth has no position head: ')
    (row,) = drawn['features'][0]
    assert row.attention.shape == (16,) and row.colours.shape == (16, 3)


def test_heads_that_predict_nothing_show_features(planted, capsys, monkeypatch):
    monkeypatch.delattr('poslabel_mm.models.heads.PositionalLabelHead.predict')
    status, out, err = call(capsys, *planted, 'test', '--out', 'o', '--pictures', 1)
    assert status == 0 and out == ['o/test-0_features.png']
    assert err[0].startswith('note: no position head in checkpoint ')


def test_the_chosen_patch(planted, capsys, drawn):
    options = '--out', 'o', '--what', 'features', '--pictures', 1
    call(capsys, *planted, 'test', *options, '--patch', 2, 3)
    ((row,),) = drawn['features']
    assert row.similarity.argmax() == 11
    line = fails(capsys, *planted, 'test', *options, '--patch', 4, 0)
    assert line == (
        'error: --patch 4 0 is outside of the 4x4 patches: rows are counted from 0 to 3, columns '
        'to 3'
    )


def test_errors_by_place_are_averaged_over_the_images_asked_for(planted, capsys):
    out = call(capsys, *planted, 'test', '--out', 'o', '--what', 'errors', '--at-most', 5)[1]
    assert out[1].endswith('(5 images)')


def test_weights_pass_the_gate_of_a_test(planted, capsys, tmp_path):
    config, checkpoint = planted
    content = torch.load(checkpoint, weights_only=True)
    del content['state_dict']['backbone.cls_token']
    torch.save(content, 'cut.pth')
    line = fails(capsys, config, 'cut.pth', 'test', '--out', 'o')
    assert 'checkpoint cut.pth is not of this model: ' in line and 'backbone.cls_token' in line
    Path('text.pth').write_text('no checkpoint')
    assert 'text.pth' in fails(capsys, config, 'text.pth', 'test', '--out', 'o')
    assert 'missing.pth' in fails(capsys, config, 'missing.pth', 'test', '--out', 'o')
    assert not Path('o').exists()


@pytest.mark.parametrize(
    'argv, line',
    [
        (['nowhere.png'], 'nowhere.png does not exist: name image files, folders of images, or '),
        (['empty'], 'folder empty has no image (.jpg, '),
        (['broken.png'], 'cannot read image broken.png, its 4 bytes are no whole image: '),
        (['val'], 'has no val_dataloader: name test or image files'),
        (['test', '--what', 'maps'], "invalid choice: 'maps' "),
        (['test', '--encoding', 'gone'], "invalid choice: 'gone' "),
        (['test', '--pictures', '0'], "expected a whole number from 1 on, got '0'; LOOK --help"),
        (['test', '--against-config', 'x.py'], 'is the config of --against CHECKPOINT: give both'),
        (['test', '--cfg-options', 'a'], '--cfg-options takes KEY=VALUE pairs, got a'),
        (['test', '--cfg-options', 'a=[1,'], '; quote a value with brackets'),
        (
            ['test', '--cfg-options', 'visualizer.vis_backends.1.save_dir=x'],
            'visualizer.vis_backends must be a list of backends: add one with --cfg-options ',
        ),
        (['test', '--cfg-options', 'model.type.x=1'], 'model.type.x=1 does not fit'),
    ],
)
def test_what_cannot_be_used_is_one_line(planted, capsys, tmp_path, argv, line):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'broken.png').write_text('PNG?')
    # An environment of packages alone has no script for the command.
    forms = [
        line.replace('LOOK', f'{name} look') for name in ('poslabel', 'python -m poslabel_mm')
    ]
    found = fails(capsys, *planted, *argv, '--out', 'o')
    assert any(form in found for form in forms)
    assert not list(Path().glob('o/*'))


def test_an_image_of_another_size_says_what_fits(planted, capsys):
    Image.fromarray(np.zeros((20, 16, 3), dtype=np.uint8)).save('tall.png')
    line = fails(capsys, *planted, 'tall.png', '--out', 'o', '--what', 'map')
    assert 'The input has a 5x4 patch grid but PositionalLabelHead was built with' in line


@pytest.mark.parametrize('to_rgb', ['True', 'False'])
def test_a_photograph_has_its_own_colours(planted, capsys, drawn, to_rgb):
    # A model of grey images has no need to turn the channels, which are read as BGR.
    config, checkpoint = planted
    Path(config).write_text(Path(config).read_text().replace('to_rgb=True', f'to_rgb={to_rgb}'))
    Image.new('RGB', (16, 16), 'red').save('red.png')
    status, _, err = call(capsys, config, checkpoint, 'red.png', '--out', 'o', '--what', 'jigsaw')
    assert (status, err) == (0, [])
    ((row,),) = drawn['jigsaw']
    assert (row.shuffled == [255, 0, 0]).all()


def test_folders_and_names(data, planted):
    cfg = Config.fromfile(planted[0])
    images = find_images(cfg, [data, f'{data}/a/0.png', 'test'])
    names = [image.name for image in images]
    assert len(names) == 25 == len(set(names))
    assert names[:3] == ['0', '1', '2'] and '0-2' in names and names[-1] == 'test-11'
    assert [image.name for image in spread(images[13:], 3)] == ['test-0', 'test-6', 'test-11']
    Path('test').mkdir()
    with pytest.raises(UserError, match='folder test has no image'):
        find_images(cfg, ['test'])  # what exists as a path is a path


# -------------------------------------------------------------------------------- other models


@pytest.mark.parametrize('name', ['mae-vit-tiny_apl_digits.py', 'mae-vit-tiny_digits.py'])
def test_mae_shows_all_patches(tmp_path, monkeypatch, capsys, drawn, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['poslabel'])
    cfg = Config.fromfile(str(ROOT / 'configs' / name))
    model = MODELS.build(cfg.model)
    model.init_weights()
    save_checkpoint(model, 'mae.pth')
    status, out, err = call(
        capsys, name, 'mae.pth', 'train', '--out', 'o', '--pictures', 1, '--at-most', 3
    )
    assert status == 0
    ((row,),) = drawn['features']
    assert row.colours.shape == (36, 3) and row.attention.shape == (36,)
    if 'apl' in name:
        ((row,),) = drawn['jigsaw']
        assert sorted(row.places.tolist()) == list(range(36)) and row.classes is None
        assert 'the model has no positional encoding' in ' '.join(out)
    else:
        assert out == ['o/train-0_features.png'] and 'has no position head' in err[0]
    assert 'has no val_dataloader: name train or image files' in fails(
        capsys, name, 'mae.pth', 'val', '--out', 'o'
    )


@pytest.mark.parametrize('name', ['MAE-HiViT', 'SimMIM', 'MoCo v3', 'BEiT', 'MFF'])
def test_other_self_supervised_models_show_all_patches(tmp_path, name):
    algorithm = ALGORITHMS[name]
    model = algorithm.cfg() | dict(
        type=f'poslabel_mm.{algorithm.name}', pos_head=algorithm.head('apl')
    )
    model.pop('target_generator', None)
    preprocessor = dict(type='SelfSupDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3)
    cfg = Config(dict(default_scope='mmpretrain', model=model, data_preprocessor=preprocessor))
    built = MODELS.build(cfg.model)
    built.init_weights()
    looked = look_model.SavedModel(cfg, save_checkpoint(built, tmp_path / 'a.pth'), 'a')
    side = 128 if name == 'SimMIM' else 16
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    tokens = looked.tokens(images)
    H, W = tokens.grid_shape
    assert tokens.tokens.shape == (2, H * W, algorithm.channels) and tokens.indices is None
    if (H, W) == algorithm.grid:
        predicted = looked.predictions(images)['apl']
        assert predicted.true_places.tolist() == [list(range(H * W))] * 2
    assert looked.class_texts(images) is None


@pytest.mark.parametrize('name', ['BEiT', 'BEiT v2', 'iTPN'])
def test_images_go_through_the_algorithms_own_preprocessor(tmp_path, name):
    preprocessor = dict(
        type='TwoNormDataPreprocessor',
        mean=[127.0] * 3,
        std=[60.0] * 3,
        second_mean=[0.0] * 3,
        second_std=[255.0] * 3,
    )
    model = ALGORITHMS[name].cfg()
    model.pop('target_generator', None)
    cfg = Config(dict(default_scope='mmpretrain', model=model, data_preprocessor=preprocessor))
    built = MODELS.build(cfg.model)
    looked = look_model.SavedModel(cfg, save_checkpoint(built, tmp_path / 'a.pth'), 'a')
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    seen = []
    hook = looked.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    H, W = looked.tokens(images).grid_shape
    hook.remove()
    assert looked.tokens(images).tokens.shape[:2] == (2, H * W)
    torch.testing.assert_close(seen[0].cpu(), (images.float() - 127) / 60)


def test_a_backbone_without_class_token_says_so(tmp_path, data, monkeypatch, capsys, drawn):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['poslabel'])
    Path('swin.py').write_text(
        CONFIG.format(runtime=RUNTIME, data=data)
        + """
model.update(type='ImageClassifier')
model.pop('pos_head')
model['backbone'] = dict(
    type='SwinTransformer', img_size=16, window_size=2, out_indices=(1, ),
    arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 1]))
model['neck'] = dict(type='GlobalAveragePooling')
"""
    )
    model = MODELS.build(Config.fromfile('swin.py').model)
    save_checkpoint(model, 'swin.pth')
    status, _, err = call(capsys, 'swin.py', 'swin.pth', 'test', '--out', 'o', '--pictures', 1)
    assert status == 0
    assert err[1] == (
        f'note: SwinTransformer has no class token: no attention is shown of {tmp_path.name}/swin'
    )
    assert drawn['features'][0][0].attention == 'SwinTransformer has no class token'


def test_pictures_go_to_the_backends_of_the_config(planted, capsys):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    status, out, _ = call(
        capsys, *planted, 'test', '--out', 'o', '--what', 'map', '--pictures', 1,
        '--cfg-options', 'visualizer.vis_backends.0.type=TensorboardVisBackend',
    )  # fmt: skip
    assert status == 0 and out == ['o/test-0_map.png']
    events = accumulator.EventAccumulator('o/vis_data').Reload()
    assert events.Tags()['images'] == ['test-0_map']
    (image,) = events.Images('test-0_map')
    assert (image.width, image.height) == Image.open(out[0]).size


# ----------------------------------------------------------------------------------------- help


def test_help_answers_without_the_stack():
    script = (
        'import sys; from poslabel_mm import cli\n'
        'try: cli.main([sys.argv[1], "--help"])\n'
        'except SystemExit: pass\n'
        'print({"torch", "numpy", "matplotlib", "mmengine"} & set(sys.modules))'
    )
    for command in 'look', 'plot', 'probe':
        done = subprocess.run(
            [sys.executable, '-c', script, command],
            cwd=ROOT,
            env={**os.environ, 'COLUMNS': '100'},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == 'set()'
        assert '--out' in done.stdout
    assert set(look.WHAT) == {'map', 'jigsaw', 'features', 'errors'}


def test_the_shipped_checkpoint_is_of_its_config():
    folder = ROOT / 'examples' / 'checkpoints'
    card = (folder / 'README.md').read_text('utf-8')
    (path,) = folder.glob('*.pth')
    model = MODELS.build(Config.fromfile(config_path(f'{path.stem}.py')).model)
    load_checkpoint(model, str(path), map_location='cpu', strict=True)
    assert all(weight.isfinite().all() for weight in model.state_dict().values())
    weights = sum(parameter.numel() for parameter in model.parameters())
    top1 = read_csv(ROOT / 'docs' / 'imagenette.csv')['1', 'pe-apl'][0].metrics['accuracy/top1']
    assert f'{top1:.2f} %' in card and f'| {weights:,} in float16' in card
    assert path.stat().st_size < 10**6 and hashlib.sha256(path.read_bytes()).hexdigest() in card
