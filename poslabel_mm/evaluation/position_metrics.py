"""MMEngine metrics of positions: what the heads predict, and what a linear read-out finds.

Shape letters: B images, n tokens of an image.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.evaluator import BaseMetric
from torch import Tensor

from poslabel_mm.errors import UserError
from poslabel_mm.evaluation.position_passes import PositionPass, PositionPasses
from poslabel_mm.evaluation.position_readout import PositionReadout
from poslabel_mm.registry import METRICS
from poslabel_mm.tokens import OffsetPredictions, PatchTokens, PlacePredictions
from poslabel_mm.tokens.predictions import rows_and_columns


def place_distances(predictions: PlacePredictions) -> Tensor:
    """How far each patch is predicted from its place.

    Args:
        predictions (PlacePredictions): Of B images.

    Returns:
        Tensor: float (B, n), in patches.
    """
    truth = rows_and_columns(predictions.true_places, predictions.grid_shape)
    return (predictions.coordinates - truth).norm(dim=-1)


def place_figures(predictions: PlacePredictions) -> dict[str, Tensor]:
    """How good the predicted places of each image are.

    Args:
        predictions (PlacePredictions): Of B images.

    Returns:
        dict[str, Tensor]: float (B,) each. ``top1``: the percentage of patches whose place is
        predicted. ``distance``: from the predicted to the true place, in patches. ``within1``: the
        percentage of patches that are predicted at most one patch away.
    """
    distance = place_distances(predictions)
    right = predictions.places() == predictions.true_places
    return dict(
        top1=right.float().mean(dim=1) * 100,
        distance=distance.mean(dim=1),
        within1=(distance <= 1).float().mean(dim=1) * 100,
    )


def offset_figures(predictions: OffsetPredictions) -> dict[str, Tensor]:
    """How good the predicted offsets of each image are.

    Args:
        predictions (OffsetPredictions): Of B images.

    Returns:
        dict[str, Tensor]: float (B,) each, in percent of the ordered pairs, those of a patch with
        itself included: ``pairs``, whose row and column offsets are both right, ``rows`` and
        ``columns``, where that one is. Offsets between two patches are rounded.
    """
    right = predictions.offsets.round() == predictions.true_offsets()
    figures = dict(pairs=right.all(dim=-1), rows=right[..., 0], columns=right[..., 1])
    return {name: value.float().mean(dim=(1, 2)) * 100 for name, value in figures.items()}


class PositionMetric(BaseMetric):
    """A metric of what ``PositionMetricsHook`` reads while a model is evaluated.

    With test-time augmentation a patch's place is that in the view, and an image counts with the
    mean over its views.

    Args:
        **kwargs: MMEngine's: ``collect_device``, ``prefix``, ``collect_dir``.

    Attributes:
        reading (PositionPasses, optional): Where to find the passes; the hook's to set.
    """

    default_prefix = 'position'

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.reading: PositionPasses | None = None

    def passes(self) -> list[PositionPass]:
        """The passes of this batch."""
        if self.reading is None:
            raise UserError(
                f'{type(self).__name__} finds no predicted positions: add '
                "default_hooks = dict(positions=dict(type='poslabel_mm.PositionMetricsHook'))"
            )
        return self.reading.passes


class _PredictionMetric(PositionMetric):
    kind: type
    figures: staticmethod

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        of_passes = [
            {
                f'{head}_{name}': value.cpu()
                for head, predictions in one.predictions.items()
                if isinstance(predictions, self.kind)
                for name, value in self.figures(predictions).items()
            }
            for one in self.passes()
        ]
        means = {
            name: torch.stack([figures[name] for figures in of_passes]).mean(0).tolist()
            for name in (of_passes[0] if of_passes else ())
        }
        self.results += [
            {name: values[i] for name, values in means.items()} for i in range(len(data_samples))
        ]

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        return {
            name: sum(result[name] for result in results) / len(results)
            for name in (results[0] if results else ())
        }


@METRICS.register_module()
class PositionAccuracy(_PredictionMetric):
    """How well position heads predict the places of patches.

    For every head that predicts places, such as ``PositionalLabelHead`` ('apl'):
    ``position/apl_top1``, ``position/apl_distance`` and ``position/apl_within1``, as
    :func:`place_figures` has them, averaged over the images.

    Args:
        **kwargs: As of :class:`PositionMetric`.
    """

    kind = PlacePredictions
    figures = staticmethod(place_figures)


@METRICS.register_module()
class OffsetAccuracy(_PredictionMetric):
    """How well position heads predict the offsets of pairs of patches.

    For every head that predicts offsets, such as ``RelativePositionalLabelHead`` ('rpl'):
    ``position/rpl_pairs``, ``position/rpl_rows`` and ``position/rpl_columns``, as
    :func:`offset_figures` has them, averaged over the images.

    Args:
        **kwargs: As of :class:`PositionMetric`.
    """

    kind = OffsetPredictions
    figures = staticmethod(offset_figures)


@METRICS.register_module()
class PositionR2(PositionMetric):
    """R² of a linear read-out of rows and columns from the patch tokens that the heads read.

    Ridge regression in float64, fitted on every other image and scored on the rest, and the other
    way round: ``position/r2`` is the mean of the two. ``position/r2_permuted`` is the control, for
    which the coordinates of each image are permuted: it is 0 but for chance. A model needs no
    position heads for it.

    Args:
        num_images (int): At most so many of the images, evenly spaced. Defaults to 5000.
        **kwargs: As of :class:`PositionMetric`.
    """

    def __init__(self, num_images: int = 5000, **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_images = num_images
        self.size = 0  # of the dataset; the hook's to set
        self._start()

    def _start(self) -> None:
        self._seen = 0
        self._folds = PositionReadout(), PositionReadout()

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        passes = self.passes()
        B = len(data_samples)
        # Processes take turns, as MMEngine's samplers hand out the images and its metrics collect
        # them. What a sampler repeats at the end, for all to have as many, is left out.
        numbers = (self._seen + torch.arange(B)) * get_world_size() + get_rank()
        self._seen += B
        drawn = min(self.num_images, self.size)
        turn = numbers * drawn // self.size
        used = (numbers < self.size) & ((numbers + 1) * drawn // self.size > turn)
        for fold, readout in enumerate(self._folds):
            chosen = (used & (turn % 2 == fold)).nonzero().flatten()
            for tokens, grid_shape, indices, *_ in (one.patch_tokens for one in passes):
                here = chosen.to(tokens.device)
                indices = None if indices is None else indices[here]
                readout.add(PatchTokens(tokens[here], grid_shape, indices), numbers[chosen])

    def evaluate(self, size: int) -> dict[str, float]:
        one, other = self._folds
        self._start()
        for readout in (one, other):
            readout.gather()
        if not len(one) or not len(other):  # a single image
            return {}
        figures = zip(('r2', 'r2_permuted'), one.r2(other), other.r2(one))
        return {f'{self.prefix}/{name}': (a + b) / 2 for name, a, b in figures}

    def compute_metrics(self, results: list) -> dict:
        raise NotImplementedError  # sums are gathered, not results
