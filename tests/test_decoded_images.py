import errno
import fcntl
import multiprocessing
import os
import pickle
import socket
import time

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import DATASETS
from tiny_run import make_images

from poslabel_mm import file_lock
from poslabel_mm.datasets import decoded_images
from poslabel_mm.errors import UserError
from poslabel_mm.stack.image_errors import name_unreadable_images


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    make_images(tmp_path / 'data' / 'train')
    reads = []
    read = decoded_images._read
    monkeypatch.setattr(
        decoded_images, '_read', lambda path, *rest: (reads.append(path), read(path, *rest))[1]
    )

    def build(**options):
        reads.clear()
        options = dict(short_side=8, cache=str(tmp_path / 'cache')) | options
        dataset = DATASETS.build(
            dict(
                type='poslabel_mm.DecodedImages',
                data_root=str(tmp_path / 'data'),
                data_prefix='train',
                pipeline=[],
                **options,
            )
        )
        return dataset, len(reads)

    return build


def test_images_are_those_that_mmcv_reads(dataset, tmp_path):
    path = tmp_path / 'data' / 'train' / 'a' / 'wide.png'
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    cv2.imwrite(str(path), noise)
    kept, read = dataset(short_side=16)
    assert read == len(kept)
    images = {info['img_path']: info for info in (kept[i] for i in range(len(kept)))}
    assert np.array_equal(images[str(path)]['img'], noise)
    for name, info in images.items():
        assert np.array_equal(info['img'], cv2.imread(name))
        assert info['gt_label'] == sorted(kept.CLASSES).index(
            os.path.basename(os.path.dirname(name))
        )
    reduced, _ = dataset(short_side=8)
    (info,) = (reduced[i] for i in range(len(reduced)) if reduced[i]['img_path'] == str(path))
    assert info['img'].shape == (8, 12, 3) and info['img_shape'] == (8, 12)
    blocks = noise.reshape(8, 2, 12, 2, 3).mean(axis=(1, 3))
    assert np.abs(info['img'] - blocks).max() <= 0.5 + 1e-6  # the mean of four pixels, rounded


def test_they_are_decoded_once_and_again_when_one_has_changed(dataset, tmp_path):
    first, read = dataset()
    assert read == len(first)
    again, read = dataset()
    assert read == 0
    again[0]['img'][:] = 0  # a copy
    assert np.array_equal(dataset()[0][0]['img'], first[0]['img'])
    path = first.get_data_info(3)['img_path']
    cv2.imwrite(path, np.full((16, 16, 3), 7, np.uint8))
    os.utime(path, ns=(1, 1))
    changed, read = dataset()
    assert read == len(first)
    assert (changed[3]['img'] == 7).all()
    assert dataset(short_side=4)[1] == len(first)


@pytest.mark.parametrize('left', ['*.bin', '*.npy'])
@pytest.mark.parametrize('size', [None, 10], ids=['missing', 'cut off'])
def test_what_a_killed_process_left_is_not_used(dataset, tmp_path, left, size):
    first, _ = dataset()
    images = [first[i]['img'] for i in range(len(first))]
    (path,) = (tmp_path / 'cache').glob(left)
    if size is None:
        path.unlink()
    else:
        os.truncate(path, size)
    again, read = dataset()
    assert read == len(again)
    assert all(np.array_equal(again[i]['img'], image) for i, image in enumerate(images))


def test_processes_that_start_together_decode_once(dataset, monkeypatch):
    """Forked, for a process of its own would import the stack."""
    read = decoded_images._read
    # Long enough for the other process to look for the file.
    monkeypatch.setattr(decoded_images, '_read', lambda *args: (time.sleep(0.05), read(*args))[1])
    context = multiprocessing.get_context('fork')
    together, found = context.Barrier(2), context.SimpleQueue()

    def decode():
        together.wait()
        kept, reads = dataset()
        found.put((len(kept), reads, sum(int(info['img'].sum()) for info in kept)))

    processes = [context.Process(target=decode) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    one, other = sorted([found.get(), found.get()])
    length, reads, pixels = one
    assert reads == 0 and other == (length, length, pixels)


def no_locks(number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize('refusal', [None, errno.ENOLCK, errno.ENOSYS])
def test_a_file_that_others_have_mapped_is_not_written_to(dataset, tmp_path, monkeypatch, refusal):
    """As where locks do not reach other hosts; writing to it would end them with SIGBUS."""
    if refusal:
        monkeypatch.setattr(fcntl, 'flock', no_locks(refusal))
    first, _ = dataset()
    (file,) = (tmp_path / 'cache').glob('*.bin')
    (shapes,) = (tmp_path / 'cache').glob('*.npy')
    images = [first[i]['img'] for i in range(len(first))]  # maps the file
    size = file.stat().st_size
    shapes.unlink()  # the other host does not see it yet
    read, sizes = decoded_images._read, []
    monkeypatch.setattr(
        decoded_images, '_read', lambda *args: (sizes.append(file.stat().st_size), read(*args))[1]
    )
    again, reads = dataset()
    assert reads == len(again) and set(sizes) == {size}
    for kept in first, again:
        assert all(np.array_equal(kept[i]['img'], image) for i, image in enumerate(images))
    assert {path.suffix for path in (tmp_path / 'cache').iterdir()} == {'.bin', '.npy', '.lock'}


def test_the_file_of_the_first_is_used_where_two_make_it(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, 'flock', no_locks(errno.ENOLCK))
    read, first = decoded_images._read, []

    def meanwhile(*args):
        monkeypatch.setattr(decoded_images, '_read', read)
        first.extend([dataset()[0], next((tmp_path / 'cache').glob('*.bin')).stat().st_ino])
        return read(*args)

    monkeypatch.setattr(decoded_images, 'THREADS', 1)
    monkeypatch.setattr(decoded_images, '_read', meanwhile)
    second, _ = dataset()
    (file,) = (tmp_path / 'cache').glob('*.bin')
    assert first[1] == file.stat().st_ino
    assert np.array_equal(first[0][0]['img'], second[0]['img'])
    assert not list((tmp_path / 'cache').glob('*.tmp'))


def test_what_processes_leave_when_they_are_killed_does_not_pile_up(dataset, tmp_path):
    first, _ = dataset()
    (shapes,) = (tmp_path / 'cache').glob('*.npy')
    shapes.unlink()
    host = socket.gethostname()
    left = [shapes.with_suffix(f'.{name}.bin.tmp') for name in (host, 'other', 'alive')]
    for path in left:
        path.touch()
    os.utime(left[1], times=(0, 0))
    assert dataset()[1] == len(first)
    assert list((tmp_path / 'cache').glob('*.tmp')) == [left[2]]
    os.utime(left[2], times=(0, 0))
    assert dataset()[1] == 0  # nothing is made, and yet
    assert not list((tmp_path / 'cache').glob('*.tmp'))


def test_a_folder_of_decoded_images_may_be_read_only(dataset, monkeypatch):
    first, _ = dataset()

    def refuse(*args, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(file_lock, 'open', refuse, raising=False)
    monkeypatch.setattr(decoded_images, '_make', None)
    assert np.array_equal(dataset()[0][0]['img'], first[0]['img'])


def test_a_copy_for_another_process_has_no_pixels(dataset):
    kept, _ = dataset()
    before = len(pickle.dumps(kept))
    image = kept[0]['img']  # maps the file
    copied = pickle.dumps(kept)
    assert len(copied) == before
    assert np.array_equal(pickle.loads(copied)[0]['img'], image)


def test_bad_options_and_images(dataset, tmp_path, monkeypatch):
    with pytest.raises(UserError, match='short_side'):
        dataset(short_side=0)
    (tmp_path / 'data' / 'train' / 'a' / 'broken.png').write_bytes(b'no image')
    # As the tools do: the test takes it back.
    monkeypatch.setattr(LoadImageFromFile, 'transform', LoadImageFromFile.transform)
    name_unreadable_images()
    with pytest.raises(UserError, match=r'broken\.png'):
        dataset()
    assert not list((tmp_path / 'cache').glob('*.npy'))
    (tmp_path / 'data' / 'train' / 'a' / 'broken.png').unlink()
    blocked = tmp_path / 'file'
    blocked.touch()
    with pytest.raises(UserError, match=r'could not be written to .*file.* cache='):
        dataset(cache=str(blocked))
