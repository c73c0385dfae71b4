"""The digits dataset: what it holds, how it is split, what pipelines see."""

import sys

import numpy as np
import pytest
from mmengine.config import Config
from mmpretrain.datasets import build_dataset

from poslabel_mm import UserError, config_path
from poslabel_mm.datasets import Digits

TOTAL = 1797


def contents(dataset):
    return [
        (info['gt_label'], info['img'].tobytes())
        for info in map(dataset.get_data_info, range(len(dataset)))
    ]


@pytest.mark.parametrize('test_ratio', [0.5, 0.2])
def test_the_split_is_stratified_and_covers_every_image_once(test_ratio):
    from sklearn.datasets import load_digits

    sides = [Digits(split, test_ratio=test_ratio) for split in ('train', 'test')]

    assert sum(map(len, sides)) == TOTAL
    assert abs(len(sides[1]) - test_ratio * TOTAL) <= 1
    for side in sides:
        share = np.bincount(side.get_gt_labels(), minlength=10) / len(side)
        whole = np.bincount(load_digits().target) / TOTAL
        np.testing.assert_allclose(share, whole, atol=0.002)
    # All images differ, so equal sets mean that none is on both sides.
    images = [image for side in sides for _, image in contents(side)]
    assert len(set(images)) == TOTAL


def test_the_split_depends_on_its_seed_alone():
    first = contents(Digits('train'))
    np.random.seed(7)
    assert contents(Digits('train')) == first
    assert contents(Digits('train', split_seed=1)) != first


def test_images_are_8_bit_with_the_labels_of_scikit_learn():
    from sklearn.datasets import load_digits

    digits = load_digits()
    label_of = {
        np.rint(image * 255 / 16).astype(np.uint8).tobytes(): label
        for image, label in zip(digits.images, digits.target)
    }
    dataset = Digits('test')
    brightest = 0
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        image = info['img']
        assert image.shape == (8, 8, 3) and image.dtype == np.uint8
        assert (image == image[..., :1]).all()
        assert label_of[image[..., 0].tobytes()] == info['gt_label']
        brightest = max(brightest, image.max())
    assert brightest == 255


@pytest.mark.parametrize('loader', ['train_dataloader', 'test_dataloader'])
def test_the_configs_pipelines_yield_24_px_views(loader):
    cfg = Config.fromfile(config_path('vit-tiny_digits.py'))
    dataset = build_dataset(cfg[loader].dataset)
    np.random.seed(0)
    views = [dataset[3]['inputs'] for _ in range(8)]
    assert all(view.shape == (3, 24, 24) for view in views)
    moves = len({view.numpy().tobytes() for view in views}) > 1
    assert moves == (loader == 'train_dataloader')
    sample = dataset[3]['data_samples']
    assert int(sample.gt_label) == dataset.get_data_info(3)['gt_label']
    assert dataset.metainfo['classes'][:2] == ('zero', 'one')


@pytest.mark.parametrize(
    'arguments, named',
    [
        (dict(split='val'), r"split='val'.*train.*test"),
        (dict(test_ratio=1.5), 'test_ratio=1.5'),
        (dict(test_ratio=0.001), 'test_ratio=0.001'),
        (dict(test_ratio='half'), 'test_ratio=half'),
    ],
)
def test_wrong_arguments_are_one_line(arguments, named):
    with pytest.raises(UserError, match=named) as error:
        Digits(**arguments)
    assert '\n' not in str(error.value)


def test_without_scikit_learn_the_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(UserError, match='pip install scikit-learn'):
        Digits()
