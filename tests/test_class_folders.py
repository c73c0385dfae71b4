"""Class folders: which are none, what differs between them, and parts of ImageNet."""

import os
import shutil
import sys

import pytest
import torch
from mmengine.config import Config
from mmpretrain.datasets import CustomDataset, build_dataset
from tiny_run import make_images, write_config

from poslabel_mm import UserError, config_path
from poslabel_mm.datasets.class_folders import count_by_class, read_list
from poslabel_mm.launch import tools as launch
from poslabel_mm.launch.checks.class_names import LOADERS, name_classes
from poslabel_mm.launch.checks.data import check_data
from poslabel_mm.launch.checks.options import check_num_classes

TRAINING = LOADERS[:2]
VALIDATION = """
val_dataloader = dict(**test_dataloader)
val_dataloader['dataset'] = dict(test_dataloader['dataset'], data_root={val!r})
val_evaluator = test_evaluator
val_cfg = dict()
"""


@pytest.fixture
def sides(tmp_path):
    """Folders `train` and `val` with three classes of two images."""
    for side in 'train', 'val':
        make_images(tmp_path / side, 2)
        shutil.copytree(tmp_path / side / 'b', tmp_path / side / 'c')
    return tmp_path


def config_of(sides, text='', **options):
    cfg = Config.fromfile(
        write_config(sides, str(sides / 'train'), VALIDATION.format(val=str(sides / 'val')) + text)
    )
    cfg.merge_from_dict(
        {'model.head.num_classes': 3, 'data_preprocessor.num_classes': 3, **options}
    )
    return cfg


def refused(cfg, loaders=TRAINING, checkpoint=None):
    """The line that refuses the data of a config, None if none does."""
    try:
        check_data(cfg, loaders, checkpoint)
        check_num_classes(cfg, loaders)
    except UserError as error:
        assert '\n' not in str(error)
        return str(error)


def trains(sides, monkeypatch, capfd, *options):
    """The exit status of a run, and the line of its error."""
    cfg = config_of(sides)
    cfg.dump(sides / 'config.py')
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'train.py',
            str(sides / 'config.py'),
            '--work-dir',
            str(sides / 'run'),
            '--cfg-options',
            'train_cfg.max_epochs=1',
            'train_cfg.val_interval=1',
            *options,
        ],
    )
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('POSLABEL_MM_RESUME_COMMAND', '')
    capfd.readouterr()
    try:
        launch.train()
    except SystemExit as left:
        (line,) = (
            line for line in capfd.readouterr().err.splitlines() if line.startswith('error: ')
        )
        return left.code, line
    return 0, None


# ------------------------------------------------------------- names, not counts


def test_the_same_classes_are_accepted(sides):
    assert refused(config_of(sides)) is None


@pytest.mark.parametrize('name', ['a', 'b', 'c'])
def test_a_validation_folder_that_lacks_a_class(sides, name):
    shutil.rmtree(sides / 'val' / name)
    line = refused(config_of(sides))
    assert line.startswith(
        f'data folder {sides}/val (val_dataloader.dataset) lacks class {name} '
        f'of {sides}/train (train_dataloader.dataset), and labels count the '
        'folders: make an empty folder for each class without images, or set '
        '--cfg-options val_dataloader.dataset.data_root=...'
    )
    # Which is a way out.
    (sides / 'val' / name).mkdir()
    assert refused(config_of(sides)) is None


def test_as_many_classes_of_other_names(sides):
    (sides / 'val' / 'b').rename(sides / 'val' / 'd')
    assert 'lacks class b of' in refused(config_of(sides))
    (sides / 'val' / 'b').mkdir()
    cfg = config_of(sides, **{'model.head.num_classes': 4})
    assert 'val_dataloader.dataset) has class d, not in' in refused(cfg)


def test_a_run_does_not_begin(sides, monkeypatch, capfd):
    shutil.rmtree(sides / 'val' / 'a')
    status, line = trains(sides, monkeypatch, capfd)
    assert status == 1 and 'lacks class a of' in line
    assert not (sides / 'run').exists()


def test_a_test_folder_is_held_against_the_training_folder(sides):
    cfg = config_of(sides)
    cfg.test_dataloader.dataset.data_root = str(sides / 'val')
    assert refused(cfg, ('test_dataloader',)) is None
    shutil.rmtree(sides / 'val' / 'a')
    assert 'test_dataloader.dataset) lacks class a of' in refused(cfg, ('test_dataloader',))
    # Training data of another model, or none, says nothing.
    (sides / 'train' / 'd').mkdir()
    assert refused(cfg, ('test_dataloader',)) is None
    shutil.rmtree(sides / 'train')
    assert refused(cfg, ('test_dataloader',)) is None


def test_a_test_folder_is_held_against_the_checkpoint(sides, monkeypatch, capfd):
    assert trains(sides, monkeypatch, capfd) == (0, None)
    saved = sides / 'run' / 'epoch_1.pth'
    shutil.rmtree(sides / 'train')
    shutil.rmtree(sides / 'val' / 'a')
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'test.py',
            str(sides / 'config.py'),
            str(saved),
            '--work-dir',
            str(sides / 'tested'),
            '--cfg-options',
            f'test_dataloader.dataset.data_root={sides / "val"}',
        ],
    )
    with pytest.raises(SystemExit) as left:
        launch.test()
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith('error: '))
    assert left.value.code == 1
    assert (
        f'{sides}/val (test_dataloader.dataset) lacks class a of {saved} '
        '(meta.dataset_meta.classes)'
    ) in line
    assert not (sides / 'tested').exists()
    (sides / 'val' / 'a').mkdir()
    launch.test()
    # Classes that the config names may be in another order than the folders.
    cfg = config_of(sides, **{'test_dataloader.dataset.data_root': str(sides / 'val')})
    for names in ('c', 'b', 'a'), ('x', 'y', 'z'), None:
        torch.save(dict(meta=dict(dataset_meta=dict(classes=names))), saved)
        cfg.train_dataloader.dataset.classes = names
        assert refused(cfg, ('test_dataloader',), str(saved)) is None
    torch.save(['no checkpoint'], saved)
    assert refused(cfg, ('test_dataloader',), str(saved)) is None  # left to its own check


@pytest.mark.parametrize(
    'wrap',
    [
        lambda data: dict(type='RepeatDataset', times=2, dataset=data),
        lambda data: dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=data),
        lambda data: dict(type='KFoldDataset', dataset=data, num_splits=2),
        lambda data: dict(type='ConcatDataset', datasets=[data, data]),
    ],
)
def test_wrapped_datasets_are_compared_too(sides, wrap):
    shutil.rmtree(sides / 'val' / 'b')
    cfg = config_of(sides)
    for loader in TRAINING:
        cfg[loader].dataset = wrap(cfg[loader].dataset)
    assert 'lacks class b of' in refused(cfg)


def test_lists_tell_by_their_folders(sides):
    (sides / 'val.txt').write_text('a/0.png 0\nc/0.png 1\n')
    cfg = config_of(sides, **{'val_dataloader.dataset.ann_file': str(sides / 'val.txt')})
    line = refused(cfg)
    assert line.startswith(
        f'list {sides}/val.txt (val_dataloader.dataset) gives class c label 1, and '
        f'{sides}/train (train_dataloader.dataset) gives it 2: number the classes '
    )
    for right in 'a/0.png 0\nc/0.png 2\n', '0.png 0\n1.png 1\n', 'x/a/0.png 0\nx/b/1.png 1\n':
        (sides / 'val.txt').write_text(right)
        assert refused(cfg) is None
    (sides / 'val.txt').write_text('0.png 0\n1.png 3\n')
    assert 'has label 3, and the labels of 3 classes (model.head.num_classes) are 0 to 2' in (
        refused(cfg)
    )
    for wrong in '0.png 0\n\n', '0.png 0\n1.png x\n', '0.png 0\n1\n', '0.png 0\na b\t1\n':
        (sides / 'val.txt').write_text(wrong)
        assert f'{sides}/val.txt, line 2: expected an image' in refused(cfg)
    (sides / 'val.txt').write_bytes(b'caf\xe9.png 0\n')
    assert f'cannot read {sides}/val.txt' in refused(cfg)
    # Without labels there are none to compare, and none in the list.
    (sides / 'val.txt').write_text('a b/0.png\n')
    cfg.val_dataloader.dataset.with_label = False
    assert refused(cfg) is None


def test_names_in_the_config_do_not_change_the_labels(sides):
    """MMPretrain counts the folders, whatever `classes` calls them."""
    dataset = dict(type='CustomDataset', data_root=str(sides / 'val'), classes=['c', 'b', 'a'])
    assert build_dataset(dataset).get_gt_labels().tolist() == [0, 0, 1, 1, 2, 2]
    names = {f'{loader}.dataset.classes': ['x', 'y', 'z'] for loader in TRAINING}
    assert refused(config_of(sides, **names)) is None
    shutil.rmtree(sides / 'val' / 'a')
    line = refused(config_of(sides, **names))
    assert 'holds 2 classes and not 3 (val_dataloader.dataset.classes)' in line
    assert 'it lacks class a of' in line


def test_counting_images_agrees_with_mmpretrain(sides):
    for path in 'a/.hidden.png', 'a/deep/er/1.PNG', 'a/.sub/2.png', 'b/note.txt', '.c/0.png':
        (sides / 'val' / path).parent.mkdir(parents=True, exist_ok=True)
        (sides / 'val' / path).touch()
    (sides / 'val' / 'd').symlink_to(sides / 'train' / 'a')
    (sides / 'val' / 'b' / 'gone.png').symlink_to('nowhere')
    dataset = CustomDataset(data_root=str(sides / 'val'))
    labels = dataset.get_gt_labels().tolist()
    images = count_by_class(str(sides / 'val'), dataset.extensions)
    assert images == {
        name: labels.count(label) for label, name in enumerate(dataset.metainfo['classes'])
    }
    assert images == {'.c': 1, 'a': 4, 'b': 2, 'c': 2, 'd': 2}


# ------------------------------------------------------------ folders of no class


@pytest.mark.parametrize(
    'name, has_image, reason',
    [
        ('.ipynb_checkpoints', False, 'is none'),
        ('.ipynb_checkpoints', True, 'is none'),
        ('__MACOSX', True, 'is none'),
        ('lost+found', False, 'is none'),
        ('new', False, 'holds no images'),
    ],
)
@pytest.mark.parametrize('num_classes', [3, 4])
def test_a_folder_that_is_no_class_is_named(sides, name, has_image, reason, num_classes):
    (sides / 'train' / name).mkdir()
    if has_image:
        shutil.copy(sides / 'train' / 'a' / '0.png', sides / 'train' / name)
    # The model may have as many classes as there were folders.
    line = refused(config_of(sides, **{'model.head.num_classes': num_classes}))
    assert line == (
        f'folder {sides}/train/{name} (train_dataloader.dataset) would be counted as '
        f'a class but {reason}: remove it'
    )


def test_a_folder_that_is_no_class_on_both_sides(sides):
    for side in 'train', 'val':
        (sides / side / '.ipynb_checkpoints').mkdir()
    assert '.ipynb_checkpoints (train_dataloader' in refused(
        config_of(sides, **{'model.head.num_classes': 4})
    )


def test_a_folder_that_is_no_class_in_a_test(sides):
    (sides / 'train' / '.ipynb_checkpoints').mkdir()
    cfg = config_of(sides)
    assert f'folder {sides}/train/.ipynb_checkpoints (test_dataloader.dataset)' in refused(
        cfg, ('test_dataloader',)
    )


def test_classes_without_images_that_the_model_has(sides):
    for side in 'train', 'val':
        (sides / side / 'none yet').mkdir()
    assert refused(config_of(sides, **{'model.head.num_classes': 4})) is None


def test_labels_that_are_not_learned_need_no_classes(sides):
    (sides / 'train' / '.ipynb_checkpoints').mkdir()
    cfg = config_of(sides, 'model = dict(_delete_=True, type="MAE")\n')
    cfg.model.pop('head')
    assert refused(cfg, ('train_dataloader',)) is None


# ------------------------------------------------------------- parts of ImageNet


def part_of_imagenet(folder, num_classes):
    for side in 'train', 'val':
        for i in range(num_classes):
            (folder / side / f'n{i:08d}').mkdir(parents=True)
            (folder / side / f'n{i:08d}' / '0.JPEG').touch()
    return {f'{loader}.dataset.data_root': str(folder) for loader in LOADERS}


@pytest.mark.parametrize('num_classes', [10, 100])
@pytest.mark.parametrize('config', ['vit-b_apl_in1k.py', 'swin-b_rpl_in1k.py', 'nest-b_in1k.py'])
def test_a_part_of_imagenet_with_a_model_of_as_many_classes(tmp_path, config, num_classes):
    cfg = Config.fromfile(config_path(config))
    roots = part_of_imagenet(tmp_path, num_classes)
    cfg.merge_from_dict(roots)
    line = refused(cfg, LOADERS)
    # Every key that has to follow, so that the line can be typed.
    assert (
        f'holds {num_classes} classes and not 1,000 (model.head.num_classes): set '
        f'--cfg-options model.head.num_classes={num_classes} '
        f'data_preprocessor.num_classes={num_classes} for a model of as many'
    ) in line
    cfg.merge_from_dict({'model.head.num_classes': num_classes})
    assert refused(cfg, LOADERS) == (
        f'model.head.num_classes is {num_classes}, but data_preprocessor.num_classes is 1000: '
        f'change them together, --cfg-options data_preprocessor.num_classes={num_classes}'
    )
    cfg.merge_from_dict({'data_preprocessor.num_classes': num_classes})
    assert refused(cfg, LOADERS) is None
    name_classes(cfg)
    names = tuple(f'n{i:08d}' for i in range(num_classes))
    for loader in LOADERS:
        dataset = build_dataset(dict(cfg[loader].dataset, pipeline=[]))
        assert dataset.metainfo['classes'] == names
        assert dataset.get_gt_labels().tolist() == list(range(num_classes))


def test_a_part_of_imagenet_that_lacks_a_class_in_validation(tmp_path):
    cfg = Config.fromfile(config_path('vit-b_in1k.py'))
    cfg.merge_from_dict(part_of_imagenet(tmp_path, 10))
    cfg.merge_from_dict({'model.head.num_classes': 10, 'data_preprocessor.num_classes': 10})
    shutil.rmtree(tmp_path / 'val' / 'n00000003')
    line = refused(cfg)
    assert 'holds 9 classes and not 10 (model.head.num_classes): set --cfg-options ' in line
    assert line.endswith(
        'without images: it lacks class n00000003 of '
        f'{tmp_path}/train (train_dataloader.dataset), and labels count the '
        'folders'
    )
    assert 'num_classes=9' not in line


def test_pre_training_on_a_part_of_imagenet(tmp_path):
    cfg = Config.fromfile(config_path('mae-vit-b_apl_in1k.py'))
    cfg.train_dataloader.dataset.data_root = str(tmp_path)
    part_of_imagenet(tmp_path, 10)
    line = refused(cfg, ('train_dataloader',))
    option = 'train_dataloader.dataset.with_label=False'
    assert (
        'holds 10 classes and not 1,000 (ImageNet): to pre-train on a part of it set '
        f'--cfg-options {option}'
    ) in line
    cfg.train_dataloader.dataset.with_label = False
    assert refused(cfg, ('train_dataloader',)) is None
    assert len(build_dataset(dict(cfg.train_dataloader.dataset, pipeline=[]))) == 10


def test_a_run_on_a_part_of_imagenet(sides, monkeypatch, capfd):
    options = [f'{loader}.dataset.type=ImageNet' for loader in LOADERS]
    assert trains(sides, monkeypatch, capfd, *options) == (0, None)
    # The run's own config builds the same dataset with every tool.
    cfg = Config.fromfile(sides / 'run' / 'config.py')
    assert build_dataset(cfg.test_dataloader.dataset).metainfo['classes'] == ('a', 'b', 'c')


def test_counts_of_classes_that_do_not_follow_the_head(sides):
    augmented = {'model.train_cfg': dict(augments=[dict(type='Mixup', alpha=0.8)])}
    other = {'data_preprocessor.num_classes': 2}
    assert refused(config_of(sides, **other)) is None  # nothing reads it
    assert 'model.head.num_classes is 3, but data_preprocessor.num_classes is 2' in (
        refused(config_of(sides, **other, **augmented))
    )
    assert refused(config_of(sides, **augmented)) is None
    line = refused(config_of(sides, **other, **augmented, **{'model.head.loss.num_classes': 2}))
    assert line.endswith(
        'change them together, --cfg-options data_preprocessor.num_classes=3 '
        'model.head.loss.num_classes=3'
    )
    assert refused(config_of(sides, **{'val_evaluator.topk': (1, 5)})) == (
        'val_evaluator.topk asks for the best 5 of 3 classes (model.head.num_classes): set '
        '--cfg-options val_evaluator.topk=1'
    )
    retrieval = [
        dict(type='mmpretrain.RetrievalRecall', topk=(1, 5)),
        dict(type='MultiLabelMetric', topk=2),
    ]
    assert refused(config_of(sides, val_evaluator=retrieval)) is None  # ranks images
    retrieval[1].update(topk=4)
    assert 'val_evaluator.1.topk asks for the best 4 of 3 classes' in (
        refused(config_of(sides, val_evaluator=retrieval))
    )


# ---------------------------------------------------------------- links, batches


@pytest.mark.parametrize(
    'link, target, named',
    [
        ('a/loop', '..', 'the symbolic link {}/train/a/loop is a loop'),
        ('a/loop', '../..', 'the symbolic link {}/train/a/loop is a loop'),
        ('a/loop', '.', 'the symbolic link {}/train/a/loop is a loop'),
        ('loop', '.', 'the symbolic link {}/train/loop is a loop'),
        (
            'a/0.png',
            '0.png',
            'cannot follow the symbolic link {}/train/a/0.png (Too many levels of symbolic links)',
        ),
    ],
)
@pytest.mark.parametrize('with_label', [True, False])
def test_a_loop_of_links_is_named(sides, link, target, named, with_label):
    path = sides / 'train' / link
    if path.exists():
        path.unlink()
    path.symlink_to(target)
    cfg = config_of(sides, **{'train_dataloader.dataset.with_label': with_label})
    line = refused(cfg)
    assert line.startswith('the symbolic link ' if 'is a loop' in named else 'cannot follow')
    assert line.endswith(': remove it') and str(sides / 'train') in line
    if with_label:
        assert line == named.format(sides) + ': remove it'


def test_links_that_lead_to_each_other(sides):
    (sides / 'train' / 'a' / 'x').symlink_to('../b')
    assert refused(config_of(sides)) is None
    (sides / 'train' / 'b' / 'y').symlink_to('../a')
    assert refused(config_of(sides)) == (
        f'the symbolic link {sides}/train/a/x/y is a loop: remove it'
    )


@pytest.mark.parametrize(
    'loader, drop_last',
    [
        ('train_dataloader', {'train_dataloader.drop_last': True}),
        ('val_dataloader', {'val_dataloader.drop_last': True}),
        (
            'train_dataloader',
            {'train_dataloader.batch_sampler': dict(type='BatchSampler', drop_last=True)},
        ),
    ],
)
def test_dropping_the_only_batch(sides, loader, drop_last):
    size = f'{loader}.batch_size'
    assert refused(config_of(sides, **drop_last, **{size: 6})) is None
    key = list(drop_last)[0].replace('.drop_last', '') + '.drop_last'
    assert refused(config_of(sides, **drop_last, **{size: 7})) == (
        f'{loader} has no batch: it gets 6 images, a batch is 7 ({size}), and smaller ones are '
        f'dropped ({key}): set --cfg-options {size}=6 or {key}=False'
    )


def test_dropping_the_only_batch_of_a_fraction(sides):
    options = {
        'train_dataloader.drop_last': True,
        'train_dataloader.dataset.type': 'poslabel_mm.FractionDataset',
        'train_dataloader.dataset.fraction': 0.5,
    }
    size = 'train_dataloader.batch_size'
    assert refused(config_of(sides, **options, **{size: 3})) is None
    assert 'has no batch: it gets 3 images' in refused(config_of(sides, **options, **{size: 4}))


def test_dropping_the_only_batch_of_a_process(sides, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '4')
    options = {'train_dataloader.drop_last': True, 'train_dataloader.batch_size': 2}
    assert refused(config_of(sides, launcher='pytorch', **options)) is None  # 6 become 8
    assert 'a process gets 1 images' in refused(
        config_of(
            sides, launcher='pytorch', **{'train_dataloader.sampler.round_up': False}, **options
        )
    )
    options['train_dataloader.batch_size'] = 3
    assert 'a process gets 2 images' in refused(config_of(sides, launcher='pytorch', **options))
    assert refused(config_of(sides, launcher='none', **options)) is None


@pytest.mark.parametrize(
    'wrapper, images',
    [(dict(type='RepeatDataset', times=2), 12), (dict(type='KFoldDataset', num_splits=2), 3)],
)
def test_dropping_the_only_batch_of_a_wrapped_dataset(sides, wrapper, images):
    for batch_size in images, images + 1:
        cfg = config_of(
            sides,
            **{'train_dataloader.drop_last': True, 'train_dataloader.batch_size': batch_size},
        )
        cfg.train_dataloader.dataset = dict(wrapper, dataset=cfg.train_dataloader.dataset)
        line = refused(cfg)
        assert line is None if batch_size == images else f'it gets {images} images' in line


def test_dropping_the_only_batch_of_a_part_of_imagenet(tmp_path):
    cfg = Config.fromfile(config_path('vit-b_in1k.py'))
    cfg.merge_from_dict(
        {
            **part_of_imagenet(tmp_path, 10),
            'model.head.num_classes': 10,
            'data_preprocessor.num_classes': 10,
            'train_dataloader.drop_last': True,
        }
    )
    assert 'it gets 10 images, a batch is 32' in refused(cfg)


def test_a_class_folder_that_cannot_be_read(sides, monkeypatch):
    scandir = os.scandir

    def denied(path):
        if str(path).endswith('train/b'):
            raise PermissionError(13, 'Permission denied')
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', denied)
    assert refused(config_of(sides)) == (
        f'cannot read the folder {sides}/train/b: Permission denied'
    )


def test_a_list_is_read_as_mmpretrain_reads_it(tmp_path):
    path = tmp_path / 'list.txt'
    path.write_text('a b/0 1.png 1\nc/0.png 0\n')
    assert read_list(str(path)) == (2, {0, 1}, {'a b': 1, 'c': 0})
    assert CustomDataset(str(tmp_path), ann_file='list.txt').get_gt_labels().tolist() == [1, 0]
