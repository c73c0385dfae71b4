"""What the position heads of a saved model predict on a dataset's images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner, load_checkpoint
from torch import nn

from poslabel_mm.errors import UserError


class SavedModels:
    """The models that a run has saved, on the images of its test split.

    Images are read and preprocessed once, models are loaded one after another.

    Args:
        cfg (Config): The run's config. Its model has position heads, its test images fit into
            memory.

    Attributes:
        images (list[np.ndarray]): The test images as the model's input, (channels, height,
            width), before normalisation.
        classes (list[int]): Their classes.

    Raises:
        UserError: If the model has no position heads.
    """

    def __init__(self, cfg: Config) -> None:
        cfg = Config(cfg.to_dict())
        cfg.log_level, cfg.load_from, cfg.resume = 'ERROR', None, False
        # Of its own, for MMEngine's loggers go by the name.
        cfg.experiment_name = f'positions_{id(self)}'
        runner = Runner.from_cfg(cfg)
        self.model = runner.model.eval()
        if not hasattr(self.model, 'position_losses'):
            raise UserError(f'{type(self.model).__name__} has no position heads')
        loader = runner.build_dataloader(cfg.test_dataloader)
        batches = list(loader)
        self.images = [image.numpy() for batch in batches for image in batch['inputs']]
        self._batches = [self.model.data_preprocessor(batch) for batch in batches]
        self.classes = [
            int(sample.gt_label) for batch in self._batches for sample in batch['data_samples']
        ]

    @torch.no_grad()
    def accuracies(self, checkpoint: Path) -> dict[str, float]:
        """Position accuracy of a checkpoint in percent, under the keys of the training log."""
        sums: dict[str, float] = {}
        for model, inputs in self._loaded(checkpoint):
            for key, value in model.position_losses(inputs).items():
                if key.endswith('_acc'):
                    sums[key] = sums.get(key, 0.0) + float(value) * len(inputs)
        return {key: value / len(self.images) for key, value in sums.items()}

    @torch.no_grad()
    def predicted(self, checkpoint: Path) -> tuple[np.ndarray, tuple[int, int]]:
        """Predicted position of every patch, by a model with one absolute head.

        Returns:
            tuple[np.ndarray, tuple[int, int]]: Positions in the flattened grid, int of shape
            (images, N), and the grid (H, W).
        """
        found = []
        for model, inputs in self._loaded(checkpoint):
            tokens, grid_shape, _ = model.patch_tokens(inputs)
            found.append(model.pos_head(tokens).argmax(-1).cpu().numpy())
        return np.concatenate(found), grid_shape

    def _loaded(self, checkpoint: Path) -> Iterator[tuple[nn.Module, torch.Tensor]]:
        load_checkpoint(self.model, str(checkpoint), map_location='cpu')
        for batch in self._batches:
            yield self.model, batch['inputs']
