"""Errors that name the image that cannot be read."""

import os.path as osp
from functools import wraps

from poslabel_mm.errors import UserError


def name_unreadable_images() -> None:
    """Have MMCV's image loader name the image that it cannot read.

    Cause: the messages of the decoders name neither the file nor the reason. Training and testing
    by our tools call this. Remove when MMCV's errors name the file.
    """
    from mmcv.transforms import LoadImageFromFile

    stock = LoadImageFromFile.transform
    if getattr(stock, 'names_the_image', False):
        return

    @wraps(stock)
    def transform(self, results: dict) -> dict | None:
        try:
            return stock(self, results)
        except MemoryError:
            raise
        except Exception as error:
            path = results['img_path']
            reason = getattr(error, 'strerror', None)
            if reason is None and osp.isfile(path):
                reason = f'its {osp.getsize(path)} bytes are no whole image'
            raise UserError(
                f'cannot read image {path}, {reason or error}: '
                'replace it, or remove it from the data'
            ) from error

    transform.names_the_image = True
    LoadImageFromFile.transform = transform
