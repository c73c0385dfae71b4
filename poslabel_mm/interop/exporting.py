"""What ``poslabel export`` does: write, build what was written, and compare it with the source."""

import argparse
import os
import os.path as osp
from collections.abc import Callable

from poslabel_mm.interop.export_command import FORMATS
from poslabel_mm.interop.network import POSITION_PARTS, Source
from poslabel_mm.interop.output import check_output, unfinished
from poslabel_mm.interop.packages import check_packages
from poslabel_mm.interop.program_writers import write_onnx, write_torch_export
from poslabel_mm.interop.weight_writers import (
    write_hugging_face,
    write_safetensors,
    write_stock,
    write_timm,
)
from poslabel_mm.interop.written import Written
from poslabel_mm.launch.arguments import read_config
from poslabel_mm.launch.checks.wording import first_names
from poslabel_mm.launch.guard import Guard
from poslabel_mm.stack.config_prefix import without_own_scope

WRITERS: dict[str, Callable[[Source, str], Written]] = {
    'stock': write_stock,
    'timm': write_timm,
    'hf': write_hugging_face,
    'onnx': write_onnx,
    'torch-export': write_torch_export,
    'safetensors': write_safetensors,
}


def export(args: argparse.Namespace) -> None:
    """Export a saved model; see :mod:`poslabel_mm.interop.export_command`.

    Raises:
        UserError: If it cannot be exported, or what was written computes something else.
    """
    with Guard(), without_own_scope():
        form = FORMATS[args.to]
        check_output(args.out, form.endings)
        check_packages(f'--to {args.to}', *form.packages)
        source = Source(read_config(args.config, args.cfg_options), args.checkpoint)
        with unfinished(args.out) as path:
            written = WRITERS[args.to](source, path)
        _report(source, args, written)


def _report(source: Source, args: argparse.Namespace, written: Written) -> None:
    count = len(source.weights())
    print(f'written    {args.out}: {_size(args.out)}, {count} tensors of the network')
    left = [name for name in source.left_out() if name.startswith(POSITION_PARTS)]
    if left:
        print(f'left out   {first_names(left)}: position heads, used only in training')
    others = [name for name in source.left_out() if not name.startswith(POSITION_PARTS)]
    if others:
        print(f'left out   {first_names(others)}: not part of the encoder')
    if getattr(source.model.backbone, 'pos_encoding', None) == 'none':
        if hasattr(source.model.backbone, 'pos_embed'):
            print('encoding   zeros, as the model has none')
    print(f'verified   {written.verified}')
    channels, height, width = source.image_shape
    images = f'{channels}x{height}x{width}'
    if channels == 3:
        images = f'{"RGB" if source.is_rgb() else "BGR"}, {images}'
    normalisation = source.preprocessing()
    if normalisation is not None:
        images += (
            f', normalised: (pixel from 0 to 255 - {_short(normalisation.mean)}) / '
            f'{_short(normalisation.std)}'
        )
    print(f'images     {images}')
    if written.note:
        print(f'note       {written.note}')
    print(f'read       {written.use.replace("FILE", repr(args.out))}')


def _short(values: list[float]) -> str:
    return '[' + ', '.join(f'{value:g}' for value in values) + ']'


def _size(path: str) -> str:
    files = [path]
    if osp.isdir(path):
        files = [entry.path for entry in os.scandir(path)]
    return f'{sum(map(osp.getsize, files)) / 1e6:.1f} MB'
