"""What the position heads of a saved model predict on a dataset's images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.evaluation.extraction import preprocess
from poslabel_mm.launch.saved_model import load_saved_model


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
    """

    def __init__(self, cfg: Config) -> None:
        self._cfg = cfg
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        self._batches = list(Runner.build_dataloader(cfg.test_dataloader))
        self.images = [image.numpy() for batch in self._batches for image in batch['inputs']]
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
            tokens, grid_shape, *_ = model.patch_tokens(inputs)
            found.append(model.pos_head(tokens).argmax(-1).cpu().numpy())
        return np.concatenate(found), grid_shape

    def _loaded(self, checkpoint: Path) -> Iterator[tuple[nn.Module, torch.Tensor]]:
        model, _ = load_saved_model(self._cfg, str(checkpoint))
        if not hasattr(model, 'position_losses'):
            raise UserError(f'{type(model).__name__} has no position heads')
        for batch in self._batches:
            yield model, preprocess(model, batch['inputs'], batch['data_samples'])[0]
