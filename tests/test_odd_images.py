"""Odd images: each trains, or is refused in one line that names it.

Every file is made here and goes through MMPretrain's own loader and the pipeline of the ImageNet
configs, decoders as they come with the stack.
"""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.datasets import CustomDataset
from PIL import Image
from tiny_run import write_config

from poslabel_mm import UserError, config_path
from poslabel_mm.launch import tools as launch
from poslabel_mm.stack.image_errors import name_unreadable_images

RNG = np.random.default_rng(0)
WHOLE = Image.fromarray(RNG.integers(0, 256, (40, 48, 3), dtype=np.uint8))
GREY_16 = Image.fromarray(RNG.integers(0, 65536, (40, 48)).astype(np.uint16))
FORMATS = dict(jpg='JPEG', png='PNG', bmp='BMP', ppm='PPM', tif='TIFF')


def encoded(image: Image.Image, suffix: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, FORMATS.get(suffix, suffix), **options)
    return file.getvalue()


def of_shape(height: int, width: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(WHOLE, 'jpg', exif=exif.tobytes())


def raw_png(width: int, height: int, depth: int, colour: int, pixels: bytes) -> bytes:
    """A PNG that says of itself what it is told to."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack('>I', zlib.crc32(kind + data))
        return struct.pack('>I', len(data)) + kind + data + check

    header = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', zlib.compress(pixels))
        + chunk(b'IEND', b'')
    )


def with_zeros(data: bytes) -> bytes:
    """Its middle overwritten, as a disk leaves a file at a power cut."""
    middle = len(data) // 2
    return data[:middle] + bytes(200) + data[middle + 200 :]


GOOD = {suffix: encoded(WHOLE, suffix) for suffix in FORMATS}

READ = {
    **{f'whole.{suffix}': data for suffix, data in GOOD.items()},
    **{f'more_after_its_end.{suffix}': data + b'junk' * 50 for suffix, data in GOOD.items()},
    # A suffix that is not its own.
    'a_png.jpg': GOOD['png'],
    'a_jpeg.png': GOOD['jpg'],
    'a_tiff.jpg': GOOD['tif'],
    'a_gif.jpg': encoded(WHOLE, 'GIF'),
    'a_webp.jpg': encoded(WHOLE, 'WEBP'),
    # Other channels, depths and encodings.
    'cmyk.jpg': encoded(WHOLE.convert('CMYK'), 'jpg'),
    'grey.jpg': encoded(WHOLE.convert('L'), 'jpg'),
    'progressive.jpg': encoded(WHOLE, 'jpg', progressive=True),
    'bad_colour_profile.jpg': encoded(WHOLE, 'jpg', icc_profile=b'nonsense'),
    'bad_exif.jpg': encoded(WHOLE, 'jpg', exif=b'Exif\0\0garbage'),
    **{
        f'{mode}.png': encoded(WHOLE.convert(mode), 'png')
        for mode in ('1', 'L', 'LA', 'P', 'RGBA')
    },
    '16_bit_grey.png': encoded(GREY_16, 'png'),
    '16_bit_rgb.png': raw_png(8, 8, 16, 2, (b'\0' + bytes(48)) * 8),
    '16_bit_rgba.png': raw_png(8, 8, 16, 6, (b'\0' + bytes(64)) * 8),
    '16_bit_grey.tif': encoded(GREY_16, 'tif'),
    '16_bit_rgb.ppm': b'P6 4 4 65535\n' + bytes(96),
    'text.ppm': b'P3 2 2 255\n' + b'1 2 3 ' * 4,
    'grey.pgm': encoded(WHOLE.convert('L'), 'ppm'),
    'cmyk.tif': encoded(WHOLE.convert('CMYK'), 'tif'),
    'packed.tif': encoded(WHOLE, 'tif', compression='tiff_lzw'),
    'two_pages.tif': encoded(WHOLE, 'tif', save_all=True, append_images=[of_shape(5, 5)]),
    'animated.png': encoded(WHOLE, 'png', save_all=True, append_images=[WHOLE.rotate(90)]),
    # Shapes.
    **{
        f'{height}x{width}.{suffix}': encoded(of_shape(height, width), suffix)
        for height, width in ((1, 1), (1, 300), (300, 1), (2, 2), (3, 4000))
        for suffix in ('jpg', 'png')
    },
    **{f'orientation_{value}.jpg': turned(value) for value in range(10)},
}

REFUSED = {
    **{
        f'first_{cut}.{suffix}': data[:cut]
        for suffix, data in GOOD.items()
        for cut in (1, 4, 100, len(data) // 4, len(data) // 2, len(data) - 100, len(data) - 1)
    },
    **{f'zeros.{suffix}': bytes(len(data)) for suffix, data in GOOD.items()},
    'empty.jpg': b'',
    'text.jpg': b'hello',
    'page.jpg': b'<!DOCTYPE html><html><body>404</body></html>',
    'pointer.png': b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n',
    'float.tif': encoded(Image.fromarray(RNG.random((40, 48), dtype=np.float32)), 'tif'),
    'zeros_in_the_middle.png': with_zeros(GOOD['png']),
    'without_its_end.png': GOOD['png'][:-12],
    'no_sides.png': raw_png(0, 0, 8, 2, b''),
    'ten_gigapixels.png': raw_png(100_000, 100_000, 8, 2, bytes(1000)),
    'a_million_terapixels.png': raw_png(2**30, 2**30, 8, 2, bytes(1000)),
}

# These formats have no checksums: damage shows in the pixels, or not at all.
UNNOTICED = {
    f'zeros_in_the_middle.{suffix}': with_zeros(GOOD[suffix])
    for suffix in ('jpg', 'bmp', 'ppm', 'tif')
}


@pytest.fixture(scope='module')
def load():
    """Loads one file, as the first of a dataset, through a config's pipeline."""
    cfg = Config.fromfile(config_path('vit-b_apl_in1k.py'))
    with pytest.MonkeyPatch.context() as patch:
        from mmcv.transforms import LoadImageFromFile

        patch.setattr(LoadImageFromFile, 'transform', LoadImageFromFile.transform)
        name_unreadable_images()

        def call(folder, name, data):
            (folder / 'class').mkdir()
            (folder / 'class' / name).write_bytes(data)
            (sample,) = CustomDataset(str(folder), pipeline=cfg.train_pipeline)
            return sample

        yield call


@pytest.mark.parametrize('name', [*READ, *UNNOTICED])
def test_is_read(tmp_path, load, name):
    inputs = load(tmp_path, name, (READ | UNNOTICED)[name])['inputs']
    assert inputs.shape == (3, 224, 224) and inputs.dtype == torch.uint8


@pytest.mark.parametrize('name', REFUSED)
def test_is_named(tmp_path, load, name):
    path = tmp_path / 'class' / name
    with pytest.raises(UserError) as refused:
        load(tmp_path, name, REFUSED[name])
    assert str(refused.value) == (
        f'cannot read image {path}, its {len(REFUSED[name])} bytes are no whole image: '
        'replace it, or remove it from the data'
    )


def test_all_that_is_read_trains(tmp_path, monkeypatch):
    for label in 'a', 'b':
        (tmp_path / 'images' / label).mkdir(parents=True)
    for i, (name, data) in enumerate((READ | UNNOTICED).items()):
        (tmp_path / 'images' / 'ab'[i % 2] / name).write_bytes(data)
    config = write_config(
        tmp_path,
        str(tmp_path / 'images'),
        """
train_dataloader['dataset']['pipeline'].insert(1, dict(type='RandomResizedCrop', scale=16))
train_cfg.update(max_epochs=1)
param_scheduler = None
""",
    )
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('POSLABEL_MM_RESUME_COMMAND', '')
    work_dir = tmp_path / 'run'
    monkeypatch.setattr(sys, 'argv', ['train.py', config, '--work-dir', str(work_dir)])
    launch.train()
    assert (work_dir / 'epoch_1.pth').exists()
