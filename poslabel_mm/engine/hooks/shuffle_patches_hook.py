import zlib

import torch
from mmengine.hooks import Hook

from poslabel_mm.errors import UserError
from poslabel_mm.options import whole_number
from poslabel_mm.registry import HOOKS
from poslabel_mm.tokens.shuffled import shuffle_patches


@HOOKS.register_module()
class ShufflePatchesHook(Hook):
    """Shuffle the patches of every image in validation and test.

    How much accuracy is lost tells how much a model's answers depend on where its patches are. An
    image's patches are drawn by the path of its file, so that every model sees the same
    shuffled images, whatever the batch and the number of processes.

    Args:
        patch_size (int): The side of the patches in pixels. Several patches of the model make
            larger ones.
        seed (int): Of the drawn orders. Defaults to 0.

    Position metrics then count the place where a patch is shown. Probes read images of their own,
    which are not shuffled.

    Raises:
        UserError: If ``patch_size`` is no positive whole number or does not divide the images, or
            in test-time augmentation.
    """

    def __init__(self, patch_size: int, seed: int = 0) -> None:
        self.patch_size = whole_number('patch_size', patch_size)
        self.seed = seed

    def before_val_iter(self, runner, batch_idx: int, data_batch: dict | None = None) -> None:
        self._shuffle(data_batch)

    def before_test_iter(self, runner, batch_idx: int, data_batch: dict | None = None) -> None:
        self._shuffle(data_batch)

    def _shuffle(self, data_batch: dict) -> None:
        if any(isinstance(sample, (list, tuple)) for sample in data_batch['data_samples']):
            raise UserError(
                'ShufflePatchesHook shuffles single images, and test-time augmentation makes '
                'several of each: leave out --tta, or the hook'
            )
        data_batch['inputs'] = [
            self._shuffled(image, sample.get('img_path') or str(sample.get('sample_idx')))
            for image, sample in zip(data_batch['inputs'], data_batch['data_samples'])
        ]

    def _shuffled(self, image: torch.Tensor, name: str) -> torch.Tensor:
        height, width = image.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise UserError(
                f'ShufflePatchesHook: patches of {self.patch_size} px do not divide an image of '
                f'{height}x{width} px: set its patch_size to a divisor of both'
            )
        grid_shape = height // self.patch_size, width // self.patch_size
        # Not the whole path, which differs from machine to machine.
        name = '/'.join(name.replace('\\', '/').split('/')[-2:])
        generator = torch.Generator().manual_seed(zlib.crc32(f'{self.seed} {name}'.encode()))
        order = torch.randperm(grid_shape[0] * grid_shape[1], generator=generator)
        return shuffle_patches(image, order, grid_shape)
