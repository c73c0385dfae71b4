"""Fashion-MNIST, the dataset bases, and the lines on missing data."""

import gzip
import hashlib
import itertools
import sys
from os import path as osp
from urllib.error import URLError

import numpy as np
import pytest
from mmengine.config import Config
from mmpretrain.datasets import FashionMNIST as StockFashionMNIST
from mmpretrain.datasets import build_dataset
from tiny_run import make_images, write_config

from poslabel_mm import UserError, config_path
from poslabel_mm.datasets import FashionMNIST, FashionMNISTScenes, fashion_mnist
from poslabel_mm.datasets.command import DATASETS as CONVERTERS
from poslabel_mm.launch import tools as launch
from poslabel_mm.launch.checks.class_names import LOADERS
from poslabel_mm.launch.checks.data import check_data

BASES = osp.join(osp.dirname(config_path('vit-b_in1k.py')), '_base_')
COUNTS = dict(train=7, t10k=5)


def arrays(side):
    rng = np.random.default_rng(COUNTS[side])
    images = rng.integers(0, 256, (COUNTS[side], 28, 28), dtype=np.uint8)
    return images, rng.integers(0, 10, COUNTS[side], dtype=np.uint8)


def idx(array):
    """An array in the idx format: type, sizes, values."""
    head = [0, 0, 8, array.ndim]
    return bytes(head) + np.array(array.shape, '>i4').tobytes() + array.tobytes()


def write_files(folder, compress, content=arrays):
    folder.mkdir(parents=True, exist_ok=True)
    for side in COUNTS:
        for kind, array in zip(('images-idx3', 'labels-idx1'), content(side)):
            name = f'{side}-{kind}-ubyte'
            if compress:
                (folder / f'{name}.gz').write_bytes(gzip.compress(idx(array)))
            else:
                (folder / name).write_bytes(idx(array))
    return str(folder)


@pytest.fixture(autouse=True)
def no_files_of_the_system(request, tmp_path, monkeypatch):
    """Tests see the same, whether Debian's package is installed or not."""
    if 'real_files' not in request.fixturenames:
        monkeypatch.setattr(fashion_mnist, 'SYSTEM_FOLDER', str(tmp_path / 'system'))


@pytest.mark.parametrize('compress', [True, False])
@pytest.mark.parametrize('split, side', [('train', 'train'), ('test', 't10k')])
@pytest.mark.parametrize('test_mode', [True, False])
def test_fashion_mnist_reads_the_files_of_its_split(tmp_path, compress, split, side, test_mode):
    dataset = FashionMNIST(write_files(tmp_path / 'data', compress), split, test_mode=test_mode)
    images, labels = arrays(side)
    assert dataset.get_gt_labels().tolist() == labels.tolist()
    for i, image in enumerate(images):
        info = dataset.get_data_info(i)
        assert info['img'].shape == (28, 28, 3) and info['img'].dtype == np.uint8
        assert (info['img'] == image[..., None]).all()
        assert info['img_shape'] == info['ori_shape'] == (28, 28)
    assert dataset.metainfo['classes'][0] == 'T-shirt/top'


def test_fashion_mnist_takes_data_root_before_the_systems_folder(tmp_path):
    write_files(tmp_path / 'system', compress=True)
    assert len(FashionMNIST(str(tmp_path / 'data'))) == COUNTS['train']
    (tmp_path / 'data').mkdir()
    images = np.zeros((2, 28, 28), np.uint8)
    (tmp_path / 'data' / 'train-images-idx3-ubyte').write_bytes(idx(images))
    (tmp_path / 'data' / 'train-labels-idx1-ubyte').write_bytes(idx(images[:, 0, 0]))
    assert len(FashionMNIST(str(tmp_path / 'data'))) == 2


def test_fashion_mnist_that_mmpretrain_downloaded(tmp_path):
    folder = write_files(tmp_path / 'data', compress=False)
    stock = StockFashionMNIST(folder, split='train', download=False)
    ours = FashionMNIST(folder, download=True)
    for i in range(COUNTS['train']):
        assert (ours.get_data_info(i)['img'][..., 0] == stock.get_data_info(i)['img']).all()
        assert ours.get_data_info(i)['gt_label'] == stock.get_data_info(i)['gt_label']


def test_fashion_mnist_is_downloaded_when_asked_to(tmp_path, monkeypatch):

    def download(self):
        assert self.data_root == folder
        write_files(tmp_path / 'data', compress=False)

    folder = str(tmp_path / 'data')
    monkeypatch.setattr(StockFashionMNIST, '_download', download)
    assert len(FashionMNIST(folder, download=True)) == COUNTS['train']


@pytest.mark.parametrize(
    'fault', [URLError('no route'), RuntimeError('no route: File not found or corrupted.')]
)
def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch, fault):

    def download(self):
        raise fault

    monkeypatch.setattr(StockFashionMNIST, '_download', download)
    with pytest.raises(UserError, match='cannot download Fashion-MNIST.*no route') as error:
        FashionMNIST(str(tmp_path / 'data'), download=True)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('download', [False, True])
def test_a_file_that_is_half_unpacked_is_read_from_its_gz(tmp_path, download):
    folder = write_files(tmp_path / 'data', compress=True)
    write_files(tmp_path / 'data', compress=False)
    for kind, size in ('images-idx3', -40), ('labels-idx1', 0):
        path = tmp_path / 'data' / f'train-{kind}-ubyte'
        path.write_bytes(path.read_bytes()[:size])
    dataset = FashionMNIST(folder, download=download)
    images, labels = arrays('train')
    assert dataset.get_gt_labels().tolist() == labels.tolist()
    assert (dataset.get_data_info(6)['img'][..., 0] == images[6]).all()


@pytest.mark.parametrize(
    'damage, named',
    [
        (lambda data: data[:-40], 'cannot read'),
        (lambda data: b'no gzip', 'cannot read'),
        (lambda data: gzip.compress(b''), 'cannot read'),
        (lambda data: gzip.compress(gzip.decompress(data)[:-40]), 'cannot read'),
        (lambda data: gzip.compress(idx(arrays('train')[0][:3])), r'\(3, 28, 28\) and \(7,\)'),
        (lambda data: gzip.compress(idx(arrays('train')[0][:, :14])), r'\(7, 14, 28\)'),
    ],
)
def test_damaged_files_are_one_line(tmp_path, damage, named):
    folder = write_files(tmp_path / 'data', compress=True)
    path = tmp_path / 'data' / 'train-images-idx3-ubyte.gz'
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=named) as error:
        FashionMNIST(folder)
    assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_an_unknown_split_is_one_line(tmp_path):
    with pytest.raises(UserError, match="split='val'.*train.*test"):
        FashionMNIST(str(tmp_path), split='val')


def painted(image, segments, garment, label, y, x):
    """A scene with one garment more, written out pixel by pixel."""
    image, segments = image.copy(), segments.copy()
    for i, j in np.argwhere(garment >= 32):
        image[y + i, x + j], segments[y + i, x + j] = garment[i, j], label + 1
    return image, segments


@pytest.mark.parametrize('split, side', [('train', 'train'), ('test', 't10k')])
def test_scenes_are_of_garments_one_over_the_other(tmp_path, split, side):
    images, labels = arrays(side)
    black = np.zeros((29, 29), np.uint8), np.zeros((29, 29), np.uint8)
    dataset = FashionMNISTScenes(
        write_files(tmp_path / 'data', True), split, num_scenes=2, garments=2, size=29
    )
    seen = []
    for scene in map(dataset.get_data_info, range(2)):
        possible = {
            (a, b): [
                painted(*painted(*black, images[a], labels[a], *at), images[b], labels[b], *and_at)
                for at in np.ndindex(2, 2)
                for and_at in np.ndindex(2, 2)
            ]
            for a, b in itertools.permutations(range(len(images)), 2)
        }
        assert scene['img'].shape == (29, 29, 3) and scene['seg_fields'] == ['gt_seg_map']
        assert (scene['img'] == scene['img'][..., :1]).all()
        found = [
            pair
            for pair, scenes in possible.items()
            for image, segments in scenes
            if (image == scene['img'][..., 0]).all() and (segments == scene['gt_seg_map']).all()
        ]
        assert len(found) == 1
        seen += found[0]
    assert len(set(seen)) == 4  # no garment is in two scenes
    assert dataset.metainfo['classes'] == ('background', *FashionMNIST.METAINFO['classes'])
    assert len(dataset.metainfo['palette']) == 11


def test_scenes_do_not_depend_on_the_seed_of_a_run(tmp_path):
    pixels = np.arange(7 * 28 * 28).astype(np.uint8).reshape(7, 28, 28)
    content = pixels, np.arange(7, dtype=np.uint8)
    folder = write_files(tmp_path / 'data', False, lambda side: content)

    def digest(**kwargs):
        scenes = FashionMNISTScenes(folder, num_scenes=3, garments=2, **kwargs)
        pixels = [info[key].tobytes() for info in scenes for key in ('img', 'gt_seg_map')]
        return hashlib.sha256(b''.join(pixels)).hexdigest()[:16]

    state = np.random.get_state()
    np.random.seed(0)
    first = digest()
    np.random.set_state(state)
    # The same on every machine and with every NumPy.
    assert first == digest(draw=0) == 'b58711a9619531aa'
    assert first != digest(draw=1)
    fewer = FashionMNISTScenes(folder, num_scenes=1, garments=2)[0]
    more = FashionMNISTScenes(folder, num_scenes=3, garments=2)[0]
    assert (fewer['img'] == more['img']).all()


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (
            dict(num_scenes=4, garments=2),
            r"num_scenes=4 is refused: with garments=2 it takes 8 images, and split='train' of "
            'Fashion-MNIST has 7: set num_scenes to 3 at most',
        ),
        (dict(num_scenes=1, garments=8), 'set garments to 7 at most'),
        (dict(split='val'), 'no split='),
        (dict(size=27), 'size=27 is refused: set it to a whole number from 28 on'),
        (dict(num_scenes=0), 'num_scenes=0 is refused'),
        (dict(garments=1.5), 'garments=1.5 is refused'),
        (dict(draw=-1), 'draw=-1 is refused'),
        (dict(draw=2**32), r'draw=4294967296 is refused: .* from 0 to 4294967295'),
    ],
)
def test_scenes_that_cannot_be_had_are_one_line(tmp_path, kwargs, message):
    with pytest.raises(UserError, match=message):
        FashionMNISTScenes(write_files(tmp_path / 'data', True), **kwargs)


def test_too_many_scenes_are_refused_before_a_run(tmp_path):
    folder = write_files(tmp_path / 'data', True)
    scenes = dict(type='poslabel_mm.FashionMNISTScenes', data_root=folder, num_scenes=2)
    cfg = Config(dict(train_dataloader=dict(dataset=dict(scenes, pipeline=[]), batch_size=1)))
    with pytest.raises(UserError, match=r'^train_dataloader\.dataset\.num_scenes=2 is refused'):
        check_data(cfg, ('train_dataloader',))
    cfg.train_dataloader.dataset.num_scenes = 1
    check_data(cfg, ('train_dataloader',))


@pytest.fixture
def real_files():
    try:
        return osp.dirname(FashionMNIST.find_files()[0])
    except UserError:
        pytest.skip("neither Debian's package nor the files are here")


def test_the_real_fashion_mnist(real_files):
    train, test = FashionMNIST(real_files), FashionMNIST(real_files, 'test')
    assert (len(train), len(test)) == (60_000, 10_000)
    assert np.bincount(train.get_gt_labels()).tolist() == [6000] * 10
    assert np.bincount(test.get_gt_labels()).tolist() == [1000] * 10
    # The first image is an ankle boot.
    assert train.metainfo['classes'][train.get_data_info(0)['gt_label']] == 'Ankle boot'
    # What configs/_base_/fashion_mnist.py normalises with.
    images = np.stack([train.get_data_info(i)['img'][..., 0] for i in range(0, 60_000, 10)])
    normalise = Config.fromfile(osp.join(BASES, 'fashion_mnist.py')).data_preprocessor
    assert abs(images.mean() - normalise.mean[0]) < 1 and abs(images.std() - normalise.std[0]) < 1


@pytest.mark.parametrize('loader', ['train_dataloader', 'test_dataloader'])
def test_fashion_mnists_pipelines(tmp_path, loader):
    cfg = Config.fromfile(osp.join(BASES, 'fashion_mnist.py'))[loader].dataset
    dataset = build_dataset({**cfg, 'data_root': write_files(tmp_path / 'data', True)})
    np.random.seed(0)
    views = [dataset[3]['inputs'] for _ in range(8)]
    assert all(view.shape == (3, 28, 28) for view in views)
    moves = len({view.numpy().tobytes() for view in views}) > 1
    assert moves == (loader == 'train_dataloader')
    assert len(dataset) == COUNTS['train' if moves else 't10k']


@pytest.mark.parametrize(
    'base, folder, num_classes',
    [
        ('mini_imagenet.py', 'data/mini_imagenet', 100),
        ('caltech256.py', 'data/caltech256', 257),
    ],
)
def test_the_small_datasets_are_seen_as_imagenet_is(base, folder, num_classes):
    cfg = Config.fromfile(osp.join(BASES, base))
    imagenet = Config.fromfile(config_path('vit-b_in1k.py'))
    assert cfg.data_preprocessor == dict(imagenet.data_preprocessor, num_classes=num_classes)

    def pipeline(loader):
        # MMEngine marks what is inherited in one way, and not in another.
        return [
            {k: v for k, v in step.items() if k != '_scope_'} for step in loader.dataset.pipeline
        ]

    for loader, side in dict(train='train', val='test', test='test').items():
        ours, theirs = cfg[f'{loader}_dataloader'], imagenet[f'{loader}_dataloader']
        assert pipeline(ours) == pipeline(theirs)
        assert osp.join(ours.dataset.data_root, ours.dataset.data_prefix) == f'{folder}/{side}'
        assert 'split' not in ours.dataset
        assert ours.sampler == theirs.sampler
    assert cfg.train_dataloader.batch_size == 32
    assert cfg.val_evaluator == cfg.test_evaluator == imagenet.val_evaluator


# ---------------------------------------------------------------- missing data


def error_line(monkeypatch, capfd, tool, *argv):
    monkeypatch.setattr(sys, 'argv', [f'{tool.__name__}.py', *map(str, argv)])
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('POSLABEL_MM_RESUME_COMMAND', '')
    capfd.readouterr()
    with pytest.raises(SystemExit) as left:
        tool()
    assert left.value.code == 1
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith('error: '))
    return line


@pytest.mark.parametrize(
    'config, folder, command, origin',
    [
        ('vit-b_in1k.py', 'data/imagenet', 'imagenet --check data/imagenet', 'image-net.org'),
        (
            'mae-vit-b_in1k.py',
            'data/imagenet',
            'imagenet --check data/imagenet',
            'image-net.org',
        ),
        (
            'vit-b_mini-imagenet.py',
            'data/mini_imagenet',
            'mini-imagenet data/imagenet --csv FOLDER',
            'meta-learning-lstm',
        ),
        (
            'vit-b_caltech256.py',
            'data/caltech256',
            'caltech256 256_ObjectCategories',
            'data.caltech.edu',
        ),
    ],
)
def test_a_missing_dataset_is_named_with_what_prepares_it(
    tmp_path, monkeypatch, capfd, config, folder, command, origin
):
    monkeypatch.chdir(tmp_path)
    line = error_line(monkeypatch, capfd, launch.train, config)
    assert line.startswith(f'error: data folder {folder} (train_dataloader.dataset) does not')
    assert f'{folder}/train/<class>/<image>.JPEG' in line
    assert f'`poslabel convert {command}`' in line and origin in line
    assert not (tmp_path / 'work_dirs').exists()
    assert command.split()[0] in CONVERTERS


def test_links_to_images_that_are_gone_are_no_data(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    link = tmp_path / 'data' / 'mini_imagenet' / 'train' / 'n01532829' / 'a.jpg'
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / 'imagenet' / 'a.JPEG')
    line = error_line(monkeypatch, capfd, launch.train, 'vit-b_mini-imagenet.py')
    assert 'data/mini_imagenet/train (train_dataloader.dataset) holds no images' in line
    assert 'poslabel convert mini-imagenet' in line


@pytest.mark.parametrize(
    'options, named', [('', 'data/fashion_mnist'), ("data_root='elsewhere', ", 'elsewhere')]
)
@pytest.mark.parametrize('kind', ['FashionMNIST', 'FashionMNISTScenes'])
def test_missing_fashion_mnist_is_named_before_the_run(
    tmp_path, monkeypatch, capfd, kind, options, named
):
    monkeypatch.chdir(tmp_path)
    text = (
        f"train_dataloader['dataset'] = dict(type='poslabel_mm.{kind}', "
        f"{options}pipeline=[dict(type='PackInputs')])\n"
    )
    config = write_config(tmp_path, make_images(tmp_path / 'images'), text)
    line = error_line(monkeypatch, capfd, launch.train, config, '--work-dir', 'new')
    assert named in line and 'train-images-idx3-ubyte[.gz]' in line
    assert 'apt-get install dataset-fashion-mnist' in line and 'zalandoresearch' in line
    assert not (tmp_path / 'new').exists()


# ---------------------------------------------------------- the wrong dataset


def make_classes(folder, **num_classes):
    """Folders of classes, with an image each, below the sides of a dataset."""
    for side, count in num_classes.items():
        for i in range(count):
            path = folder / side / f'class{i:04d}' / '0.jpg'
            path.parent.mkdir(parents=True)
            path.touch()
    return folder


def refused(config, *loaders, **options):
    """The line that refuses the data of a config, None if none does."""
    cfg = Config.fromfile(config if osp.isfile(config) else config_path(config))
    cfg.merge_from_dict(options)
    try:
        check_data(cfg, loaders or LOADERS)
    except UserError as error:
        assert '\n' not in str(error)
        return str(error)


@pytest.mark.parametrize(
    'side, loader', [('train', 'train_dataloader'), ('test', 'val_dataloader')]
)
def test_another_dataset_than_the_configs_is_refused(tmp_path, monkeypatch, side, loader):
    monkeypatch.chdir(tmp_path)
    folder = make_classes(
        tmp_path / 'data' / 'caltech256', **{'train': 257, 'test': 257, side: 100}
    )
    line = refused('vit-b_caltech256.py')
    assert line.startswith(
        f'data folder data/caltech256/{side} ({loader}.dataset) holds 100 '
        'classes and not 257 (model.head.num_classes): set --cfg-options '
    )
    (folder / 'split.json').write_text('{"dataset": "mini_imagenet"}')
    assert 'holds 100 classes of Mini-ImageNet and not 257' in refused('vit-b_caltech256.py')
    # The same classes, and a model for as many.
    make_classes(tmp_path / 'own', train=100, test=100)
    roots = {f'{name}.dataset.data_root': 'own' for name in LOADERS}
    assert refused('vit-b_mini-imagenet.py', **roots) is None
    assert 'not 257' in refused('vit-b_caltech256.py', **roots)
    assert refused('vit-b_caltech256.py', **roots, **{'model.head.num_classes': 100}) is None


@pytest.mark.parametrize('config', ['vit-b_in1k.py', 'mae-vit-b_in1k.py'])
def test_a_part_of_imagenet_is_refused(tmp_path, monkeypatch, config):
    monkeypatch.chdir(tmp_path)
    make_classes(tmp_path / 'data' / 'imagenet', train=100)
    assert 'data/imagenet/train (train_dataloader.dataset) holds 100 classes and not 1,000 ' in (
        refused(config, 'train_dataloader')
    )


def test_the_whole_imagenet_is_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Its flat validation images are listed.
    folder = make_classes(tmp_path / 'data' / 'imagenet', train=1000, val=1, meta=0)
    (folder / 'meta').mkdir()
    (folder / 'meta' / 'val.txt').write_text('class0000/0.jpg 0\n')
    assert refused('vit-b_in1k.py') is None
    assert refused('mae-vit-b_in1k.py') is None


@pytest.mark.parametrize(
    'text, fault',
    [
        ('', None),
        ('model["head"]["num_classes"] = 1', 'holds 2 classes and not 1 (model.head.num_classes)'),
        ('model["head"]["num_classes"] = 5', None),  # on purpose
        ('train_dataloader["dataset"]["classes"] = ["x", "y"]', None),
        (
            'train_dataloader["dataset"]["classes"] = ["x"]',
            'holds 2 classes and not 1 (train_dataloader.dataset.classes)',
        ),
        ('model = dict(type="MAE", head=dict(type="MAEPretrainHead"))', None),
    ],
)
def test_data_of_the_users_own_must_only_fit_the_head(tmp_path, text, fault):
    config = write_config(tmp_path, make_images(tmp_path / 'images'), text + '\n')
    line = refused(config, 'train_dataloader')
    assert line is None if fault is None else fault in line


def test_every_option_that_moves_missing_data_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused('vit-b_caltech256.py', 'train_dataloader')
    assert line.endswith(
        ', or set --cfg-options train_dataloader.dataset.data_root=... '
        'val_dataloader.dataset.data_root=... '
        'test_dataloader.dataset.data_root=...'
    )
