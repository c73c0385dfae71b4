"""The dataset tools, on small trees in the layout of the real ones."""

import errno
import fcntl
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmpretrain.datasets import build_dataset
from PIL import Image

from poslabel_mm import UserError
from poslabel_mm.datasets.command import run_converter
from poslabel_mm.datasets.converters import (
    caltech256,
    conversion,
    imagenet,
    mini_imagenet,
)
from poslabel_mm.datasets.converters.record import split_class
from poslabel_mm.launch.checks.classes import source_made_in

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / 'tools' / 'dataset_converters'


# Images of each class.
CALTECH = {'001.ak47': 12, '002.american-flag': 8, '003.clutter': 10}
CALTECH_SIZE = caltech256.Size(classes=3, images=30, least_of_a_class=8)
MINI = ('n01532829', 'n01558993', 'n01704323')
MINI_SIZE = mini_imagenet.Size(classes=3, train_of_a_class=4, test_of_a_class=2)
IMAGENET_SIZE = imagenet.Size(classes=3, train=24, val=6)


class Images:
    """Writes images of 4x4 pixels, all different."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def save(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = self.rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, 'JPEG')


@pytest.fixture
def images():
    return Images()


@pytest.fixture
def objects(tmp_path, images):
    """256_ObjectCategories, with what the real one has besides images."""
    folder = tmp_path / '256_ObjectCategories'
    for name, count in CALTECH.items():
        for i in range(1, count + 1):
            images.save(folder / name / f'{name[:3]}_{i:04d}.jpg')
    (folder / '001.ak47' / 'greg' / 'vision309').mkdir(parents=True)
    (folder / '002.american-flag' / 'RENAME2').write_text('mv a b\n')
    return folder


@pytest.fixture
def imagenet_folder(tmp_path, images):
    """ImageNet: 8 training and 2 validation images of 3 classes."""
    folder = tmp_path / 'imagenet'
    for name in MINI:
        # In the order of names, 1007 comes before 13.
        for number in 1007, 13, 240, 31, 5, 5002, 77, 8:
            images.save(folder / 'train' / name / f'{name}_{number}.JPEG')
    for i in range(6):
        images.save(folder / 'val' / MINI[i % 3] / f'ILSVRC2012_val_{i + 1:08d}.JPEG')
    return folder


@pytest.fixture
def split_files(tmp_path):
    """Images 2 to 7 of each class, a class in each file."""
    folder = tmp_path / 'csv'
    folder.mkdir()
    for side, name in zip(('train', 'val', 'test'), MINI):
        rows = [f'{name}{i:08d}.jpg,{name}\n' for i in range(2, 8)]
        (folder / f'{side}.csv').write_text(''.join(['filename,label\n', *rows]))
    return folder


def to_caltech(source, out, *options):
    caltech256.main([str(source), '--out', str(out), *options], CALTECH_SIZE)


def to_mini(source, out, *options):
    mini_imagenet.main([str(source), '--out', str(out), *map(str, options)], MINI_SIZE)


def listing(folder):
    """Side, class and name of every image."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob('*')
        if path.suffix in ('.jpg', '.JPEG')
    }


def fails(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    line = str(caught.value)
    assert '\n' not in line
    return line


# ---------------------------------------------------------------- Caltech-256


def test_caltech_is_split_four_to_one_and_the_dataset_reads_it(objects, tmp_path, capsys):
    out = tmp_path / 'data' / 'caltech256'
    to_caltech(objects, out)

    cfg = Config.fromfile(ROOT / 'configs/_base_/caltech256.py')
    images = set()
    for loader, counts in ('train_dataloader', [10, 6, 8]), ('val_dataloader', [2, 2, 2]):
        options = {**cfg[loader].dataset, 'data_root': str(out), 'pipeline': []}
        dataset = build_dataset(options)
        assert dataset.metainfo['classes'] == tuple(CALTECH)
        assert np.bincount(dataset.get_gt_labels()).tolist() == counts
        images |= {Path(dataset[i]['img_path']).resolve() for i in range(len(dataset))}
        assert all(os.path.islink(dataset[i]['img_path']) for i in range(len(dataset)))
    assert images == set(objects.rglob('*.jpg'))
    printed = capsys.readouterr().out
    assert '001.ak47/greg' in printed and '002.american-flag/RENAME2' in printed
    assert '3 classes, 24 images to train on and 6 to test' in printed


def test_the_parent_of_the_archive_folder_will_do(objects, tmp_path):
    to_caltech(objects.parent, tmp_path / 'out')
    assert len(listing(tmp_path / 'out')) == 30


def test_the_split_file_says_who_is_where(objects, tmp_path):
    to_caltech(objects, tmp_path / 'out', '--seed', '3')
    split = json.loads((tmp_path / 'out' / 'split.json').read_text())
    assert split['seed'] == 3
    assert split['counts'] == {'classes': 3, 'train': 24, 'test': 6}
    assert listing(tmp_path / 'out') == {
        f'{side}/{name}/{image}'
        for side in ('train', 'test')
        for name, images in split[side].items()
        for image in images
    }


def test_the_split_is_the_same_everywhere_and_always():
    names = [f'{i}.jpg' for i in range(20)]
    split = split_class(names, 'dog', seed=0, num_test=4)
    # Written down: runs of other years and machines have to agree.
    assert split['test'] == ['10.jpg', '11.jpg', '14.jpg', '18.jpg']
    assert split_class(names[::-1], 'dog', 0, 4) == split
    assert split['train'] == sorted(set(names) - set(split['test']))
    assert split_class(names, 'dog', 1, 4) != split
    assert split_class(names, 'cat', 0, 4) != split


def test_the_order_of_files_does_not_matter(objects, tmp_path, monkeypatch):
    to_caltech(objects, tmp_path / 'one')
    scandir = os.scandir
    seen = []

    class Backwards:
        def __init__(self, path):
            self.entries = sorted(scandir(path), key=lambda entry: entry.name)
            seen.append(path)

        def __iter__(self):
            return self

        def __next__(self):
            if not self.entries:
                raise StopIteration
            return self.entries.pop()

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        close = __exit__

    monkeypatch.setattr(os, 'scandir', Backwards)
    to_caltech(objects, tmp_path / 'two')
    one, two = (tmp_path / name / 'split.json' for name in ('one', 'two'))
    assert one.read_bytes() == two.read_bytes()
    assert objects / '003.clutter' in seen


def test_another_run_has_nothing_to_do(objects, tmp_path, capsys, monkeypatch):
    out = tmp_path / 'out'
    to_caltech(objects, out)
    before = out.stat().st_mtime_ns, out.stat().st_ino
    monkeypatch.setattr(conversion, 'inspect_images', None)  # too slow for that
    to_caltech(objects, out)
    assert 'nothing to do' in capsys.readouterr().out
    assert before == (out.stat().st_mtime_ns, out.stat().st_ino)


def test_copies_need_the_source_no_more(objects, tmp_path, capsys):
    out = tmp_path / 'out'
    to_caltech(objects, out, '--copy')
    assert not [path for path in out.rglob('*') if path.is_symlink()]
    shutil.rmtree(objects)
    to_caltech(objects, out, '--copy')
    assert 'nothing to do' in capsys.readouterr().out


@pytest.mark.parametrize(
    'option, named', [(('--seed', '1'), 'seed=0, not 1'), (('--copy',), 'copy=False, not True')]
)
def test_other_parameters_than_those_it_was_made_with(objects, tmp_path, option, named):
    to_caltech(objects, tmp_path / 'out')
    before = listing(tmp_path / 'out')
    assert named in fails(to_caltech, objects, tmp_path / 'out', *option)
    assert listing(tmp_path / 'out') == before


def test_a_conversion_that_lost_or_gained_images(objects, tmp_path):
    out = tmp_path / 'out'
    to_caltech(objects, out)
    stray = out / 'train' / '001.ak47' / 'extra.jpg'
    stray.write_bytes(b'')
    assert 'train/001.ak47/extra.jpg' in fails(to_caltech, objects, out)
    stray.unlink()
    gone = out / 'test' / '003.clutter'
    gone = sorted(gone.iterdir())[0]
    # The link is still there, its image is not.
    gone.resolve().unlink()
    line = fails(to_caltech, objects, out)
    assert str(gone.relative_to(out)) in line and 'remove it' in line


@pytest.mark.parametrize('record', [None, '{', '[]', '{"seed": 0}'])
def test_a_folder_that_is_not_ours_is_left_alone(objects, tmp_path, record):
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'mine.txt').write_text('keep')
    if record is not None:
        (out / 'split.json').write_text(record)
    assert 'was not made by this command' in fails(to_caltech, objects, out)
    assert (out / 'mine.txt').read_text() == 'keep'


def test_an_empty_folder_is_filled(objects, tmp_path):
    (tmp_path / 'out').mkdir()
    to_caltech(objects, tmp_path / 'out')
    assert len(listing(tmp_path / 'out')) == 30


@pytest.mark.parametrize('stop', [KeyboardInterrupt, OSError(28, 'No space left on device')])
def test_what_was_interrupted_is_never_taken_for_whole(objects, tmp_path, monkeypatch, stop):
    out = tmp_path / 'out'
    done = []

    def symlink(source, target):
        done.append(target)
        if len(done) == 9:
            raise stop
        os_symlink(source, target)

    os_symlink = os.symlink
    with monkeypatch.context() as patch:
        patch.setattr(os, 'symlink', symlink)
        with pytest.raises((KeyboardInterrupt, UserError)) as caught:
            to_caltech(objects, out)
    if caught.type is UserError:
        assert 'No space left' in str(caught.value) and str(out) in str(caught.value)
    assert set(os.listdir(tmp_path)) == {objects.name}
    to_caltech(objects, out)
    assert len(listing(out)) == 30


def test_what_a_killed_run_left_is_no_hindrance(objects, tmp_path):
    stale = tmp_path / '.out.incomplete' / 'train' / '001.ak47' / 'stale.jpg'
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b'')
    to_caltech(objects, tmp_path / 'out')
    assert len(listing(tmp_path / 'out')) == 30
    assert set(os.listdir(tmp_path)) == {objects.name, 'out'}


@pytest.mark.parametrize('locks', [True, False], ids=['locks', 'no locks'])
def test_two_conversions_at_once(objects, tmp_path, monkeypatch, locks):
    """The second one, forked, begins while the first one writes."""
    out = tmp_path / 'out'
    context = multiprocessing.get_context('fork')
    lines = context.SimpleQueue()
    second = context.Process(target=lambda: lines.put(attempt(objects, out)))

    def symlink(source, target):
        if second.pid is None:
            monkeypatch.setattr(os, 'symlink', os_symlink)
            second.start()
            second.join(120)
        os_symlink(source, target)

    os_symlink = os.symlink
    monkeypatch.setattr(os, 'symlink', symlink)
    if not locks:
        monkeypatch.setattr(fcntl, 'flock', no_locks)
    results = [attempt(objects, out), lines.get()]
    refused = (
        [None, f'another process is making {out}: wait for it, or choose another --out']
        if locks
        else [
            f'another process made {out} meanwhile: run the command again, which compares it '
            'with the source',
            None,
        ]
    )
    assert results == refused
    assert len(listing(out)) == 30
    assert set(os.listdir(tmp_path)) == {objects.name, 'out'}


def no_locks(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize('number', [errno.EEXIST, errno.ENOTEMPTY])
def test_names_that_meet_on_the_disk_are_no_other_process(objects, tmp_path, monkeypatch, number):
    """As A.jpg and a.jpg do where capitals make no difference."""

    def symlink(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, 'symlink', symlink)
    out = tmp_path / 'new' / 'out'
    assert attempt(objects, out).startswith(f'cannot write {out} ({os.strerror(number)})')
    assert os.listdir(tmp_path) == [objects.name]


def attempt(source, out):
    """The line of a conversion's error, None if it succeeds."""
    try:
        to_caltech(source, out)
    except UserError as error:
        return str(error)


def test_what_another_process_made_before_the_lock_is_taken(
    objects, tmp_path, monkeypatch, capsys
):
    out, lock = tmp_path / 'out', conversion.file_lock

    def late(*args, **options):
        monkeypatch.setattr(conversion, 'file_lock', lock)
        to_caltech(objects, out)
        return lock(*args, **options)

    monkeypatch.setattr(conversion, 'file_lock', late)
    to_caltech(objects, out)
    assert 'nothing to do' in capsys.readouterr().out
    assert len(listing(out)) == 30


def test_out_may_be_a_link_to_another_disk(objects, tmp_path):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'out').symlink_to(tmp_path / 'disk')
    to_caltech(objects, tmp_path / 'out')
    assert len(listing(tmp_path / 'disk')) == 30
    assert (tmp_path / 'out').is_symlink()


def test_unreadable_images_are_named_and_may_be_left_out(objects, tmp_path, capsys):
    out = tmp_path / 'out'
    to_caltech(objects, tmp_path / 'whole')
    # Its head is whole, its pixels are not.
    cut = objects / '002.american-flag' / '002_0003.jpg'
    Image.effect_noise((64, 64), 90).save(cut)
    cut.write_bytes(cut.read_bytes()[:-1000])
    line = fails(to_caltech, objects, out)
    assert str(cut) in line and '--skip-unreadable' in line
    empty = objects / '001.ak47' / '001_0001.jpg'
    empty.write_bytes(b'')
    capsys.readouterr()
    assert '2 images' in fails(to_caltech, objects, out)
    listed = capsys.readouterr().err
    assert str(cut) in listed and f'{empty} (its 0 bytes are no image)' in listed
    assert not out.exists()

    to_caltech(objects, out, '--skip-unreadable')
    # The other images stay on their sides.
    left_out = {
        name for name in listing(tmp_path / 'whole') if name.endswith((cut.name, empty.name))
    }
    assert len(left_out) == 2
    assert listing(out) == listing(tmp_path / 'whole') - left_out
    split = json.loads((out / 'split.json').read_text())
    assert set(split['unreadable']) == {'001.ak47/001_0001.jpg', '002.american-flag/002_0003.jpg'}
    to_caltech(objects, out)
    assert '2 unreadable ones left out' in capsys.readouterr().out


def test_identical_images_are_named_with_their_sides(objects, tmp_path, capsys):
    to_caltech(objects, tmp_path / 'first')
    split = json.loads((tmp_path / 'first' / 'split.json').read_text())
    one, two = (objects / '001.ak47' / split[side]['001.ak47'][0] for side in ('train', 'test'))
    two.write_bytes(one.read_bytes())
    capsys.readouterr()
    to_caltech(objects, tmp_path / 'out')
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if 'identical, kept' in line)
    assert f'001.ak47/{one.name} (train)' in line
    assert f'001.ak47/{two.name} (test)' in line
    assert '1 groups of identical images, 1 of them with images on both' in printed
    split = json.loads((tmp_path / 'out' / 'split.json').read_text())
    assert split['duplicates'] == [sorted([f'001.ak47/{one.name}', f'001.ak47/{two.name}'])]


def test_a_source_that_is_not_caltech(objects, tmp_path):
    out = tmp_path / 'out'
    assert 'nowhere' in fails(to_caltech, tmp_path / 'nowhere', out)
    empty = tmp_path / 'empty'
    empty.mkdir()
    assert '0 class folders' in fails(to_caltech, empty, out)
    (objects / '003.clutter').rename(objects / '257.clutter')
    assert 'without 003.*' in fails(to_caltech, objects, out)
    (objects / '257.clutter').rename(objects / '003.clutter')
    (objects / '003.clutter' / '003_0001.jpg').unlink()
    line = fails(to_caltech, objects, out)
    assert '29 images' in line and 'has 30' in line
    for path in list((objects / '003.clutter').iterdir())[:2]:
        path.unlink()
    assert '003.clutter holds 7 images' in fails(to_caltech, objects, out)
    (objects / '002.other').mkdir()
    assert '002.american-flag and 002.other' in fails(to_caltech, objects, out)
    assert not out.exists()


def test_an_out_that_cannot_be_made(objects, tmp_path):
    (tmp_path / 'file').write_text('')
    line = fails(to_caltech, objects, tmp_path / 'file' / 'out')
    assert 'cannot write' in line and '--out' in line
    assert 'inside the source' in fails(to_caltech, objects, objects / 'out')
    assert not (objects / 'out').exists()


# -------------------------------------------------------------- Mini-ImageNet


def test_split_files_number_the_images_in_the_order_of_imagenets_numbers(
    imagenet_folder, split_files, tmp_path
):
    out = tmp_path / 'out'
    to_mini(imagenet_folder, out, '--csv', split_files)

    links = {path.name: os.readlink(path) for path in out.rglob('*.jpg')}
    assert len(links) == 18
    in_order = 5, 8, 13, 31, 77, 240, 1007, 5002
    for name in MINI:
        for i in range(2, 8):
            assert links[f'{name}{i:08d}.jpg'] == str(
                imagenet_folder / 'train' / name / f'{name}_{in_order[i - 1]}.JPEG'
            )


def test_mini_imagenet_has_every_class_on_both_sides(imagenet_folder, split_files, tmp_path):
    out = tmp_path / 'out'
    to_mini(imagenet_folder, out, '--csv', split_files)
    cfg = Config.fromfile(ROOT / 'configs/_base_/mini_imagenet.py')
    for loader, counts in ('train_dataloader', [4] * 3), ('val_dataloader', [2] * 3):
        dataset = build_dataset({**cfg[loader].dataset, 'data_root': str(out), 'pipeline': []})
        assert dataset.metainfo['classes'] == MINI
        assert np.bincount(dataset.get_gt_labels()).tolist() == counts


def test_every_source_of_the_same_images_gives_the_same_split(
    imagenet_folder, split_files, tmp_path
):
    to_mini(imagenet_folder, tmp_path / 'numbered', '--csv', split_files)
    wanted = listing(tmp_path / 'numbered')
    files = {path.name: path for path in (tmp_path / 'numbered').rglob('*.jpg')}
    for source, place in (
        ('folders', '{label}/{name}'),
        ('few-shot', '{side}/{label}/{name}'),
        ('flat', '{name}'),
    ):
        for name, path in files.items():
            label = name[:9]
            side = ('train', 'val', 'test')[MINI.index(label)]
            target = tmp_path / source / place.format(**locals())
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        options = ('--csv', split_files) if source == 'flat' else ()
        to_mini(tmp_path / source, tmp_path / f'{source}-out', *options)
        assert listing(tmp_path / f'{source}-out') == wanted


def test_split_files_with_imagenets_own_names(imagenet_folder, split_files, tmp_path):
    for path in split_files.iterdir():
        rows = path.read_text().splitlines()
        numbers = 13, 5, 8, 31, 5002, 77
        path.write_text(
            '\n'.join(
                [rows[0]]
                + [f'{row[:9]}_{number}.JPEG,{row[:9]}' for row, number in zip(rows[1:], numbers)]
            )
        )
    to_mini(imagenet_folder / 'train', tmp_path / 'out', '--csv', split_files)
    links = {path.name: os.readlink(path) for path in (tmp_path / 'out').rglob('*.JPEG')}
    assert len(links) == 18
    assert all(link.endswith(f'/{name}') for name, link in links.items())


def test_split_files_that_do_not_fit(imagenet_folder, split_files, tmp_path):

    def line_of(row=None, where=imagenet_folder):
        path = split_files / 'val.csv'
        good = path.read_text()
        try:
            path.write_text(good if row is None else good + row)
            return fails(to_mini, where, tmp_path / 'out', '--csv', split_files)
        finally:
            path.write_text(good)

    wnid = MINI[1]
    for row, named in [
        (f'{wnid}00000009.jpg,{wnid}', 'image 9'),
        (f'{wnid}00000002.jpg,{wnid}', 'listed twice'),
        (f'{wnid}_6.JPEG,{wnid}', f'no image {wnid}_6.JPEG'),
        (f'{MINI[0]}00000001.jpg,{wnid}', f'no image {MINI[0]}00000001'),
        ('n0000000000000001.jpg,n00000000', 'no class folder n00000000'),
        ('alone.jpg', 'filename,label'),
    ]:
        line = line_of(row)
        assert 'val.csv, line 8' in line and named in line
    assert f'7 images of class {wnid}' in line_of(f'{wnid}00000001.jpg,{wnid}')
    assert 'nowhere' in line_of(where=tmp_path / 'nowhere')
    (split_files / 'test.csv').unlink()
    line = line_of()
    assert 'test.csv' in line and 'meta-learning-lstm' in line
    assert not (tmp_path / 'out').exists()


def test_imagenet_without_split_files_is_not_taken_for_mini_imagenet(imagenet_folder, tmp_path):
    line = fails(to_mini, imagenet_folder, tmp_path / 'out')
    assert '10 images of class n01532829' in line and '--csv' in line
    shutil.rmtree(imagenet_folder / 'train' / MINI[2])
    shutil.rmtree(imagenet_folder / 'val' / MINI[2])
    assert '2 classes' in fails(to_mini, imagenet_folder, tmp_path / 'out')


def test_two_images_of_one_name(imagenet_folder, tmp_path):
    name = f'{MINI[0]}/{MINI[0]}_5.JPEG'
    shutil.copyfile(imagenet_folder / 'train' / name, imagenet_folder / 'val' / name)
    assert 'two images n01532829_5.JPEG' in fails(to_mini, imagenet_folder, tmp_path / 'out')


# ------------------------------------------------------------------- ImageNet


def check(folder, *options):
    imagenet.main(['--check', str(folder), *options], IMAGENET_SIZE)


def flatten(val):
    for path in list(val.glob('*/*')):
        path.rename(val / path.name)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


def test_whole_imagenet(imagenet_folder, capsys):
    check(imagenet_folder)
    check(imagenet_folder, '--read')
    whole, read = capsys.readouterr().out.splitlines()
    assert 'is whole: 3 classes, 24 images to train on and 6 to validate' in whole
    assert read.endswith('every one readable')


def test_a_flat_validation_folder(imagenet_folder, capsys):
    val = imagenet_folder / 'val'
    labels = {path.name: MINI.index(path.parent.name) for path in val.glob('*/*')}
    flatten(val)
    line = fails(check, imagenet_folder)
    listed = imagenet_folder / 'meta' / 'val.txt'
    assert f'{val} holds 6 images and no class folders' in line and str(listed) in line

    listed.parent.mkdir()
    listed.write_text(''.join(f'{n} {label}\n' for n, label in sorted(labels.items())))
    check(imagenet_folder)
    assert 'is whole' in capsys.readouterr().out
    good = listed.read_text()
    for row, named in ('gone.JPEG 0', 'gone.JPEG'), ('a.JPEG 3', 'from 0 to 2'):
        listed.write_text(good + row)
        line = fails(check, imagenet_folder)
        assert 'val.txt, line 7' in line and named in line


def test_what_imagenet_lacks_is_named(imagenet_folder):
    train, val = imagenet_folder / 'train', imagenet_folder / 'val'
    one = val / MINI[0] / 'ILSVRC2012_val_00000001.JPEG'
    one.rename(val / MINI[1] / one.name)
    assert '1 images of class n01532829, expected 2' in fails(check, imagenet_folder)
    (val / MINI[1] / one.name).unlink()
    assert 'val holds 5 images, ImageNet-1K has 6' in fails(check, imagenet_folder)
    (val / MINI[2]).rename(val / 'n09999999')
    line = fails(check, imagenet_folder)
    assert 'class n01704323 in train/ only' in line
    (train / MINI[2]).rename(train / 'n09999999')
    (train / 'n09999999' / 'n01704323_5.JPEG').unlink()
    assert 'train holds 23 images, ImageNet-1K has 24' in fails(check, imagenet_folder)
    for path in (train / MINI[0]).iterdir():
        path.unlink()
    assert 'no images of class n01532829' in fails(check, imagenet_folder)
    (train / MINI[0]).rmdir()
    assert 'train holds 2 class folders' in fails(check, imagenet_folder)
    shutil.rmtree(train)
    line = fails(check, imagenet_folder)
    assert f'{train} does not exist' in line and 'image-net.org' in line


def test_reading_imagenet_names_broken_and_identical_images(imagenet_folder, capsys):
    paths = sorted((imagenet_folder / 'train' / MINI[1]).iterdir())
    copy = imagenet_folder / 'val' / MINI[0] / 'ILSVRC2012_val_00000001.JPEG'
    copy.write_bytes(paths[1].read_bytes())
    check(imagenet_folder, '--read')
    printed = capsys.readouterr().out
    assert f'{MINI[1]}/{paths[1].name}, val/{MINI[0]}/{copy.name}' in printed
    paths[0].write_bytes(paths[0].read_bytes()[:-80])
    assert str(paths[0]) in fails(check, imagenet_folder, '--read')


# --------------------------------------------- names and records of other people

BAD_NAMES = [
    ('../../victim/v.jpg', 'is a path'),
    ('/etc/v.jpg', 'is a path'),
    ('a\\..\\v.jpg', 'is a path'),
    ('C:v.jpg', 'is a path'),
    ('sub/v.jpg', 'is a path'),
    ('..', 'begins with a dot'),
    ('.v.jpg', 'begins with a dot'),
    ('a\x00.jpg', 'holds a control character'),
    ('a\n.jpg', 'holds a control character'),
    ('v' * 252 + '.jpg', 'is longer than 255 bytes'),
]


@pytest.mark.parametrize('name, fault', BAD_NAMES)
@pytest.mark.parametrize('column', ['filename', 'label'])
@pytest.mark.parametrize('copy', [(), ('--copy',)])
def test_names_in_split_files_stay_below_the_output(
    imagenet_folder, split_files, images, tmp_path, column, name, fault, copy
):
    for victim in tmp_path / 'victim' / 'v.jpg', tmp_path / 'imagenet' / 'train' / 'v.jpg':
        images.save(victim)
    before = {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
    row = dict(filename=f'{MINI[0]}00000002.jpg', label=MINI[0])
    row[column] = name
    with open(split_files / 'train.csv', 'a') as file:
        file.write('"{filename}","{label}"\n'.format(**row))
    before.pop(split_files / 'train.csv')
    line = fails(to_mini, imagenet_folder, tmp_path / 'out', '--csv', split_files, *copy)
    if name.endswith(('\x00.jpg',)) and sys.version_info < (3, 11):
        assert 'train.csv' in line  # Python's csv refuses a NUL
    else:
        assert f'train.csv, line 8: the {column} {name!r} {fault}: take the split files' in line
    assert {path for path in tmp_path.rglob('*') if path.is_file()} == {
        *before,
        split_files / 'train.csv',
    }
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_split_file_that_lists_what_is_no_image(imagenet_folder, split_files, tmp_path):
    (imagenet_folder / 'train' / MINI[0] / 'notes.txt').write_text('')
    with open(split_files / 'train.csv', 'a') as file:
        file.write(f'notes.txt,{MINI[0]}\n')
    line = fails(to_mini, imagenet_folder, tmp_path / 'out', '--csv', split_files)
    assert "line 8: the filename 'notes.txt' ends with none of .jpg, " in line


def not_utf8(path):
    """The path with a byte in its name that is not UTF-8, or skip the test."""
    suffix = path.suffix if path.is_file() else ''
    stem = os.fsencode(path.name[: len(path.name) - len(suffix)])
    other = path.with_name(os.fsdecode(stem + b'\xe9' + os.fsencode(suffix)))
    try:
        path.rename(other)
    except OSError:
        pytest.skip('this file system has names in UTF-8 alone')
    return other


@pytest.mark.parametrize('which', ['image', 'class'])
def test_names_that_are_not_utf8(objects, imagenet_folder, split_files, tmp_path, which):
    out = tmp_path / 'out'
    to_mini(imagenet_folder, tmp_path / 'mini', '--csv', split_files, '--copy')
    shutil.rmtree(tmp_path / 'mini' / 'test')
    for call, folder in [
        (to_caltech, objects / '001.ak47'),
        (to_mini, tmp_path / 'mini' / 'train' / MINI[0]),
        (check, imagenet_folder / 'train' / MINI[0]),
    ]:
        path = not_utf8(sorted(folder.iterdir())[0] if which == 'image' else folder)
        arguments = (
            (objects, out)
            if call is to_caltech
            else ((tmp_path / 'mini', out) if call is to_mini else (imagenet_folder,))
        )
        line = fails(to_few_mini if call is to_mini else call, *arguments)
        kind = 'an image' if which == 'image' else 'a class'
        assert f'the name {path.name!r} of {kind} in ' in line
        assert line.endswith('is not UTF-8: rename it')
        line.encode()  # can be printed
    assert not out.exists()


def to_few_mini(source, out):
    size = mini_imagenet.Size(classes=3, train_of_a_class=2, test_of_a_class=2)
    mini_imagenet.main([str(source), '--out', str(out)], size)


def test_what_is_left_out_may_have_any_name(objects, tmp_path, monkeypatch):
    not_utf8(objects / '002.american-flag' / 'RENAME2')
    script = (
        'from poslabel_mm.datasets import command; '
        'from poslabel_mm.datasets.converters import caltech256; '
        f"command.run_converter(lambda: caltech256.main([{str(objects)!r}, '--out', "
        f'{str(tmp_path / "out")!r}], caltech256.Size(3, 30, 8)))'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', script],
        capture_output=True,
        env=dict(os.environ, PYTHONIOENCODING='utf-8'),
    )
    assert done.returncode == 0, done.stderr
    assert b'left out, no image: 002.american-flag/RENAME2\\udce9' in done.stdout
    assert len(listing(tmp_path / 'out')) == 30


OURS = dict(
    dataset='caltech256',
    version=1,
    seed=0,
    copy=False,
    source='/source',
    unreadable={},
    duplicates=[],
    counts=dict(classes=1, train=1, test=1),
    train=dict(a=['1.jpg']),
    test=dict(a=['2.jpg']),
)


@pytest.mark.parametrize(
    'change',
    [
        dict(train=['1.jpg']),
        dict(test=5),
        dict(train=dict(a=5)),
        dict(train=dict(a=[5])),
        dict(counts=None),
        dict(counts={}),
        dict(counts=dict(classes='1', train=1, test=1)),
        dict(unreadable=None),
        dict(unreadable=3),
        dict(source=None),
        dict(dataset=['x']),
        'version',
        'seed',
        'copy',
        'counts',
        'source',
        'unreadable',
        'train',
        'test',
        'dataset',
    ],
)
@pytest.mark.parametrize('convert', ['caltech256', 'mini_imagenet'])
def test_a_record_that_is_not_ours(tmp_path, change, convert):
    record = dict(OURS, dataset=convert)
    if isinstance(change, str):
        del record[change]
    else:
        record.update(change)
    is_not_ours(tmp_path, json.dumps(record), convert)


@pytest.mark.parametrize('text', ['5', 'null', '"dataset"', '[' * 100_000, '\xff', ''])
def test_a_record_that_is_something_else(tmp_path, text):
    is_not_ours(tmp_path, text, 'caltech256')


def is_not_ours(folder, text, convert):
    out = folder / 'out'
    out.mkdir()
    (out / 'split.json').write_text(text, 'latin-1')
    to = to_caltech if convert == 'caltech256' else to_mini
    assert fails(to, folder / 'source', out) == (
        f'{out} exists and was not made by this command: move it away, or choose another --out'
    )
    assert (out / 'split.json').read_text('latin-1') == text
    # A run with such data looks at the record as well.
    source_made_in(str(out))


def test_a_record_that_is_a_pipe(tmp_path):
    (tmp_path / 'out').mkdir()
    os.mkfifo(tmp_path / 'out' / 'split.json')
    assert 'was not made by this command' in fails(to_caltech, tmp_path, tmp_path / 'out')
    assert source_made_in(str(tmp_path / 'out')) is None


def test_a_loop_of_links_in_a_source(objects, tmp_path):
    (objects / '001.ak47' / 'loop').symlink_to('loop')
    line = fails(to_caltech, objects, tmp_path / 'out')
    assert line == (
        f'cannot follow the symbolic link {objects}/001.ak47/loop (Too many levels '
        'of symbolic links): remove it'
    )


def test_lists_of_imagenet_stay_in_its_folder(imagenet_folder, tmp_path):
    listed = imagenet_folder / 'meta' / 'val.txt'
    listed.parent.mkdir()
    (imagenet_folder / 'v.JPEG').touch()
    for name in '../v.JPEG', f'{imagenet_folder}/v.JPEG', f'{MINI[0]}/../../v.JPEG':
        listed.write_text(f'{name} 0\n')
        line = fails(check, imagenet_folder)
        assert line == (
            f'{listed}, line 1: {name!r} is outside of {imagenet_folder}/val: name '
            'the images below it'
        )
    for text, named in [
        ('a.JPEG \u00b2\n', 'a label from 0 to 2'),
        ('v' * 300 + ' 0\n', 'there is no'),
    ]:
        listed.write_text(text, 'utf-8')
        assert 'line 1: ' in fails(check, imagenet_folder)
        assert named in fails(check, imagenet_folder)
    listed.write_bytes(b'caf\xe9.JPEG 0\n')
    assert f'cannot read {listed}' in fails(check, imagenet_folder)


# -------------------------------------------------------------------- commands


@pytest.mark.parametrize(
    'command, named',
    [
        (
            ['caltech256.py', 'empty'],
            'holds 0 class folders such as 001.ak47, without 001.*; expected 257',
        ),
        (['mini_imagenet.py', 'empty'], 'Mini-ImageNet has 100'),
        (['imagenet.py', '--check', 'empty'], 'empty/train does not exist'),
        (['imagenet.py'], 'required: --check; '),
        (['mini_imagenet.py'], 'convert mini-imagenet --help lists the options'),
        (['caltech256.py', 'empty', '--seed', 'x'], "argument --seed: invalid int value: 'x'; "),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, command, named):
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', command)
    monkeypatch.setattr(sys, 'path', sys.path[:])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(TOOLS / command[0]), run_name='__main__')
    assert left.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ') and named in line
    assert os.listdir(tmp_path) == ['empty']


def test_a_tool_runs_from_any_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', str(TOOLS / 'imagenet.py'), '--check', 'data'],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != 'PYTHONPATH'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ''  # MMPretrain's datasets would say what they lack
    (line,) = done.stderr.splitlines()
    assert line.startswith('error: data/train does not exist')


def test_ctrl_c_while_a_tool_works_ends_it_in_a_line(capsys):

    def work():
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # fails, does not kill
    try:
        assert run_converter(work) == 130
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)
    assert capsys.readouterr().err == 'interrupted; nothing was changed\n'
