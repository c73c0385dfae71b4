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
        kept = fraction_of_classes(infos(), fraction, 'data')
        counts = np.bincount([info['gt_label'] for info in kept])
        assert counts.tolist() == [max(1, round(fraction * size)) for size in SIZES.values()]
        assert set(names(kept)) <= set(larger)
        assert names(kept) == sorted(names(kept), key=everything.index)
        larger = names(kept)
    # Neither the first images of a class nor the same numbers in every class.
    quarter = names(fraction_of_classes(infos(), 0.25, 'data'))
    numbers = [[name[3:6] for name in quarter if name.startswith(c)] for c in ('c0', 'c1')]
    assert numbers[0] == ['003', '005', '006', '008', '010', '017', '018', '021', '023', '034']
    assert numbers[1] == ['002', '003', '006']


def test_the_images_depend_on_their_names_alone():
    kept = names(fraction_of_classes(infos(), 0.2, 'data'))
    # What every other machine has, in whatever folder and order.
    assert kept[:3] == ['c0/003.png', 'c0/005.png', 'c0/008.png']
    assert names(fraction_of_classes(infos('/elsewhere/mine'), 0.2, '/elsewhere/mine')) == kept
    assert sorted(names(fraction_of_classes(infos()[::-1], 0.2, 'data'))) == sorted(kept)
    unlabelled = [dict(img_path=info['img_path']) for info in infos()]
    assert names(fraction_of_classes(unlabelled, 0.2, 'data')) == kept
    # Another draw keeps others, of which a smaller fraction is a part too.
    drawn = names(fraction_of_classes(infos(), 0.2, 'data', draw=1))
    assert len(drawn) == len(kept) and drawn != kept
    assert set(names(fraction_of_classes(infos(), 0.1, 'data', draw=1))) < set(drawn)


def test_images_of_nested_folders_are_told_apart_and_counted_by_class():
    paths = [f'data/c{c}/{half}/{i}.png' for c in (0, 1) for half in 'ab' for i in range(20)]
    labelled = [dict(img_path=path, gt_label=int(path[6])) for path in paths]
    kept = [info['img_path'] for info in fraction_of_classes(labelled, 0.25, 'data')]
    assert [sum(f'c{c}' in path for path in kept) for c in (0, 1)] == [10, 10]
    # Equal names in two folders are no equal ranks.
    halves = [{path[10:] for path in kept if f'c0/{half}' in path} for half in 'ab']
    assert halves[0] != halves[1]
    unlabelled = fraction_of_classes([dict(img_path=path) for path in paths], 0.25, 'data')
    assert [info['img_path'] for info in unlabelled] == kept


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
    others = build('DecodedImages', fraction=0.25, draw=1, **decoded)
    assert names(others) != names(kept) and len(others) == len(kept)
    for kind, options in ('FractionDataset', {}), ('DecodedImages', decoded):
        with pytest.raises(UserError, match='draw=-1 is refused: set it to a whole number from 0'):
            build(kind, **options | dict(data_prefix='train', draw=-1))
    with pytest.raises(TypeError, match='split'):
        build('DecodedImages', split='train', **decoded)
    for wrong in 0, 1.5, True, None:
        with pytest.raises(UserError, match='fraction=.* is refused: set it to a number from'):
            build('FractionDataset', data_prefix='train', fraction=wrong)
