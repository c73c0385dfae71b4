"""A folder of one's own: `poslabel convert folder`, and `--data` of train and test."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from poslabel_mm import UserError, config_path
from poslabel_mm.datasets import command
from poslabel_mm.datasets.converters import folder
from poslabel_mm.experiments.scale import Scale
from poslabel_mm.experiments.settings import configured
from poslabel_mm.launch import tools as launch
from poslabel_mm.launch.arguments import checked_arguments
from poslabel_mm.launch.checks.class_names import LOADERS, name_classes
from poslabel_mm.launch.checks.data import check_data
from poslabel_mm.launch.checks.options import check_num_classes
from poslabel_mm.launch.data_option import use_data
from poslabel_mm.launch.stock_tools import load_tool, tool_path

TRAINING = LOADERS[:2]
NAMES = ('a cat', 'b', 'c', 'd', 'e')
IMAGES = 12


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    """Five classes of twelve images; read only."""
    source = tmp_path_factory.mktemp('source') / 'my photographs'
    for label, name in enumerate(NAMES):
        for i in range(IMAGES):
            save(source / name / f'{i}.png', label * IMAGES + i)
    return source


@pytest.fixture
def own(photographs, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(photographs, tmp_path / 'mine')


@pytest.fixture(scope='module')
def split(photographs, tmp_path_factory):
    """What the converter makes of them; read only."""
    out = tmp_path_factory.mktemp('split') / 'out'
    convert(photographs, out)
    return out


def convert(source, out, *options):
    folder.main([str(source), '--out', str(out), *options])


def fails(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    line = str(caught.value)
    assert '\n' not in line
    return line


# ------------------------------------------------------------------ the converter


def test_any_class_folders_are_split_four_to_one(own, tmp_path, capsys):
    for extra in 'notes.txt', 'b/b.webp', '.DS_Store', 'b/.thumb.png':
        (own / extra).write_text('')
    (own / '.git').mkdir()
    (own / '__MACOSX').mkdir()
    convert(own, tmp_path / 'out')
    counts = {
        side: [len(os.listdir(tmp_path / 'out' / side / name)) for name in NAMES]
        for side in ('train', 'test')
    }
    assert counts == {'train': [10] * 5, 'test': [2] * 5}
    assert sorted(os.listdir(tmp_path / 'out' / 'train')) == list(NAMES)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:-1] == [
        f'left out, no image in a class folder: {name}'
        for name in ('notes.txt', '__MACOSX', 'b/b.webp')
    ]
    assert '5 classes, 50 images to train on and 10 to test' in printed[-1]
    record = json.loads((tmp_path / 'out' / 'split.json').read_text())
    assert (record['dataset'], record['source']) == ('folder', str(own))


def test_the_split_follows_from_the_names_and_the_seed(own, split, tmp_path):
    convert(own, tmp_path / 'same')
    convert(own, tmp_path / 'other', '--seed', '1', '--copy')
    first, same, other = (
        json.loads((path / 'split.json').read_text())['test']
        for path in (split, tmp_path / 'same', tmp_path / 'other')
    )
    assert first == same != other
    assert not any(path.is_symlink() for path in (tmp_path / 'other').rglob('*'))


def test_another_run_sees_what_is_done_and_what_is_new(own, tmp_path, capsys):
    out = tmp_path / 'out'
    convert(own, out)
    convert(own, out)
    assert 'nothing to do' in capsys.readouterr().out
    save(own / 'c' / 'new.png', 1000)
    line = fails(convert, own, out)
    assert f'{out} was made before there was c/new.png in {own}: remove {out} and run' in line
    (own / 'c' / 'new.png').unlink()
    shutil.copytree(own, tmp_path / 'elsewhere')
    line = fails(convert, tmp_path / 'elsewhere', out)
    assert f'was made with source={own}, not {tmp_path}/elsewhere: remove it' in line
    assert 'seed=0, not 1' in fails(convert, own, out, '--seed', '1')


def test_copies_need_the_source_no_more(own, tmp_path, capsys):
    convert(own, tmp_path / 'out', '--copy')
    shutil.rmtree(own)
    convert(own, tmp_path / 'out', '--copy')
    assert 'nothing to do' in capsys.readouterr().out
    assert 'cannot read the folder' in fails(convert, own, tmp_path / 'new', '--copy')


def test_unreadable_images_are_named_and_may_be_left_out(own, tmp_path):
    (own / 'c' / '3.png').write_bytes(b'no image')
    line = fails(convert, own, tmp_path / 'out')
    assert f'cannot read image {own}/c/3.png' in line and '--skip-unreadable' in line
    convert(own, tmp_path / 'out', '--skip-unreadable')
    convert(own, tmp_path / 'out', '--skip-unreadable')  # which is nothing new
    record = json.loads((tmp_path / 'out' / 'split.json').read_text())
    assert (record['counts']['train'] + record['counts']['test'], *record['unreadable']) == (
        5 * IMAGES - 1,
        'c/3.png',
    )


def _empty(source):
    for name in NAMES:
        shutil.rmtree(source / name)


def _one_class(source):
    for name in NAMES[1:]:
        shutil.rmtree(source / name)


def _loose(source):
    _empty(source)
    save(source / '0.png', 0)


def _nested(source):
    shutil.move(source / 'b', source / 'c' / 'b')
    (source / 'b').mkdir()
    shutil.move(source / 'c' / 'b', source / 'b' / 'inner')


def _split(source):
    _empty(source)
    for side in 'train', 'val':
        save(source / side / 'a' / '0.png', 0)


def _few(source):
    for name in NAMES:
        for path in sorted((source / name).iterdir())[2:]:
            path.unlink()


def _hollow(source):
    (source / 'f').mkdir()


@pytest.mark.parametrize(
    'change, named',
    [
        (_empty, '{} holds no class folders: expected {}/<class>/<image> for two classes'),
        (_one_class, '{} holds a single class folder, a cat: expected {}/<class>/<image>'),
        (_loose, '{} holds 1 images and no class folders: move each image into the folder of'),
        (_nested, 'class folder {}/b holds no image (.jpg, .jpeg, .png, .ppm, .bmp, .pgm, .tif) '
         'but 1 folders: put its images right into it'),
        (_hollow, 'class folder {}/f holds no image (.jpg, .jpeg, .png, .ppm, .bmp, .pgm, .tif): '
         'put its images right into it, or remove it'),
        (_split, '{} is split already, into train, val: name it as it is, `poslabel train '
         'vit-s_apl_folder.py --data {}`'),
        (_few, 'every class in {} has fewer than three images'),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_split(own, tmp_path, change, named):
    change(own)
    assert named.replace('{}', str(own)) in fails(convert, own, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_an_out_inside_the_source(own):
    assert 'inside the source' in fails(convert, own, own / 'out')


def test_a_class_of_few_images_is_an_empty_folder_for_testing(own, tmp_path):
    for path in sorted((own / 'c').iterdir())[2:]:
        path.unlink()
    convert(own, tmp_path / 'out')
    assert os.listdir(tmp_path / 'out' / 'test' / 'c') == []
    cfg = config_with('vit-s_folder.py', tmp_path / 'out')
    check_data(cfg, TRAINING)


# -------------------------------------------------------------------- the command


def test_help_lists_the_datasets(capsys):
    assert command.main(['--help'], 'poslabel convert') == 0
    page = capsys.readouterr().out
    assert page.startswith('usage: poslabel convert DATASET [ARGUMENTS]\n')
    assert all(f'\n  {name} ' in page for name in command.DATASETS)
    assert fails(command.main, ['foldr']) == (
        "there is no converter of 'foldr': did you mean folder?"
    )
    assert fails(command.main, []) == (
        'which dataset? choose from imagenet, mini-imagenet, caltech256, folder'
    )


@pytest.mark.parametrize('name', command.DATASETS)
def test_help_of_a_dataset_names_the_command(name, capsys):
    with pytest.raises(SystemExit) as left:
        command.main([name, '--help'], 'poslabel convert')
    assert left.value.code == 0
    page = capsys.readouterr().out
    assert page.startswith(f'usage: poslabel convert {name} ')
    assert f'\n    poslabel convert {name} ' in page and '%' not in page


def test_the_command_splits_a_folder(photographs, tmp_path, monkeypatch, capsys):
    arguments = ['folder', str(photographs), '--out', str(tmp_path / 'out')]
    assert command.main(arguments, 'poslabel convert') == 0
    assert '50 images to train on' in capsys.readouterr().out
    with pytest.raises(UserError, match='was made with seed=0, not 1'):
        command.main([*arguments, '--seed', '1'], 'poslabel convert')


def test_the_command_imports_what_it_needs():
    check = (
        'import sys; from poslabel_mm.datasets import command; command.main(["--help"], "x"); '
        'print({"torch", "numpy", "PIL", "rich", "mmengine"} & set(sys.modules))'
    )
    done = subprocess.run([sys.executable, '-c', check], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == 'set()', done.stderr


# ------------------------------------------------------------------------- --data


def config_with(name, data, loaders=TRAINING):
    cfg = Config.fromfile(config_path(name))
    use_data(cfg, name, str(data), loaders)
    return cfg


@pytest.mark.parametrize(
    'name',
    ['vit-s_apl_folder.py', 'vit-b_rpl_caltech256.py', 'vit-b_apl_in1k.py', 'nest-b_in1k.py'],
)
@pytest.mark.parametrize('held_out', ['test', 'val'])
def test_every_config_of_class_folders_takes_the_folder(split, tmp_path, name, held_out):
    data = tmp_path / 'data'
    data.mkdir()
    (data / 'train').symlink_to(split / 'train')
    (data / held_out).symlink_to(split / 'test')
    cfg = config_with(name, data)
    assert {cfg[loader].dataset.data_root for loader in LOADERS} == {str(data)}
    assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == len(NAMES)
    check_data(cfg, LOADERS)
    check_num_classes(cfg, LOADERS)
    name_classes(cfg)
    cfg = config_with(name, data, ('test_dataloader',))
    check_data(cfg, ('test_dataloader',))


def test_pre_training_takes_the_folder_too(split):
    cfg = config_with('mae-vit-b_apl_in1k.py', split)
    assert cfg.train_dataloader.dataset.data_root == str(split)
    check_data(cfg, ('train_dataloader',))


def test_a_test_needs_no_training_data(split, tmp_path):
    (tmp_path / 'test').symlink_to(split / 'test')
    cfg = config_with('vit-s_folder.py', tmp_path, ('test_dataloader',))
    assert cfg.model.head.num_classes == len(NAMES)
    check_data(cfg, ('test_dataloader',))
    line = fails(config_with, 'vit-s_folder.py', tmp_path)
    assert line.startswith(f'--data {tmp_path} has no train/: expected {tmp_path}/{{train,test}}/')


@pytest.mark.parametrize('of', ['--data', 'manifest photos.yml: its data'])
def test_a_study_names_where_its_folder_was_given(split, tmp_path, of):
    def line(name, folder):
        return fails(configured, name, Scale(), [], str(folder), of)

    assert line('vit-tiny_digits.py', split).startswith(f'{of} {split} has no place in vit-tiny')
    assert line('vit-s_folder.py', tmp_path).startswith(f'{of} {tmp_path} has no train/: expected')
    one = tmp_path / 'one'
    for side in 'train', 'test':
        name = sorted(os.listdir(split / side))[0]
        shutil.copytree(split / side / name, one / side / name)
    assert line('vit-s_folder.py', one).startswith(f'{of} {one} holds a single class, {name}: ')


def test_every_count_follows(split):
    cfg = Config.fromfile(config_path('vit-b_in1k.py'))
    cfg.model.head.loss.num_classes = 1000
    cfg.val_evaluator = [dict(type='Accuracy', topk=(1, 5, 10)), dict(type='Accuracy', topk=7)]
    cfg.test_evaluator = [
        dict(type='SingleLabelMetric', num_classes=1000),
        dict(type='RetrievalRecall', topk=(1, 10)),  # of images
    ]
    use_data(cfg, 'x.py', str(split), TRAINING)
    assert cfg.model.head.loss.num_classes == cfg.test_evaluator[0].num_classes == len(NAMES)
    assert tuple(cfg.test_evaluator[1].topk) == (1, 10)
    assert [tuple(metric.topk) for metric in cfg.val_evaluator] == [(1, 5), (1,)]
    check_num_classes(cfg, LOADERS)


def test_without_the_option_nothing_changes():
    cfg = Config.fromfile(config_path('vit-s_folder.py'))
    before = cfg.to_dict()
    use_data(cfg, 'vit-s_folder.py', None, TRAINING)
    assert cfg.to_dict() == before


def test_a_folder_that_cannot_be_used(photographs, split, tmp_path):
    assert fails(config_with, 'vit-s_folder.py', tmp_path / 'gone') == (
        f'--data {tmp_path}/gone is no folder'
    )
    assert fails(config_with, 'vit-s_folder.py', photographs) == (
        f'--data {photographs} has no train/: expected {photographs}/{{train,test}}/<class>/'
        f"<image>; of class folders `poslabel convert folder '{photographs}' --out data/mine` "
        'makes that'
    )
    for side in 'train', 'test':
        save(tmp_path / side / 'only' / '0.png', 0)
    assert fails(config_with, 'vit-s_folder.py', tmp_path) == (
        f'--data {tmp_path} holds a single class, only: expected two or more in {tmp_path}/train'
    )
    shutil.rmtree(tmp_path / 'test')
    assert f'--data {tmp_path} has no test/: ' in fails(config_with, 'vit-s_folder.py', tmp_path)
    line = fails(config_with, 'vit-tiny_digits.py', split)
    assert line == (
        f'--data {split} has no place in vit-tiny_digits.py: its datasets have no data_root'
    )
    cfg = Config.fromfile(config_path('vit-s_folder.py'))
    cfg.val_dataloader.dataset.data_root = 'data/other'
    line = fails(use_data, cfg, 'x.py', str(split), TRAINING)
    assert line == (
        f'--data {split} is one folder, and x.py reads several: set each, --cfg-options '
        'train_dataloader.dataset.data_root=... val_dataloader.dataset.data_root=... '
        'test_dataloader.dataset.data_root=...'
    )


def test_folders_that_are_no_classes_are_named(split, tmp_path):
    shutil.copytree(split, tmp_path / 'data', symlinks=True)
    (tmp_path / 'data' / 'train' / '.ipynb_checkpoints').mkdir()
    cfg = config_with('vit-s_folder.py', tmp_path / 'data')
    assert '.ipynb_checkpoints (train_dataloader.dataset) would be counted as a class' in fails(
        check_data, cfg, TRAINING
    )


# --------------------------------------------------------------------- end to end

# A model of two layers on 32 px: 2x2 patches.
TINY = """
_base_ = 'poslabel_mm::vit-s_{label}_folder.py'
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=32),
    head=dict(in_channels=16),
    pos_head=dict(in_channels=16, grid_size=2))
"""
OPTIONS = [
    'train_cfg.max_epochs=2',
    'param_scheduler.0.end=1',
    'param_scheduler.1.begin=1',
    'param_scheduler.1.T_max=1',
    'train_dataloader.dataset.pipeline.1.scale=32',
    *(
        f'{loader}.dataset.pipeline.{option}'
        for loader in LOADERS[1:]
        for option in ('1.scale=32', '2.crop_size=32')
    ),
    *(f'{loader}.num_workers=0' for loader in LOADERS),
    'log_level=ERROR',
]


@pytest.mark.parametrize('label', ['apl', 'rpl'])
def test_training_and_testing_with_data(split, tmp_path, monkeypatch, label):
    (tmp_path / 'tiny.py').write_text(TINY.format(label=label))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('POSLABEL_MM_RESUME_COMMAND', '')

    def run(tool, *arguments):
        arguments = [*arguments, '--data', str(split), '--work-dir', tool.__name__]
        monkeypatch.setattr(sys, 'argv', ['tool.py', *arguments, '--cfg-options', *OPTIONS])
        tool()

    run(launch.train, 'tiny.py')
    saved = torch.load('train/epoch_2.pth', weights_only=False)
    assert saved['meta']['dataset_meta']['classes'] == NAMES
    assert len(saved['state_dict']['head.layers.head.weight']) == len(NAMES)
    run(launch.test, 'tiny.py', 'train/epoch_2.pth')
    cfg = Config.fromfile('test/tiny.py')
    assert cfg.test_dataloader.dataset.data_root == str(split)
    assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == len(NAMES)


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_help_of_the_tools_names_the_option(tool, monkeypatch, capsys):
    module = load_tool(tool_path(tool))
    monkeypatch.setattr(sys, 'argv', [tool, '--help'])
    with pytest.raises(SystemExit):
        checked_arguments(module.parse_args)()
    assert '--data DIR' in capsys.readouterr().out


# -------------------------------------------------------------------- the configs


def test_the_labels_are_all_that_differs():
    base = Config.fromfile(config_path('vit-s_folder.py')).to_dict()
    for label, head in ('apl', 'PositionalLabelHead'), ('rpl', 'RelativePositionalLabelHead'):
        cfg = Config.fromfile(config_path(f'vit-s_{label}_folder.py')).to_dict()
        assert cfg['model'].pop('pos_head') == dict(
            type=f'poslabel_mm.{head}', in_channels=384, grid_size=14
        )
        assert cfg['model'].pop('type') == 'poslabel_mm.PositionalLabelClassifier'
        assert cfg == {**base, 'model': {k: v for k, v in base['model'].items() if k != 'type'}}


def test_the_recipe_is_the_one_that_the_header_names():
    cfg = Config.fromfile(config_path('vit-s_folder.py'))
    batch = cfg.train_dataloader.batch_size
    assert batch == cfg.auto_scale_lr.base_batch_size
    assert cfg.optim_wrapper.optimizer.lr / batch == 1e-3 / 128
    assert cfg.optim_wrapper.optimizer.weight_decay == 0.05
    warmup, cosine = cfg.param_scheduler
    assert (warmup.end, cosine.begin, cosine.begin + cosine.T_max) == (10, 10, 100)
    assert cfg.train_cfg.max_epochs == 100
