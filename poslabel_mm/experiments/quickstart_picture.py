"""The position accuracies of the quickstart's models, and its picture."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from mmengine.config import Config

from poslabel_mm.experiments.figures import epoch_means
from poslabel_mm.experiments.progress import POSITION_ACCURACIES
from poslabel_mm.experiments.run import Run
from poslabel_mm.experiments.selection import Selection

PICTURED_DIGITS = (3, 6)
PICTURED_PARTS = (0, 0.2, 0.3, 1)  # of the epochs


def position_accuracies(runs: Sequence[Run]) -> dict[Run, dict[str, float]]:
    """Test the position accuracy of every run that has position heads.

    Returns:
        dict[Run, dict[str, float]]: The accuracy of every head, in percent of the patches.
    """
    from poslabel_mm.visualization.saved_models import SavedModels

    return {
        run: SavedModels(dumped_config(run)).accuracies(run.checkpoint)
        for run in runs
        if 'pos_head' in run.cfg.model
    }


def dumped_config(run: Run) -> Config:
    """The config that the training left in its folder, for a test of its models."""
    cfg = Config.fromfile(run.dumped)
    cfg.work_dir = str(run.folder / 'positions')
    return cfg


def draw_picture(selection: Selection, pictured: Run, seeds: Sequence[int], path: Path) -> None:
    """Draw the predicted positions of one run over its epochs, and the curves of all rows.

    Args:
        selection (Selection): The rows.
        pictured (Run): The run whose predictions are drawn.
        seeds (Sequence[int]): The seeds of the curves.
        path (Path): The picture.
    """
    import numpy as np

    from poslabel_mm.visualization.position_map import Curves, Snapshot, draw_training
    from poslabel_mm.visualization.saved_models import SavedModels

    models = SavedModels(dumped_config(pictured))
    chosen = [models.classes.index(digit) for digit in PICTURED_DIGITS]
    epochs = pictured.cfg.train_cfg.max_epochs
    snapshots = []
    for epoch in sorted({max(1, round(epochs * part)) for part in PICTURED_PARTS}):
        checkpoint = pictured.folder / f'epoch_{epoch}.pth'
        if not checkpoint.is_file():
            continue  # trained when another seed was the pictured one
        predicted, grid_shape = models.predicted(checkpoint)
        correct = predicted == np.arange(predicted.shape[1])
        snapshots.append(Snapshot(epoch, predicted[chosen], 100 * correct.mean()))
    curves = []
    for _, row in selection.rows:
        runs = [selection.row_run(row, seed) for seed in seeds]
        losses = [list(epoch_means(run, 'loss_cls').values()) for run in runs]
        positions = [
            list(epoch_means(run, key).values())
            for run in runs
            for key in POSITION_ACCURACIES
            if epoch_means(run, key)
        ]
        curves.append(Curves(row.name, np.array(losses), np.array(positions)))
    images = np.stack([models.images[i][0] for i in chosen])
    draw_training(images, grid_shape, snapshots, curves, path)


@contextmanager
def without_output() -> Iterator[None]:
    """A context that keeps what MMEngine prints, and its warnings, off the screen."""
    with open(os.devnull, 'w') as out, redirect_stdout(out), redirect_stderr(out):
        yield
