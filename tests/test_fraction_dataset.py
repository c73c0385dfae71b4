"""A fraction of each class: which images it is, whatever the machine and the kind of dataset."""

import numpy as np
import pytest
from mmengine.registry import DATASETS
from tiny_run import make_images

from poslabel_mm.datasets.fraction_dataset import fraction_of_classes
from poslabel_mm.errors import UserError

SIZES = {0: 40, 1: 11, 2: 1}


def infos(root='data'):
    return [
        dict(img_path=f'{root}/c{label}/{i:03}.png', gt_label=label)
        for label, size in SIZES.items()
        for i in range(size)
    ]


def names(kept):
    return ['/'.join(info['img_path'].split('/')[-2:]) for info in kept]


def test_a_fraction_is_a_part_of_a_larger_one_and_keeps_the_share_of_every_class():
    everything = names(infos())
    larger = everything
    for fraction in 1.0, 0.5, 0.25, 0.1, 0.01:
        kept = fraction_of_classes(infos(), fraction)
        counts = np.bincount([info['gt_label'] for info in kept])
        assert counts.tolist() == [max(1, round(fraction * size)) for size in SIZES.values()]
        assert set(names(kept)) <= set(larger)
        assert names(kept) == sorted(names(kept), key=everything.index)
        larger = names(kept)
    # Neither the first images of a class nor the same numbers in every class.
    quarter = names(fraction_of_classes(infos(), 0.25))
    numbers = [[name[3:6] for name in quarter if name.startswith(c)] for c in ('c0', 'c1')]
    assert numbers[0] == ['000', '008', '011', '019', '022', '023', '026', '029', '030', '038']
    assert numbers[1] == ['001', '004', '007']


def test_the_images_depend_on_their_names_alone():
    kept = names(fraction_of_classes(infos(), 0.2))
    # What every other machine has, in whatever folder and order.
    assert kept[:3] == ['c0/008.png', 'c0/019.png', 'c0/022.png']
    assert names(fraction_of_classes(infos('/elsewhere/mine'), 0.2)) == kept
    assert sorted(names(fraction_of_classes(infos()[::-1], 0.2))) == sorted(kept)
    unlabelled = [dict(img_path=info['img_path']) for info in infos()]
    assert names(fraction_of_classes(unlabelled, 0.2)) == kept


def test_datasets_take_a_fraction(tmp_path):
    make_images(tmp_path / 'train', per_class=12)

    def build(kind, **options):
        return DATASETS.build(
            dict(type=f'poslabel_mm.{kind}', data_root=str(tmp_path), pipeline=[], **options)
        )

    whole = build('FractionDataset', data_prefix='train')
    assert len(whole) == 24
    # As a config of MMPretrain's ImageNet names its folder.
    quarter = build('FractionDataset', split='train', fraction=0.25)
    assert [info['gt_label'] for info in quarter] == [0] * 3 + [1] * 3
    cache = tmp_path / 'cache'
    decoded = dict(short_side=8, cache=str(cache), data_prefix='train')
    kept = build('DecodedImages', fraction=0.25, **decoded)
    assert names(kept) == names(quarter)
    # One file for all fractions, whose pixels are each image's own.
    everything = {info['img_path']: info['img'] for info in build('DecodedImages', **decoded)}
    assert len(list(cache.glob('*.bin'))) == 1
    assert all(np.array_equal(info['img'], everything[info['img_path']]) for info in kept)
    unlabelled = build('FractionDataset', data_prefix='train', fraction=0.25, with_label=False)
    assert names(unlabelled) == names(quarter)
    assert len(build('FractionDataset', data_prefix='train', fraction=0.5, indices=5)) == 5
    for wrong in 0, 1.5, True, None:
        with pytest.raises(UserError, match='fraction=.* is refused: set it to a number from'):
            build('FractionDataset', data_prefix='train', fraction=wrong)
